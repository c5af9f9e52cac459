/** Exits and entries as numbers, as crates/squib-web/src/exit.rs has them. */

import { u64 } from '../arguments.js';
import type { MsrReason, SystemEventKind, VmEntry, VmExit } from '../binding.cjs';
import { SquibError } from '../errors.js';

const MSR_REASONS: readonly MsrReason[] = ['unknown', 'invalid', 'filter'];
const SYSTEM_EVENTS: readonly SystemEventKind[] = [
  'shutdown',
  'reset',
  'crash',
  'wakeup',
  'suspend',
  'other',
];

/** Bytes of an exit's words. */
export const EXIT_BYTES = 64;

/** An entry as number, length of its data, and value. */
export function encode(entry: VmEntry): [kind: number, length: number, value: bigint] {
  switch (entry.kind) {
    case 'resume':
      return [0, 0, 0n];
    case 'read':
      return [1, ...access(entry.data)];
    case 'hypercall':
      return [2, 0, u64(entry.value, 'the result of a hypercall', 'ERR_BAD_ENTRY')];
    case 'msr':
      return [3, 0, u64(entry.value, 'an MSR', 'ERR_BAD_ENTRY')];
    case 'msrFault':
      return [4, 0, 0n];
    case 'complete':
      return [5, ...access(entry.data ?? new Uint8Array())];
    default:
      throw new SquibError('ERR_BAD_ENTRY', 'there is no such kind of entry');
  }
}

function access(data: Uint8Array): [length: number, value: bigint] {
  if (!(data instanceof Uint8Array)) throw new SquibError('ERR_BAD_ENTRY', 'data must be a Uint8Array');
  const value = data.subarray(0, 8).reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  return [data.length, value];
}

/** An exit of this kind from its words and its text. */
export function decode(kind: VmExit['kind'], bytes: Uint8Array, text: string): VmExit {
  const words = new DataView(bytes.buffer, bytes.byteOffset);
  const at = (index: number) => words.getBigUint64(8 * index, true);
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
