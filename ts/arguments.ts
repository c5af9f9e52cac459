/** Values from callers, checked before they cross into the addon. */
import { type ErrorCode, invalid, SquibError } from './errors.js';

/** `value` where it is an object, whose fields can then be looked at. */
export function object<T extends object>(value: T, what: string): T {
  return typeof value === 'object' && value !== null ? value : invalid(`${what} must be an object`);
}

/** `value` where it is a `Uint8Array`, of this realm or another. */
export function byteArray(value: Uint8Array, what: string): Uint8Array {
  const kind = Object.prototype.toString.call(value);
  return kind === '[object Uint8Array]' ? value : invalid(`${what} must be a Uint8Array`);
}

/** A guest-physical address or a length: a whole number, as a number where it is exact, else as a bigint. */
export type Address = number | bigint;

/** `value` as a number, or an error with `code` where it is no whole number from 0 to `max`. */
export function whole(
  value: Address,
  what: string,
  code: ErrorCode = 'ERR_INVALID_ARGUMENT',
  max: number = Number.MAX_SAFE_INTEGER,
): number {
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (Number.isSafeInteger(number) && number >= 0 && number <= max) return number;
  throw new SquibError(code, `${what} must be a whole number from 0 to ${max}, not ${String(value)}`);
}

/** An unsigned 32-bit number. */
export function u32(value: number, what: string): number {
  return whole(value, what, 'ERR_INVALID_ARGUMENT', 0xffff_ffff);
}

const MAX_U64 = (1n << 64n) - 1n;

/** A bigint of 64 bits. */
export function u64(value: Address, what: string, code: ErrorCode = 'ERR_INVALID_ARGUMENT'): bigint {
  const valid = typeof value === 'bigint' || Number.isSafeInteger(value);
  const wide = valid ? BigInt(value) : -1n;
  if (wide >= 0n && wide <= MAX_U64) return wide;
  throw new SquibError(code, `${what} must be a whole number from 0 to 2^64 - 1, not ${String(value)}`);
}

const UNITS: Record<string, number> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** A number of bytes: a number, or text such as `256M`. */
export function byteSize(size: Address | string): number {
  if (typeof size !== 'string') return whole(size, 'a memory size', 'ERR_MEMORY_SIZE');
  const [, digits = '', unit = ''] = /^(\d+)\s*([KMGT]?)(?:i?B)?$/i.exec(size.trim()) ?? [];
  const scale = UNITS[unit.toUpperCase()];
  if (digits === '' || scale === undefined) {
    throw new SquibError(
      'ERR_MEMORY_SIZE',
      `${JSON.stringify(size)} is not a memory size; write bytes, or 512K, 256M, 2G`,
    );
  }
  return whole(Number(digits) * scale, 'a memory size', 'ERR_MEMORY_SIZE');
}
