/**
 * squib in WebAssembly, for browsers and for any engine without addons: the `soft` backend, the same exits, the same
 * devices. See crates/squib-web for the module.
 */
import './dispose.js';
import type { MsrReason, NativeMemory, Registers, SystemEventKind, VmEntry, VmExit } from './binding.cjs';
import type { Device, DeviceRange, DeviceTable } from './device.js';
import { SquibError, toSquibError } from './errors.js';
import { type Buses, DeviceMap, type DeviceMapping } from './mapping.js';
import { Memory } from './memory.js';
import { type Address, byteSize, u64 } from './numbers.js';

/** What every engine has; the DOM's types would bring the rest of a browser along. */
declare namespace WebAssembly {
  class Module {}
  class Instance {
    constructor(module: Module, imports: object);
    readonly exports: object;
  }
  function compile(bytes: Uint8Array): Promise<Module>;
}

/** The module's exports; crates/squib-web/src/exports.rs says what each does. */
interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  squib_transfer(length: number): number;
  squib_transfer_length(): number;
  squib_exit_kinds(): void;
  squib_create(memory: bigint): number;
  squib_close(vm: number): void;
  squib_record(vm: number): number;
  squib_words(vm: number): number;
  squib_memory_regions(vm: number): number;
  squib_memory_read(vm: number, address: bigint, length: number): number;
  squib_memory_write(vm: number, address: bigint): number;
  squib_memory_fill(vm: number, address: bigint, byte: number, length: bigint): number;
  squib_map(vm: number, ports: number, base: bigint, length: bigint, device: number): number;
  squib_unmap(vm: number, ports: number, base: bigint): number;
  squib_create_vcpu(vm: number): number;
  squib_boot(vm: number, mode: number, address: bigint): number;
  squib_run(vm: number, kind: number, length: number, value: bigint): number;
  squib_cancel(vm: number): number;
  squib_set_budget(vm: number, instructions: bigint): number;
  squib_instructions(vm: number): number;
  squib_registers(vm: number): number;
  squib_set_registers(vm: number): number;
}

/** A flat binary: where it goes, and in which mode it is entered at its first byte. */
export interface FlatImage {
  /** Guest-physical address of its first byte. */
  readonly address: Address;
  /** The mode. */
  readonly mode: 'real16' | 'protected32' | 'long64';
}

const MODES = { real16: 16, protected32: 32, long64: 64 } as const;
const RECORD_WORDS = 8;

/** The module, loaded. It holds any number of VMs. */
export class WasmEngine {
  readonly #exports: Exports;
  /** By the address of their records. */
  readonly #devices = new Map<number, DeviceTable>();
  readonly #kinds: readonly VmExit['kind'][];

  private constructor(instantiate: (imports: object) => WebAssembly.Instance) {
    const imports = {
      squib: {
        access: (record: number) => this.#access(record),
        now: () => performance.now(),
        date: () => Date.now(),
      },
    };
    this.#exports = instantiate(imports).exports as unknown as Exports;
    this.#exports.squib_exit_kinds();
    this.#kinds = this.text().split(',') as VmExit['kind'][];
  }

  /** Compiles `module`, the bytes of `squib.wasm`, unless it is compiled already. */
  static async load(module: Uint8Array | WebAssembly.Module): Promise<WasmEngine> {
    const compiled = module instanceof Uint8Array ? await WebAssembly.compile(module) : module;
    return new WasmEngine((imports) => new WebAssembly.Instance(compiled, imports));
  }

  /** Makes a VM without vCPU and devices. */
  createVm({ memory }: { readonly memory: Address | string }): WasmVm {
    const number = this.call((exports) => exports.squib_create(BigInt(byteSize(memory))));
    const devices = new DeviceMap();
    const record = this.call((exports) => exports.squib_record(number));
    this.#devices.set(record, devices.table);
    return new WasmVm(this, number, devices, () => this.#devices.delete(record));
  }

  /** @internal Calls an export, with `input` in the transfer area. */
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

  /** @internal A copy of the transfer area. */
  output(): Uint8Array {
    const length = this.#exports.squib_transfer_length();
    return this.bytes(this.#exports.squib_transfer(length), length).slice();
  }

  /** @internal The transfer area as text. */
  text(): string {
    return new TextDecoder().decode(this.output());
  }

  /** @internal Part of the module's memory, until that grows. */
  bytes(address: number, length: number): Uint8Array {
    return new Uint8Array(this.#exports.memory.buffer, address >>> 0, length);
  }

  /** @internal */
  kind(number: number): VmExit['kind'] {
    return this.#kinds[number] ?? 'unknown';
  }

  #access(address: number): void {
    const devices = this.#devices.get(address);
    if (devices === undefined) return;
    const words = new Uint32Array(this.#exports.memory.buffer, address >>> 0, RECORD_WORDS);
    devices.record.set(words);
    devices.dispatch();
    // A device may have made the memory grow, which detaches the view.
    const answered =
      words.length > 0 ? words : new Uint32Array(this.#exports.memory.buffer, address >>> 0, RECORD_WORDS);
    answered.set(devices.record);
  }
}

/** A VM in WebAssembly, with the memory and the devices of {@link Vm}. */
export class WasmVm implements Disposable {
  readonly #engine: WasmEngine;
  readonly #number: number;
  readonly #devices: DeviceMap;
  readonly #forget: () => void;
  /** Guest RAM. */
  readonly memory: Memory;

  /** @internal */
  constructor(engine: WasmEngine, number: number, devices: DeviceMap, forget: () => void) {
    this.#engine = engine;
    this.#number = number;
    this.#devices = devices;
    this.#forget = forget;
    this.memory = new Memory(new WasmMemory(engine, number), devices.check);
  }

  /** Makes the vCPU; `ERR_VCPU_COUNT` when it exists. */
  createVcpu(): WasmVcpu {
    this.#devices.check();
    this.#engine.call((exports) => exports.squib_create_vcpu(this.#number));
    return new WasmVcpu(this.#engine, this.#number, this.#devices);
  }

  /** Gives a range of ports or addresses to `device`; `ERR_DEVICE_OVERLAP` when part of it is taken or RAM. */
  map(range: DeviceRange, device: Device): DeviceMapping {
    return this.#devices.map(new WasmBuses(this.#engine, this.#number), range, device);
  }

  /** Ends a run under way, and frees the VM. Further calls change nothing; a device may call this while it answers. */
  close(): void {
    if (!this.#devices.close()) return;
    this.#engine.call((exports) => {
      exports.squib_close(this.#number);
      return 0;
    });
    this.#forget();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The vCPU of a {@link WasmVm}. It runs on the thread that calls it; give it a budget to keep a page alive. */
export class WasmVcpu {
  readonly #engine: WasmEngine;
  readonly #vm: number;
  readonly #devices: DeviceMap;

  /** @internal */
  constructor(engine: WasmEngine, vm: number, devices: DeviceMap) {
    this.#engine = engine;
    this.#vm = vm;
    this.#devices = devices;
  }

  /** Loads a flat binary, or else a kernel by its headers, and puts the vCPU at its first instruction. */
  boot(image: Uint8Array, flat?: FlatImage): void {
    const address = flat ? u64(flat.address, 'an address') : 0n;
    this.#call((exports) => exports.squib_boot(this.#vm, flat ? MODES[flat.mode] : 0, address), image);
  }

  /** Answers the last exit and runs the guest until the next that no device claims. */
  run(entry: VmEntry = { kind: 'resume' }): VmExit {
    const [kind, length, value] = encode(entry);
    let exit: number;
    try {
      exit = this.#call((exports) => exports.squib_run(this.#vm, kind, length, value));
    } catch (error) {
      const plain = toSquibError(error);
      throw (plain.code === 'ERR_DEVICE_FAILED' && this.#devices.table.takeFailure(0)) || plain;
    }
    this.#devices.check();
    const text = this.#engine.text();
    const words = this.#engine.bytes(
      this.#call((exports) => exports.squib_words(this.#vm)),
      64,
    );
    return decode(this.#engine.kind(exit), words, text);
  }

  /** Makes the run under way return `cancelled` soon; without one it counts for the next. */
  cancel(): void {
    this.#call((exports) => exports.squib_cancel(this.#vm));
  }

  /** Makes runs return `budgetSpent` after about this many further instructions; `undefined` takes the limit away. */
  setBudget(instructions: Address | undefined): void {
    const budget = instructions === undefined ? 0n : u64(instructions, 'a budget');
    this.#call((exports) => exports.squib_set_budget(this.#vm, budget));
  }

  /** Guest instructions executed so far. */
  get instructions(): bigint {
    this.#call((exports) => exports.squib_instructions(this.#vm));
    return word(this.#engine.output(), 0);
  }

  /** General-purpose registers, instruction pointer and flags. A copy: assign it to change them. */
  get registers(): Registers {
    this.#call((exports) => exports.squib_registers(this.#vm));
    const bytes = this.#engine.output();
    return Object.fromEntries(REGISTERS.map((name, i) => [name, word(bytes, i)])) as unknown as Registers;
  }
  set registers(registers: Registers) {
    const words = BigUint64Array.from(REGISTERS, (name) => u64(registers[name], name));
    this.#call((exports) => exports.squib_set_registers(this.#vm), new Uint8Array(words.buffer));
  }

  #call(f: (exports: Exports) => number, input?: Uint8Array): number {
    this.#devices.check();
    return this.#engine.call(f, input);
  }
}

/** The buses behind the module's exports. */
class WasmBuses implements Buses {
  constructor(
    private readonly engine: WasmEngine,
    private readonly vm: number,
  ) {}

  mapPorts(name: string, base: number, length: number, device: number): void {
    this.#map(1, name, base, length, device);
  }

  mapMmio(name: string, base: number, length: number, device: number): void {
    this.#map(0, name, base, length, device);
  }

  unmapPorts(base: number): void {
    this.engine.call((exports) => exports.squib_unmap(this.vm, 1, BigInt(base)));
  }

  unmapMmio(base: number): void {
    this.engine.call((exports) => exports.squib_unmap(this.vm, 0, BigInt(base)));
  }

  #map(ports: number, name: string, base: number, length: number, device: number): void {
    const text = new TextEncoder().encode(name);
    this.engine.call(
      (exports) => exports.squib_map(this.vm, ports, BigInt(base), BigInt(length), device),
      text,
    );
  }
}

/** Guest RAM behind the module's exports: copied in and out, as the module's memory moves when it grows. */
class WasmMemory implements NativeMemory {
  constructor(
    private readonly engine: WasmEngine,
    private readonly vm: number,
  ) {}

  regions(): { address: number; length: number }[] {
    this.engine.call((exports) => exports.squib_memory_regions(this.vm));
    const bytes = this.engine.output();
    return Array.from({ length: bytes.length / 16 }, (_, i) => ({
      address: Number(word(bytes, 2 * i)),
      length: Number(word(bytes, 2 * i + 1)),
    }));
  }

  windows(): [] {
    return [];
  }

  /** The module frees the RAM with the VM. */
  close(): void {}

  read(address: number, length: number): Uint8Array {
    this.engine.call((exports) => exports.squib_memory_read(this.vm, BigInt(address), length));
    return this.engine.output();
  }

  write(address: number, data: Uint8Array): void {
    this.engine.call((exports) => exports.squib_memory_write(this.vm, BigInt(address)), data);
  }

  fill(address: number, byte: number, length: number): void {
    this.engine.call((exports) => exports.squib_memory_fill(this.vm, BigInt(address), byte, BigInt(length)));
  }

  setNumber(address: number, width: number, value: number): void {
    this.write(address, new Uint8Array(new Uint32Array([value]).buffer, 0, width));
  }

  setBigint(address: number, value: bigint): void {
    this.write(address, new Uint8Array(new BigUint64Array([value]).buffer));
  }
}

/** In the order of their encoding; so the module has them. */
const REGISTERS = [
  ...(['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const),
  ...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15', 'rip', 'rflags'] as const),
];

// Both in the order of crates/squib-web/src/exit.rs.
const MSR_REASONS: readonly MsrReason[] = ['unknown', 'invalid', 'filter'];
const SYSTEM_EVENTS: readonly SystemEventKind[] = [
  'shutdown',
  'reset',
  'crash',
  'wakeup',
  'suspend',
  'other',
];

function word(bytes: Uint8Array, index: number): bigint {
  return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(8 * index, true);
}

/** An entry as number, length of its data, and value. */
function encode(entry: VmEntry): [number, number, bigint] {
  switch (entry.kind) {
    case 'resume':
      return [0, 0, 0n];
    case 'read':
      return [1, entry.data.length, value(entry.data)];
    case 'hypercall':
      return [2, 0, u64(entry.value, 'the result of a hypercall')];
    case 'msr':
      return [3, 0, u64(entry.value, 'an MSR')];
    case 'msrFault':
      return [4, 0, 0n];
    case 'complete':
      return [5, entry.data?.length ?? 0, value(entry.data ?? new Uint8Array())];
  }
}

function value(data: Uint8Array): bigint {
  return data.subarray(0, 8).reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}

function decode(kind: VmExit['kind'], bytes: Uint8Array, text: string): VmExit {
  const at = (index: number) => word(bytes, index);
  const number = (index: number) => Number(at(index));
  // Word 3 holds the data of an access.
  const access = () => ({ write: at(1) !== 0n, data: bytes.slice(24, 24 + number(2)) });
  switch (kind) {
    case 'mmio':
      return { kind, addr: at(0), ...access() };
    case 'pio':
      return { kind, port: number(0), ...access() };
    case 'hypercall':
      return { kind, func: at(0), args: [1, 2, 3, 4, 5, 6].map(at) };
    case 'debug':
      return { kind, pc: at(0), syndrome: at(1) };
    case 'internalError':
      return { kind, message: text };
    case 'msrRead':
      return { kind, index: number(0), reason: MSR_REASONS[number(2)] ?? 'unknown' };
    case 'msrWrite':
      return { kind, index: number(0), value: at(1), reason: MSR_REASONS[number(2)] ?? 'unknown' };
    case 'eoi':
      return { kind, vector: number(0) };
    case 'memoryFault':
      return { kind, addr: at(0), size: at(1), flags: at(2) };
    case 'systemEvent': {
      const data = Array.from({ length: number(2) }, (_, i) => at(3 + i));
      return { kind, event: SYSTEM_EVENTS[number(0)] ?? 'other', number: number(1), data };
    }
    case 'failedEntry':
      return { kind, reason: at(0), cpu: number(1) };
    case 'unsupported':
      return { kind, what: text, rip: at(0) };
    case 'unknown':
      return { kind, reason: number(0) };
    default:
      return { kind };
  }
}
