/**
 * squib in WebAssembly, for browsers and for any engine without addons: the `soft` backend behind the API of {@link Vm}, with
 * the same exits, answers, devices and errors.
 *
 * The module is the file `squib/squib.wasm` of this package.
 *
 * @example
 * const engine = await WasmEngine.load(await fetch('squib.wasm').then((file) => file.arrayBuffer()));
 * const vm = engine.createVm({ memory: '64K' });
 *
 * @packageDocumentation
 */
import './dispose.js';
import { type Address, byteArray, byteSize, object, u64 } from './arguments.js';
import { BaseVm, type BaseVmOptions } from './base-vm.js';
import { cpuModel } from './cpu-model.js';
import { invalid } from './errors.js';
import { DeviceMap } from './mapping.js';
import { WasmModule } from './wasm/module.js';
import { WasmNativeVm } from './wasm/vm.js';

export type { Address } from './arguments.js';
export type { BaseVm, BaseVmOptions } from './base-vm.js';
export type { CpuModel } from './cpu-model.js';
export type { Device, DeviceRange, MmioRange, PioRange } from './device.js';
export type { DoorbellRegister, Ring } from './doorbell.js';
export { DeviceError, ERROR_CODES, type ErrorCode, SquibError } from './errors.js';
export {
  assertNever,
  type IrqchipKind,
  type MsrReason,
  type SystemEventKind,
  type VmEntry,
  type VmExit,
} from './exits.js';
export type { DeviceMapping } from './mapping.js';
export type { Memory, MemoryRegion } from './memory.js';
export type {
  CpuidResult,
  DebugRegisters,
  PendingEvents,
  Registers,
  RunOptions,
  SystemRegisters,
  Vcpu,
} from './vcpu.js';
export type { GuestView } from './view.js';

/** What every engine has; the DOM's types would bring the rest of a browser along. */
declare namespace WebAssembly {
  function compile(bytes: Uint8Array | ArrayBuffer): Promise<object>;
}

/** A flat binary: where it goes, and in which mode it is entered at its first byte. */
export interface FlatImage {
  /** Guest-physical address of its first byte. */
  readonly address: Address;
  /** The mode. */
  readonly mode: 'real16' | 'protected32' | 'long64';
}

const MODES = { real16: 16, protected32: 32, long64: 64 } as const;

/** The module, ready. It holds any number of VMs. */
export class WasmEngine {
  readonly #module: WasmModule;

  /** An instance of `module`, a `WebAssembly.Module` compiled from `squib.wasm`. */
  constructor(module: object) {
    this.#module = new WasmModule(module);
  }

  /** Compiles the bytes of `squib.wasm`. */
  static async load(bytes: Uint8Array | ArrayBuffer): Promise<WasmEngine> {
    return new WasmEngine(await WebAssembly.compile(bytes));
  }

  /**
   * Makes a VM without vCPU and devices.
   *
   * @throws ERR_MEMORY_SIZE, ERR_OUT_OF_MEMORY, ERR_UNSUPPORTED, ERR_INVALID_ARGUMENT
   */
  createVm(options: BaseVmOptions): WasmVm {
    const { memory, irqchip = 'none', cpu = 'v1' } = object(options, 'the options');
    const devices = new DeviceMap();
    const vm = new WasmNativeVm(this.#module, byteSize(memory), irqchip, cpuModel(cpu), devices.table);
    return new WasmVm(vm, devices);
  }
}

/**
 * A VM in WebAssembly. Its vCPU runs on the thread that calls it: {@link Vcpu.run} until an exit, and {@link Vcpu.runAsync} in
 * slices, between which the event loop gets its turn. Devices are called directly in both.
 */
export class WasmVm extends BaseVm {
  readonly #native: WasmNativeVm;

  /** @internal */
  constructor(native: WasmNativeVm, devices: DeviceMap) {
    super(native, devices, 'soft');
    this.#native = native;
  }

  /**
   * Loads a flat binary, or else a kernel by its headers, and puts the vCPU, which must be there, at its first instruction.
   *
   * @throws ERR_IMAGE_FORMAT, ERR_IMAGE_TOO_LARGE, ERR_MEMORY_RANGE, ERR_VCPU_BUSY, ERR_INVALID_ARGUMENT
   */
  boot(image: Uint8Array, flat?: FlatImage): void {
    const address = flat ? u64(flat.address, 'an address') : 0n;
    const mode = flat ? MODES[flat.mode] : 0;
    if (mode === undefined) invalid(`there is no mode ${JSON.stringify(flat?.mode)}`);
    this.#native.boot(byteArray(image, 'the image'), mode, address);
  }
}
