/** A virtual processor behind the module's exports. */
import type {
  CpuidResult,
  DebugRegisters,
  ErrorValue,
  ExitCount,
  NativeArm64,
  NativeVcpu,
  PendingEvents,
  Registers,
  SystemRegisters,
  VmEntry,
  VmExit,
} from '../binding.cjs';
import { SquibError, toSquibError } from '../errors.js';
import { decode, EXIT_BYTES, encode } from './exit.js';
import type { Exports } from './module.js';
import { debugRegisters, PART, pendingEvents, registers, systemRegisters } from './state.js';
import type { VmCall } from './vm.js';

/** What the module takes for no budget. */
const NO_BUDGET = (1n << 64n) - 1n;

/** Instructions of one turn of the event loop: some ten milliseconds. */
const SLICE = 1_000_000n;

/** The vCPU of a VM; {@link Vcpu} is its face. */
export class WasmVcpu implements NativeVcpu {
  readonly #vm: VmCall;
  readonly id: number;
  /** The count of instructions at which the caller's budget is spent. */
  #end: bigint | undefined;

  constructor(vm: VmCall, id: number) {
    this.#vm = vm;
    this.id = id;
  }

  run(entry?: VmEntry | null): VmExit {
    this.#vm.checkIdle();
    return this.#run(entry);
  }

  async runAsync(entry?: VmEntry | null): Promise<VmExit | ErrorValue> {
    this.#vm.checkIdle();
    this.#vm.running = true;
    try {
      return await this.#runInSlices(entry);
    } catch (error) {
      return toSquibError(error);
    } finally {
      this.#vm.running = false;
    }
  }

  async #runInSlices(entry?: VmEntry | null): Promise<VmExit> {
    for (let next = entry; ; next = undefined) {
      const left = this.#left();
      const slice = left === undefined || left > SLICE ? SLICE : left;
      this.#setBudget(slice);
      let exit: VmExit;
      try {
        exit = this.#run(next);
      } finally {
        if (!this.#vm.closed) this.#setBudget(this.#left());
      }
      if (exit.kind !== 'budgetSpent' || this.#left() === 0n) return exit;
      await new Promise((turn) => setTimeout(turn));
    }
  }

  #run(entry?: VmEntry | null): VmExit {
    const [kind, length, value] = encode(entry ?? { kind: 'resume' });
    const exit = this.#vm.call((exports, vm) => exports.squib_run(vm, kind, length, value));
    // A device may have closed it.
    const { module } = this.#vm;
    const text = module.text();
    const words = module.bytes(
      this.#vm.call((exports, vm) => exports.squib_words(vm)),
      EXIT_BYTES,
    );
    return decode(module.kinds[exit] ?? 'unknown', words, text);
  }

  cancel(): void {
    if (!this.#vm.closed) this.#vm.call((exports, vm) => exports.squib_cancel(vm));
  }

  setBudget(instructions?: bigint | null): void {
    this.#vm.checkIdle();
    this.#end = instructions == null ? undefined : this.instructions() + instructions;
    this.#setBudget(instructions ?? undefined);
  }

  #setBudget(instructions: bigint | undefined): void {
    this.#vm.call((exports, vm) => exports.squib_set_budget(vm, instructions ?? NO_BUDGET));
  }

  /** What is left of the caller's budget. */
  #left(): bigint | undefined {
    if (this.#end === undefined) return undefined;
    const left = this.#end - this.instructions();
    return left > 0n ? left : 0n;
  }

  instructions(): bigint {
    return this.#words((exports, vm) => exports.squib_instructions(vm))[0] ?? 0n;
  }

  exitCounts(): ExitCount[] {
    const counts = this.#words((exports, vm) => exports.squib_exit_counts(vm));
    return this.#vm.module.kinds
      .map((kind, i) => ({ kind, count: Number(counts[i]) }))
      .filter(({ count }) => count > 0);
  }

  injectInterrupt(vector: number): void {
    this.#idle((exports, vm) => exports.squib_inject_interrupt(vm, vector));
  }

  requestInterruptWindow(wanted: boolean): void {
    this.#idle((exports, vm) => exports.squib_request_interrupt_window(vm, Number(wanted)));
  }

  injectNmi(): void {
    this.#idle((exports, vm) => exports.squib_inject_nmi(vm));
  }

  arm64(): NativeArm64 {
    // Busy and closed come first, as everywhere.
    this.#state(PART.registers);
    throw new SquibError(
      'ERR_UNSUPPORTED',
      'this backend does not support aarch64 state; see its capabilities',
    );
  }

  registers(): Registers {
    return registers.decode(this.#state(PART.registers));
  }

  setRegisters(value: Registers): void {
    this.#setState(PART.registers, registers.encode(value));
  }

  systemRegisters(): SystemRegisters {
    return systemRegisters.decode(this.#state(PART.system));
  }

  setSystemRegisters(value: SystemRegisters): void {
    this.#setState(PART.system, systemRegisters.encode(value));
  }

  debugRegisters(): DebugRegisters {
    return debugRegisters.decode(this.#state(PART.debug));
  }

  setDebugRegisters(value: DebugRegisters): void {
    this.#setState(PART.debug, debugRegisters.encode(value));
  }

  pendingEvents(): PendingEvents {
    return pendingEvents.decode(this.#state(PART.pending));
  }

  setPendingEvents(events: PendingEvents): void {
    this.#setState(PART.pending, pendingEvents.encode(events));
  }

  xsave(): Uint8Array {
    this.#idle((exports, vm) => exports.squib_state(vm, PART.xsave));
    return this.#vm.module.output();
  }

  setXsave(area: Uint8Array): void {
    this.#idle((exports, vm) => exports.squib_set_state(vm, PART.xsave), area);
  }

  xcr0(): bigint {
    return this.#state(PART.xcr0)[0] ?? 0n;
  }

  setXcr0(value: bigint): void {
    this.#setState(PART.xcr0, [value]);
  }

  msrIndices(): number[] {
    return Array.from(this.#state(PART.msrIndices), Number);
  }

  msr(index: number): bigint {
    return this.#words((exports, vm) => exports.squib_msr(vm, index))[0] ?? 0n;
  }

  setMsr(index: number, value: bigint): void {
    this.#idle((exports, vm) => exports.squib_set_msr(vm, index, value));
  }

  cpuid(leaf: number, subleaf: number): CpuidResult {
    const words = this.#words((exports, vm) => exports.squib_cpuid(vm, leaf, subleaf));
    const [eax = 0, ebx = 0, ecx = 0, edx = 0] = Array.from(words, Number);
    return { eax, ebx, ecx, edx };
  }

  #state(part: number): BigUint64Array {
    this.#vm.checkIdle();
    return this.#words((exports, vm) => exports.squib_state(vm, part));
  }

  #setState(part: number, words: readonly bigint[]): void {
    const bytes = new Uint8Array(BigUint64Array.from(words).buffer);
    this.#idle((exports, vm) => exports.squib_set_state(vm, part), bytes);
  }

  #words(f: (exports: Exports, vm: number) => number): BigUint64Array {
    this.#vm.call(f);
    return this.#vm.module.words();
  }

  #idle(f: (exports: Exports, vm: number) => number, input?: Uint8Array): void {
    this.#vm.checkIdle();
    this.#vm.call(f, input);
  }
}
