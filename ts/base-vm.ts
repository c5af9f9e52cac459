/** A virtual machine without a board, whatever runs it. */
import './dispose.js';
import { type Address, u32, whole } from './arguments.js';
import type { BackendKind, IrqchipKind, NativeVm } from './binding.cjs';
import type { CpuModel } from './cpu-model.js';
import type { Device, DeviceRange } from './device.js';
import type { DoorbellRegister, Ring } from './doorbell.js';
import { guard } from './errors.js';
import type { DeviceMap, DeviceMapping } from './mapping.js';
import { Memory } from './memory.js';
import { Vcpu } from './vcpu.js';

/** What a VM is made of. */
export interface BaseVmOptions {
  /** RAM from address 0: bytes, or text such as `256M`. A multiple of 4096. */
  readonly memory: Address | string;
  /**
   * Interrupt controllers inside the backend. Default `none`: interrupts come from {@link Vcpu.injectInterrupt}. On aarch64 `full` is
   * a GIC at 128 MiB, and more RAM below it is `ERR_MEMORY_OVERLAP`.
   */
  readonly irqchip?: IrqchipKind;
  /** Which CPU the guest sees; see {@link CpuModel}. */
  readonly cpu?: CpuModel | undefined;
}

/** What a VM has and does, by the addon ({@link Vm}) and in WebAssembly alike. */
export abstract class BaseVm implements Disposable, AsyncDisposable {
  readonly #native: NativeVm;
  readonly #devices: DeviceMap;
  /** Guest RAM. */
  readonly memory: Memory;
  /** The backend that runs it. */
  readonly backend: BackendKind;

  /** @internal */
  protected constructor(vm: NativeVm, devices: DeviceMap, backend: BackendKind) {
    this.#native = vm;
    this.#devices = devices;
    this.backend = backend;
    const memory = guard(() => vm.memory());
    this.memory = new Memory(memory, devices.check);
  }

  /**
   * Makes the vCPU with local APIC number `id`; `ERR_VCPU_COUNT` when there are too many, or this one exists. On aarch64 the
   * number is part of its MPIDR_EL1, all but number 0 begin {@link Arm64State.powerState} `off`, and with irqchip `full` none can
   * be made any more once one has run.
   */
  createVcpu(id: number): Vcpu {
    const number = u32(id, 'a vCPU number');
    const vcpu = guard(() => this.#native.createVcpu(number));
    return new Vcpu(vcpu, this.#devices.table);
  }

  /** Gives a range of ports or addresses to `device`; `ERR_DEVICE_OVERLAP` when part of it is taken or RAM. */
  map(range: DeviceRange, device: Device): DeviceMapping {
    return this.#devices.map(this.#native, range, device);
  }

  /**
   * Puts a doorbell at a port or address: a register whose write is only an event. The guest does not wait for `ring`, which is called
   * on the event loop, soon, for all rings since the last call. On KVM no ring is an exit. A device may have the range below: it gets
   * reads, and writes that do not ring. See docs/design/callbacks.md.
   *
   * Exceptions of `ring` are uncaught ones, as those of a timer. `ERR_INVALID_ARGUMENT` when there can be no such register,
   * `ERR_DEVICE_OVERLAP` when its writes ring another doorbell too, or it is RAM.
   *
   * @example
   * vm.mapDoorbell({ address: 0xd000_0050, length: 4, value: 1 }, (rings) => queue.kick());
   */
  mapDoorbell(register: DoorbellRegister, ring: Ring): DeviceMapping {
    return this.#devices.mapDoorbell(this.#native, register, ring);
  }

  /**
   * Sets the level of interrupt line `gsi`; `ERR_IRQ_LINE` when there is none. On x86 it is an input of the I/O APIC (0–23 without 2; line 0 is input 2), on
   * aarch64 a shared peripheral interrupt (0–95), whose interrupt number is 32 more.
   */
  setIrqLine(gsi: number, level: boolean): void {
    const line = u32(gsi, 'an interrupt line');
    guard(() => this.#native.setIrqLine(line, level));
  }

  /**
   * Delivers a message-signalled interrupt: a write of `data` (32 bits) to `address` (Intel SDM vol. 3, 11.11); `ERR_IRQ_LINE`
   * without controllers, and always on aarch64.
   */
  signalMsi(address: Address, data: number): void {
    const [to, word] = [whole(address, 'an address'), u32(data, 'the data of an MSI')];
    guard(() => this.#native.signalMsi(to, word));
  }

  /** Starts or stops recording of pages that the guest writes; `ERR_UNSUPPORTED` where the backend cannot tell. */
  setDirtyLog(enabled: boolean): void {
    guard(() => this.#native.setDirtyLog(enabled));
  }

  /** Addresses of the 4 KiB pages that the guest wrote since the last call, ascending. */
  takeDirtyPages(): number[] {
    return guard(() => this.#native.takeDirtyPages());
  }

  /** Whether it has been closed. */
  get closed(): boolean {
    return this.#devices.closed;
  }

  /**
   * Ends all runs, which then end with `ERR_CLOSED`, and lets go of the backend. Any thread's run under way ends soon;
   * further calls change nothing. A device may call this while it answers.
   */
  close(): void {
    if (!this.#devices.close()) return;
    guard(() => this.#native.close());
    this.memory.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
