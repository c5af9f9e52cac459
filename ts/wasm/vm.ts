/** A VM behind the module's exports. */
import type { DoorbellParts, IrqchipKind, NativeMemory, NativeVcpu, NativeVm } from '../binding.cjs';
import type { DeviceTable } from '../device.js';
import type { Ring } from '../doorbell.js';
import { invalid, SquibError } from '../errors.js';
import { WasmMemory } from './memory.js';
import type { Exports, WasmModule } from './module.js';
import { WasmVcpu } from './vcpu.js';

const IRQCHIPS: readonly IrqchipKind[] = ['none', 'split', 'full'];

/** Calls of exports for one VM. */
export class VmCall {
  readonly module: WasmModule;
  readonly #number: number;
  #closed = false;
  /** The vCPU runs in slices, and this may be between two of them. The module itself knows when it is within one. */
  running = false;

  constructor(module: WasmModule, number: number) {
    this.module = module;
    this.#number = number;
  }

  /** Whether it has been closed; then its number may be another's. */
  get closed(): boolean {
    return this.#closed;
  }

  /** @throws ERR_VCPU_BUSY while the vCPU runs */
  checkIdle(): void {
    if (this.running) throw new SquibError('ERR_VCPU_BUSY', 'the vCPU is running; cancel it first');
  }

  /** Calls an export for this VM, with `input` in the transfer area. */
  call(f: (exports: Exports, vm: number) => number, input?: Uint8Array): number {
    if (this.#closed) throw new SquibError('ERR_CLOSED', 'the VM has been closed');
    return this.module.call((exports) => f(exports, this.#number), input);
  }

  close(): void {
    this.call((exports, vm) => {
      exports.squib_close(vm);
      return 0;
    });
    this.#closed = true;
  }
}

/** Rings on their way to the event loop. */
class WasmDoorbell {
  readonly #heard: Ring;
  #waiting = 0;

  constructor(heard: Ring) {
    this.#heard = heard;
  }

  ring(): void {
    this.#waiting += 1;
    if (this.#waiting === 1) setTimeout(() => this.#tell());
  }

  #tell(): void {
    const rings = this.#waiting;
    this.#waiting = 0;
    this.#heard(rings);
  }
}

/** The VM; {@link BaseVm} is its face. */
export class WasmNativeVm implements NativeVm {
  readonly #vm: VmCall;
  readonly #doorbells = new Map<number, WasmDoorbell>();
  readonly #disconnect: () => void;

  /** Makes one with `memory` bytes of RAM and a vCPU of the model `cpu`, whose devices are those of `devices`. */
  constructor(module: WasmModule, memory: number, irqchip: IrqchipKind, cpu: string, devices: DeviceTable) {
    const kind = IRQCHIPS.indexOf(irqchip);
    if (kind < 0)
      invalid(`there is no irqchip ${JSON.stringify(irqchip)}; use one of ${IRQCHIPS.join(', ')}`);
    const model = new TextEncoder().encode(cpu);
    const number = module.call((exports) => exports.squib_create(BigInt(memory), kind), model);
    this.#vm = new VmCall(module, number);
    this.#disconnect = module.connect(
      this.#vm.call((exports, vm) => exports.squib_record(vm)),
      { devices, ring: (doorbell) => this.#doorbells.get(doorbell)?.ring() },
    );
  }

  memory(): NativeMemory {
    return new WasmMemory(this.#vm);
  }

  createVcpu(id: number): NativeVcpu {
    this.#vm.call((exports, vm) => exports.squib_create_vcpu(vm, id));
    return new WasmVcpu(this.#vm, id);
  }

  /** Loads the image and puts the vCPU at its first instruction. */
  boot(image: Uint8Array, mode: number, address: bigint): void {
    this.#vm.checkIdle();
    this.#vm.call((exports, vm) => exports.squib_boot(vm, mode, address), image);
  }

  mapPorts(name: string, base: number, length: number, device: number): void {
    this.#map(1, name, base, length, device);
  }

  mapMmio(name: string, base: number, length: number, device: number): void {
    this.#map(0, name, base, length, device);
  }

  #map(ports: number, name: string, base: number, length: number, device: number): void {
    const text = new TextEncoder().encode(name);
    this.#vm.call((exports, vm) => exports.squib_map(vm, ports, BigInt(base), BigInt(length), device), text);
  }

  unmapPorts(base: number): void {
    this.#vm.call((exports, vm) => exports.squib_unmap(vm, 1, BigInt(base)));
  }

  unmapMmio(base: number): void {
    this.#vm.call((exports, vm) => exports.squib_unmap(vm, 0, BigInt(base)));
  }

  mapDoorbell({ name, port, base, length, value }: DoorbellParts, heard: Ring): number {
    const [ports, any] = [Number(port), Number(value === undefined)];
    const doorbell = this.#vm.call(
      (exports, vm) => exports.squib_map_doorbell(vm, ports, BigInt(base), length, any, value ?? 0n),
      new TextEncoder().encode(name),
    );
    this.#doorbells.set(doorbell, new WasmDoorbell(heard));
    return doorbell;
  }

  unmapDoorbell(doorbell: number): void {
    this.#vm.call((exports, vm) => exports.squib_unmap_doorbell(vm, doorbell));
    this.#doorbells.delete(doorbell);
  }

  setIrqLine(gsi: number, level: boolean): void {
    if (typeof level !== 'boolean') invalid('the level of an interrupt line is true or false');
    this.#vm.call((exports, vm) => exports.squib_set_irq_line(vm, gsi, Number(level)));
  }

  signalMsi(address: number, data: number): void {
    this.#vm.call((exports, vm) => exports.squib_signal_msi(vm, BigInt(address), data));
  }

  setDirtyLog(enabled: boolean): void {
    this.#vm.call((exports, vm) => exports.squib_set_dirty_log(vm, Number(enabled)));
  }

  takeDirtyPages(): number[] {
    this.#vm.call((exports, vm) => exports.squib_take_dirty_pages(vm));
    return Array.from(this.#vm.module.words(), Number);
  }

  close(): void {
    this.#vm.close();
    this.#disconnect();
  }
}
