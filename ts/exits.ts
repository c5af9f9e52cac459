/** Why a vCPU came back, and what it is answered. */
export type {
  IrqchipKind,
  MsrReason,
  SystemEventKind,
  VmEntry,
  VmExit,
} from './binding.cjs';

/**
 * For the `default` of a `switch` over `exit.kind`: the compiler then says which kinds the switch forgets, and an
 * exit newer than the program throws.
 *
 * @example
 * switch (exit.kind) {
 *   case 'hlt': …
 *   default: assertNever(exit);
 * }
 */
export function assertNever(value: never): never {
  throw new TypeError(`unexpected ${JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? `${v}n` : v))}`);
}
