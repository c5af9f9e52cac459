/**
 * squib: a virtual machine monitor for TypeScript.
 *
 * {@link Vm} is a machine without a board, whose exits you handle; {@link Machine} is a PC that boots a kernel.
 *
 * @packageDocumentation
 */

export type { Address } from './arguments.js';
export {
  type Arm64PowerState,
  type Arm64Registers,
  type Arm64State,
  type Arm64VectorRegisters,
  systemRegister,
} from './arm64.js';
export {
  type Architecture,
  BACKEND_CHOICES,
  type BackendCapabilities,
  type BackendChoice,
  type BackendKind,
  backendCapabilities,
  type GicVersion,
} from './backend.js';
export type { BaseVm, BaseVmOptions } from './base-vm.js';
export { defaultCommandLine } from './command-line.js';
export type { MachineConsole } from './console.js';
export type { CpuModel } from './cpu-model.js';
export type { Device, DeviceRange, MmioRange, PioRange } from './device.js';
export { type Diagnosis, doctor, type Finding } from './doctor.js';
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
export { type InspectedInstruction, type InspectOptions, inspect } from './inspect.js';
export {
  type BootReport,
  type Image,
  Machine,
  type MachineEvents,
  type MachineOptions,
  type MachineRunOptions,
  type MachineStats,
  type Outcome,
  type OutcomeKind,
} from './machine.js';
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
export { Vm, type VmOptions } from './vm.js';
