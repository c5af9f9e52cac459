/** What instructions mean, as squib's own CPU has it. */
import { type Address, byteArray, u64 } from './arguments.js';
import type { InspectedInstruction } from './binding.cjs';
import { guard } from './errors.js';
import { native } from './native.cjs';

export type { InspectedInstruction };

/** How bytes are to be read. */
export interface InspectOptions {
  /** Which code they are; 64 when it is not said. */
  readonly bits?: 16 | 32 | 64 | undefined;
  /** Address of the first byte, which jumps and RIP-relative operands depend on. Default 0. */
  readonly address?: Address | undefined;
}

/**
 * Decodes x86 instructions and lists the operations that each is made of. Ends with the first bytes that are no instruction,
 * and says why they are none.
 */
export function inspect(
  code: Uint8Array,
  { bits = 64, address = 0 }: InspectOptions = {},
): InspectedInstruction[] {
  byteArray(code, 'code');
  const at = u64(address, 'an address');
  return guard(() => native().inspect(code, bits, at));
}
