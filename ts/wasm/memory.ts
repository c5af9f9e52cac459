/** Guest RAM behind the module's exports: copied in and out, as the module's memory moves when it grows. */
import type { NativeMemory } from '../binding.cjs';
import type { VmCall } from './vm.js';

/** The memory of a VM. */
export class WasmMemory implements NativeMemory {
  readonly #vm: VmCall;

  constructor(vm: VmCall) {
    this.#vm = vm;
  }

  regions(): { address: number; length: number }[] {
    this.#vm.call((exports, vm) => exports.squib_memory_regions(vm));
    const numbers = Array.from(this.#vm.module.words(), Number);
    return Array.from({ length: numbers.length / 2 }, (_, i) => ({
      address: numbers[2 * i] as number,
      length: numbers[2 * i + 1] as number,
    }));
  }

  windows(): [] {
    return [];
  }

  /** The module frees the RAM with the VM. */
  close(): void {}

  read(address: number, length: number): Uint8Array {
    this.#vm.call((exports, vm) => exports.squib_memory_read(vm, BigInt(address), length));
    return this.#vm.module.output();
  }

  write(address: number, data: Uint8Array): void {
    this.#vm.call((exports, vm) => exports.squib_memory_write(vm, BigInt(address)), data);
  }

  fill(address: number, byte: number, length: number): void {
    this.#vm.call((exports, vm) => exports.squib_memory_fill(vm, BigInt(address), byte, BigInt(length)));
  }

  setNumber(address: number, width: number, value: number): void {
    this.write(address, new Uint8Array(new Uint32Array([value]).buffer, 0, width));
  }

  setBigint(address: number, value: bigint): void {
    this.write(address, new Uint8Array(new BigUint64Array([value]).buffer));
  }
}
