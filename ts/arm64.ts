/** The aarch64 state of a vCPU. */
import { type Address, u64, whole } from './arguments.js';
import type { Arm64PowerState, Arm64Registers, Arm64VectorRegisters, NativeArm64 } from './binding.cjs';
import { guard } from './errors.js';

export type { Arm64PowerState, Arm64Registers, Arm64VectorRegisters };

/**
 * The number of a system register, as {@link Arm64State.systemRegister} takes it and as the exits `msrRead` and `msrWrite` give
 * it: bits 20:5 of the `MRS` that reads it (Arm ARM, DDI 0487, C5.1.2). `op0` is 0 to 3, `op1` and `op2` are 0 to 7, `crn` and
 * `crm` 0 to 15; anything else is `ERR_INVALID_ARGUMENT`.
 *
 * @example
 * const VBAR_EL1 = systemRegister(3, 0, 12, 0, 0);
 */
export function systemRegister(op0: number, op1: number, crn: number, crm: number, op2: number): number {
  const field = (value: number, name: string, max: number) => whole(value, name, 'ERR_INVALID_ARGUMENT', max);
  return (
    (field(op0, 'op0', 3) << 14) |
    (field(op1, 'op1', 7) << 11) |
    (field(crn, 'CRn', 15) << 7) |
    (field(crm, 'CRm', 15) << 3) |
    field(op2, 'op2', 7)
  );
}

/**
 * Registers and power state of an aarch64 vCPU: {@link Vcpu.arm64}. While the vCPU runs, all of it is `ERR_VCPU_BUSY`; after the
 * VM was closed, `ERR_CLOSED`.
 */
export class Arm64State {
  readonly #native: NativeArm64;

  /** @internal */
  constructor(native: NativeArm64) {
    this.#native = native;
  }

  /**
   * X0 to X30, SP_EL0, SP_EL1, PC and PSTATE. A copy: assign it to change them. A value that is no bigint of 64 bits, another
   * count than 31, or an exception level that the vCPU has not got is `ERR_INVALID_ARGUMENT`, and then nothing is set.
   */
  get registers(): Arm64Registers {
    return guard(() => this.#native.registers());
  }
  set registers(registers: Arm64Registers) {
    guard(() => this.#native.setRegisters(registers));
  }

  /**
   * V0 to V31, FPSR and FPCR. A copy: assign it to change them. A value that is no bigint of 128 bits, or another count than 32,
   * is `ERR_INVALID_ARGUMENT`, and then nothing is set.
   */
  get vectorRegisters(): Arm64VectorRegisters {
    return guard(() => this.#native.vectorRegisters());
  }
  set vectorRegisters(registers: Arm64VectorRegisters) {
    guard(() => this.#native.setVectorRegisters(registers));
  }

  /** A system register by its number, 16 bits, of {@link systemRegister}; `ERR_REGISTER` when there is none. */
  systemRegister(number: number): bigint {
    const register = encoding(number);
    return guard(() => this.#native.systemRegister(register));
  }

  /** Sets a system register; `ERR_REGISTER` when there is none or it refuses the value. */
  setSystemRegister(number: number, value: Address): void {
    const register = encoding(number);
    const word = u64(value, 'a system register');
    guard(() => this.#native.setSystemRegister(register, word));
  }

  /** The numbers of the system registers that make up this vCPU's state, ascending. */
  get systemRegisterList(): number[] {
    return guard(() => this.#native.systemRegisterList());
  }

  /**
   * Whether the vCPU runs, or waits for another to start it by PSCI's `CPU_ON` (DEN 0022, 5.1.4). All but number 0 begin `off`.
   * A run of one that is off waits with it; assign `on` to start it where its registers say.
   */
  get powerState(): Arm64PowerState {
    return guard(() => this.#native.powerState());
  }
  set powerState(state: Arm64PowerState) {
    guard(() => this.#native.setPowerState(state));
  }
}

function encoding(number: number): number {
  return whole(number, 'the number of a system register', 'ERR_INVALID_ARGUMENT', 0xffff);
}
