/** A virtual processor. */
import { type Address, object, u32, u64, whole } from './arguments.js';
import { Arm64State } from './arm64.js';
import type {
  CpuidResult,
  DebugRegisters,
  ExitCount,
  NativeVcpu,
  PendingEvents,
  Registers,
  SystemRegisters,
  VmEntry,
  VmExit,
} from './binding.cjs';
import type { DeviceTable } from './device.js';
import { guard, SquibError, toSquibError } from './errors.js';

export type { CpuidResult, DebugRegisters, PendingEvents, Registers, SystemRegisters };

/** Options of {@link Vcpu.runAsync}. */
export interface RunOptions {
  /** The answer to the last exit; without one, `{ kind: 'resume' }`. */
  readonly entry?: VmEntry | undefined;
  /** Ends the run: it then rejects with `ERR_ABORTED`, unless another exit came first. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A vCPU of a {@link Vm}. It is run by one caller at a time: while it runs, everything but {@link Vcpu.cancel} and the two
 * counters, {@link Vcpu.instructions} and {@link Vcpu.exitCounts}, is `ERR_VCPU_BUSY`. After the VM was closed, everything is
 * `ERR_CLOSED` but `cancel`, which then has nothing to do.
 *
 * Its registers are x86's, and those of an aarch64 vCPU are in {@link Vcpu.arm64}; those of the other architecture are
 * `ERR_UNSUPPORTED`. Which one it is, is in the backend's capabilities.
 */
export class Vcpu {
  readonly #native: NativeVcpu;
  readonly #devices: DeviceTable;
  /** Its number: on x86 its local APIC number, on aarch64 part of its MPIDR_EL1. */
  readonly id: number;

  /** @internal */
  constructor(native: NativeVcpu, devices: DeviceTable) {
    this.#native = native;
    this.#devices = devices;
    this.id = native.id;
  }

  /**
   * Answers the last exit and runs the guest on this thread, until an exit that no device claims. Devices are called
   * directly; the event loop stands still meanwhile.
   *
   * @throws DeviceError when a device failed: its access is completed then, a read with all ones, and the vCPU can run on.
   */
  run(entry?: VmEntry): VmExit {
    try {
      return this.#native.run(entry);
    } catch (error) {
      throw this.#failure(error);
    }
  }

  /**
   * The same on a thread of its own. Devices are called from the event loop, which stays free: the guest waits for it, not
   * it for the guest. The process stays alive until the run ends.
   */
  async runAsync(options: RunOptions = {}): Promise<VmExit> {
    const { entry, signal } = object(options, 'the options');
    if (signal?.aborted) throw aborted(signal);
    const cancel = () => this.#native.cancel();
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      const end = await guard(() => this.#native.runAsync(entry));
      if ('code' in end) throw this.#failure(end);
      if (end.kind === 'cancelled' && signal?.aborted) throw aborted(signal);
      return end;
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  /**
   * Makes the run under way return `cancelled` soon, also from guest code that loops for ever. Without a run under way it
   * counts for the next one; several calls count once.
   */
  cancel(): void {
    guard(() => this.#native.cancel());
  }

  /** Its registers and power state on aarch64; `ERR_UNSUPPORTED` on x86. */
  get arm64(): Arm64State {
    return new Arm64State(guard(() => this.#native.arm64()));
  }

  /**
   * General-purpose registers, instruction pointer and flags. A copy: assign it to change them. A value that is no bigint of
   * 64 bits is `ERR_INVALID_ARGUMENT`, and then nothing is set.
   */
  get registers(): Registers {
    return guard(() => this.#native.registers());
  }
  set registers(registers: Registers) {
    guard(() => this.#native.setRegisters(registers));
  }

  /**
   * Segments, descriptor tables and control registers. A copy: assign it to change them. A state that no x86 processor can
   * be in (paging without protection, say) is `ERR_INVALID_ARGUMENT`, and then nothing is set.
   */
  get systemRegisters(): SystemRegisters {
    return guard(() => this.#native.systemRegisters());
  }
  set systemRegisters(registers: SystemRegisters) {
    guard(() => this.#native.setSystemRegisters(registers));
  }

  /** DR0–DR3, DR6 and DR7. A copy: assign it to change them. */
  get debugRegisters(): DebugRegisters {
    return guard(() => this.#native.debugRegisters());
  }
  set debugRegisters(registers: DebugRegisters) {
    guard(() => this.#native.setDebugRegisters(registers));
  }

  /**
   * x87, SSE and further state in the standard XSAVE format (Intel SDM vol. 1, 13.4), at least 576 bytes. An area that XRSTOR
   * would refuse is `ERR_INVALID_ARGUMENT`.
   */
  get xsave(): Uint8Array {
    return guard(() => this.#native.xsave());
  }
  set xsave(area: Uint8Array) {
    guard(() => this.#native.setXsave(area));
  }

  /** Extended control register 0. A value that XSETBV would refuse is `ERR_INVALID_ARGUMENT`. */
  get xcr0(): bigint {
    return guard(() => this.#native.xcr0());
  }
  set xcr0(value: Address) {
    const word = u64(value, 'XCR0');
    guard(() => this.#native.setXcr0(word));
  }

  /** Exceptions and interrupts on their way into the vCPU. A copy: assign it to change them. */
  get pendingEvents(): PendingEvents {
    return guard(() => this.#native.pendingEvents());
  }
  set pendingEvents(events: PendingEvents) {
    guard(() => this.#native.setPendingEvents(events));
  }

  /** A model-specific register; `ERR_REGISTER` when there is none of that number. */
  msr(index: number): bigint {
    const number = u32(index, 'an MSR number');
    return guard(() => this.#native.msr(number));
  }

  /** Sets a model-specific register; `ERR_REGISTER` when there is none or it refuses the value. */
  setMsr(index: number, value: Address): void {
    const number = u32(index, 'an MSR number');
    const word = u64(value, 'an MSR');
    guard(() => this.#native.setMsr(number, word));
  }

  /** The numbers of the MSRs that make up this vCPU's state. */
  get msrIndices(): number[] {
    return guard(() => this.#native.msrIndices());
  }

  /** What CPUID says, as the guest would see it now. */
  cpuid(leaf: number, subleaf = 0): CpuidResult {
    const [eax, ecx] = [u32(leaf, 'a leaf'), u32(subleaf, 'a subleaf')];
    return guard(() => this.#native.cpuid(eax, ecx));
  }

  /**
   * Makes runs return `budgetSpent` after about this many further instructions, up to 2^64 - 1; `undefined` takes the limit
   * away. `ERR_UNSUPPORTED` where the backend has no budgets; see its capabilities.
   */
  setBudget(instructions: Address | undefined): void {
    const budget = instructions === undefined ? undefined : u64(instructions, 'a budget');
    guard(() => this.#native.setBudget(budget));
  }

  /** Guest instructions executed up to the end of the last run, where the backend counts them. */
  get instructions(): bigint | undefined {
    return guard(() => this.#native.instructions()) ?? undefined;
  }

  /** Exits so far by kind, those that devices answered included. */
  get exitCounts(): Partial<Record<VmExit['kind'], number>> {
    const counts: ExitCount[] = guard(() => this.#native.exitCounts());
    return Object.fromEntries(counts.map(({ kind, count }) => [kind, count]));
  }

  /**
   * Delivers external interrupt `vector` (0–255) at the next entry; `ERR_UNSUPPORTED` where the VM has interrupt controllers,
   * `ERR_VCPU_BUSY` when the guest cannot take one now: see {@link Vcpu.requestInterruptWindow}. Always `ERR_UNSUPPORTED` on
   * aarch64.
   */
  injectInterrupt(vector: number): void {
    const number = whole(vector, 'a vector', 'ERR_INVALID_ARGUMENT', 255);
    guard(() => this.#native.injectInterrupt(number));
  }

  /** Makes runs return `interruptWindow` once the guest can take an interrupt. */
  requestInterruptWindow(wanted: boolean): void {
    guard(() => this.#native.requestInterruptWindow(wanted));
  }

  /** Raises a non-maskable interrupt; `ERR_UNSUPPORTED` on aarch64, which has none. */
  injectNmi(): void {
    guard(() => this.#native.injectNmi());
  }

  #failure(error: unknown): SquibError {
    const plain = toSquibError(error);
    return (plain.code === 'ERR_DEVICE_FAILED' && this.#devices.takeFailure(this.id)) || plain;
  }
}

function aborted(signal: AbortSignal): SquibError {
  return new SquibError('ERR_ABORTED', 'the run was aborted', { cause: signal.reason });
}
