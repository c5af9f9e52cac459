/** Doorbells: registers whose write is only an event. */
import { object, u32, u64, whole } from './arguments.js';
import type { DoorbellParts } from './binding.cjs';
import type { MmioRange, PioRange } from './device.js';
import { invalid } from './errors.js';

/** What the writes that ring a doorbell have in common, besides their address. */
interface Ringing {
  /** Bytes of a write that rings: 1, 2, 4 or 8, at a port at most 4. The address is a multiple of them. */
  readonly length: number;
  /** The only value that rings. Without one, all do. */
  readonly value?: number | bigint | undefined;
  /** What the doorbell is called in errors and statistics. */
  readonly name?: string | undefined;
}

/** Which writes ring a doorbell: those of this width at this port or address, and where there is a value, of that alone. */
export type DoorbellRegister = (Pick<PioRange, 'port'> | Pick<MmioRange, 'address'>) & Ringing;

/** Hears a doorbell; `rings` says how often it was rung since the last call. */
export type Ring = (rings: number) => void;

/** The register, for a bus, which then says whether it can be one. @throws ERR_INVALID_ARGUMENT */
export function doorbellParts(register: DoorbellRegister, ring: Ring): DoorbellParts {
  object(register, 'a doorbell');
  if (typeof ring !== 'function') invalid('who hears a doorbell must be a function');
  const port = 'port' in register;
  const base = port ? whole(register.port, 'a port') : whole(register.address, 'an address');
  const length = u32(register.length, 'the length of a doorbell');
  const name = String(register.name ?? `doorbell ${port ? 'port' : 'mmio'} 0x${base.toString(16)}`);
  const parts = { name, port, base, length };
  if (register.value === undefined) return parts;
  return { ...parts, value: u64(register.value, 'the value of a doorbell') };
}
