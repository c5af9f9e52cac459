/** The module, and how numbers, bytes and errors cross its border. */
import type { VmExit } from '../binding.cjs';
import type { DeviceTable } from '../device.js';
import { SquibError, toSquibError } from '../errors.js';

/** What every engine has; the DOM's types would bring the rest of a browser along. */
declare namespace WebAssembly {
  class Instance {
    constructor(module: object, imports: object);
    readonly exports: object;
  }
}

/** The module's exports; crates/squib-web/src/exports.rs says what each does. */
export interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  squib_transfer(length: number): number;
  squib_transfer_length(): number;
  squib_exit_kinds(): void;
  squib_create(memory: bigint, irqchip: number): number;
  squib_close(vm: number): void;
  squib_record(vm: number): number;
  squib_words(vm: number): number;
  squib_memory_regions(vm: number): number;
  squib_memory_read(vm: number, address: bigint, length: number): number;
  squib_memory_write(vm: number, address: bigint): number;
  squib_memory_fill(vm: number, address: bigint, byte: number, length: bigint): number;
  squib_map(vm: number, ports: number, base: bigint, length: bigint, device: number): number;
  squib_unmap(vm: number, ports: number, base: bigint): number;
  squib_map_doorbell(
    vm: number,
    ports: number,
    address: bigint,
    width: number,
    any: number,
    value: bigint,
  ): number;
  squib_unmap_doorbell(vm: number, doorbell: number): number;
  squib_set_irq_line(vm: number, gsi: number, level: number): number;
  squib_signal_msi(vm: number, address: bigint, data: number): number;
  squib_set_dirty_log(vm: number, enabled: number): number;
  squib_take_dirty_pages(vm: number): number;
  squib_create_vcpu(vm: number, id: number): number;
  squib_boot(vm: number, mode: number, address: bigint): number;
  squib_run(vm: number, kind: number, length: number, value: bigint): number;
  squib_cancel(vm: number): number;
  squib_set_budget(vm: number, instructions: bigint): number;
  squib_instructions(vm: number): number;
  squib_exit_counts(vm: number): number;
  squib_state(vm: number, part: number): number;
  squib_set_state(vm: number, part: number): number;
  squib_msr(vm: number, index: number): number;
  squib_set_msr(vm: number, index: number, value: bigint): number;
  squib_cpuid(vm: number, leaf: number, subleaf: number): number;
  squib_inject_interrupt(vm: number, vector: number): number;
  squib_request_interrupt_window(vm: number, wanted: number): number;
  squib_inject_nmi(vm: number): number;
}

const RECORD_WORDS = 8;

/** Where random numbers are made. */
const dice = new BigUint64Array(1);

/** What the guests of a VM reach in JavaScript. */
export interface Reached {
  readonly devices: DeviceTable;
  /** Called when the guest rings the doorbell of this number, while the guest waits. */
  readonly ring: (doorbell: number) => void;
}

/** An instance of the module. */
export class WasmModule {
  readonly #exports: Exports;
  /** By the address of their VMs' records. */
  readonly #reached = new Map<number, Reached>();
  /** The kinds of exit, by their numbers. */
  readonly kinds: readonly VmExit['kind'][];

  constructor(compiled: object) {
    const imports = {
      squib: {
        access: (record: number) => this.#access(record),
        ring: (record: number, doorbell: number) => this.#reached.get(record)?.ring(doorbell),
        now: () => performance.now(),
        date: () => Date.now(),
        random: () => crypto.getRandomValues(dice)[0],
      },
    };
    this.#exports = new WebAssembly.Instance(compiled, imports).exports as unknown as Exports;
    this.#exports.squib_exit_kinds();
    this.kinds = this.text().split(',') as VmExit['kind'][];
  }

  /** Calls an export, with `input` in the transfer area. */
  call(f: (exports: Exports) => number, input?: Uint8Array): number {
    const exports = this.#exports;
    let result: number;
    try {
      if (input !== undefined) this.bytes(exports.squib_transfer(input.length), input.length).set(input);
      result = f(exports);
    } catch (error) {
      // A trap: the module's own defect, as nothing else in it throws.
      throw new SquibError('ERR_INTERNAL', 'the WebAssembly module trapped', { cause: error });
    }
    if (result >= 0) return result;
    const [code, message] = this.text().split('\0');
    throw toSquibError({ code, message });
  }

  /** A copy of the transfer area. */
  output(): Uint8Array {
    const length = this.#exports.squib_transfer_length();
    return this.bytes(this.#exports.squib_transfer(length), length).slice();
  }

  /** The transfer area as 64-bit words. */
  words(): BigUint64Array {
    return new BigUint64Array(this.output().buffer);
  }

  /** The transfer area as text. */
  text(): string {
    return new TextDecoder().decode(this.output());
  }

  /** Part of the module's memory, until that grows. */
  bytes(address: number, length: number): Uint8Array {
    return new Uint8Array(this.#exports.memory.buffer, address >>> 0, length);
  }

  /** Answers the VM that has the record at this address; gives a function that ends that. */
  connect(record: number, reached: Reached): () => void {
    this.#reached.set(record, reached);
    return () => void this.#reached.delete(record);
  }

  #access(address: number): void {
    const devices = this.#reached.get(address)?.devices;
    if (devices === undefined) return;
    const words = () => new Uint32Array(this.#exports.memory.buffer, address >>> 0, RECORD_WORDS);
    devices.record.set(words());
    devices.dispatch();
    // A device may have made the memory grow, which detaches older views.
    words().set(devices.record);
  }
}
