/** Register state as words, as crates/squib-web/src/state.rs has it. */

import { object, u64, whole } from '../arguments.js';
import type { DebugRegisters, PendingEvents, Registers, Segment, SystemRegisters } from '../binding.cjs';
import { invalid } from '../errors.js';

/** The parts of a vCPU's state, by their numbers. */
export const PART = {
  registers: 0,
  system: 1,
  debug: 2,
  pending: 3,
  xsave: 4,
  xcr0: 5,
  msrIndices: 6,
} as const;

const REGISTERS = [
  ...(['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const),
  ...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15', 'rip', 'rflags'] as const),
];
const SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs', 'ldt', 'tr'] as const;
const TABLES = ['gdt', 'idt'] as const;
const CONTROL = ['cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer', 'apicBase'] as const;

const SEGMENT_WORDS = 4;
const KIND = 0xfn;
const DPL = 5n;
/** Bits of a segment's attributes. */
const FLAGS = {
  codeOrData: 1n << 4n,
  present: 1n << 7n,
  available: 1n << 12n,
  long: 1n << 13n,
  big: 1n << 14n,
  granularity: 1n << 15n,
  unusable: 1n << 16n,
} as const;
const FLAG_NAMES = Object.keys(FLAGS) as (keyof typeof FLAGS)[];

type Words = ArrayLike<bigint>;

function at(words: Words, index: number): bigint {
  return words[index] as bigint;
}

function word(value: unknown, what: string): bigint {
  if (typeof value !== 'bigint') invalid(`${what} must be a bigint`);
  return u64(value, what);
}

function small(value: unknown, what: string, max: number): bigint {
  return BigInt(whole(value as number, what, 'ERR_INVALID_ARGUMENT', max));
}

function flag(value: unknown, what: string): boolean {
  return typeof value === 'boolean' ? value : invalid(`${what} must be true or false`);
}

export const registers = {
  encode: (r: Registers): bigint[] => REGISTERS.map((name) => word(object(r, 'registers')[name], name)),
  decode: (words: Words): Registers =>
    Object.fromEntries(REGISTERS.map((name, i) => [name, at(words, i)])) as unknown as Registers,
};

export const systemRegisters = {
  encode(r: SystemRegisters): bigint[] {
    object(r, 'system registers');
    return [
      ...SEGMENTS.flatMap((name) => encodeSegment(object(r[name], name), name)),
      ...TABLES.flatMap((name) => {
        const { base, limit } = object(r[name], name);
        return [word(base, `base of ${name}`), small(limit, `limit of ${name}`, 0xffff)];
      }),
      ...CONTROL.map((name) => word(r[name], name)),
    ];
  },
  decode(words: Words): SystemRegisters {
    const tables = SEGMENTS.length * SEGMENT_WORDS;
    const control = tables + 2 * TABLES.length;
    return Object.fromEntries([
      ...SEGMENTS.map((name, i) => [name, decodeSegment(words, i * SEGMENT_WORDS)]),
      ...TABLES.map((name, i) => {
        const first = tables + 2 * i;
        return [name, { base: at(words, first), limit: Number(at(words, first + 1)) }];
      }),
      ...CONTROL.map((name, i) => [name, at(words, control + i)]),
    ]) as SystemRegisters;
  },
};

function encodeSegment(s: Segment, name: string): bigint[] {
  const flags = FLAG_NAMES.filter((key) => flag(s[key], `${key} of ${name}`));
  const attributes = flags.reduce(
    (bits, key) => bits | FLAGS[key],
    small(s.kind, `kind of ${name}`, 15) | (small(s.dpl, `dpl of ${name}`, 3) << DPL),
  );
  return [
    word(s.base, `base of ${name}`),
    small(s.limit, `limit of ${name}`, 0xffff_ffff),
    small(s.selector, `selector of ${name}`, 0xffff),
    attributes,
  ];
}

function decodeSegment(words: Words, first: number): Segment {
  const attributes = at(words, first + 3);
  const flags = Object.fromEntries(FLAG_NAMES.map((key) => [key, (attributes & FLAGS[key]) !== 0n]));
  return {
    base: at(words, first),
    limit: Number(at(words, first + 1)),
    selector: Number(at(words, first + 2)),
    kind: Number(attributes & KIND),
    dpl: Number((attributes >> DPL) & 3n),
    ...(flags as Record<keyof typeof FLAGS, boolean>),
  };
}

export const debugRegisters = {
  encode(r: DebugRegisters): bigint[] {
    const { db, dr6, dr7 } = object(r, 'debug registers');
    if (!Array.isArray(db) || db.length !== 4) invalid('db must hold four addresses');
    return [...db.map((address, i) => word(address, `DR${i}`)), word(dr6, 'DR6'), word(dr7, 'DR7')];
  },
  decode: (words: Words): DebugRegisters => ({
    db: [0, 1, 2, 3].map((i) => at(words, i)),
    dr6: at(words, 4),
    dr7: at(words, 5),
  }),
};

export const pendingEvents = {
  encode(events: PendingEvents): bigint[] {
    const { exception, interrupt, nmiPending, nmiMasked, interruptShadow } = object(events, 'pending events');
    const optional = (value: unknown, what: string, max: number) =>
      value === undefined ? [0n, 0n] : [1n, small(value, what, max)];
    return [
      ...optional(exception?.vector, 'the vector of an exception', 255),
      ...optional(exception?.errorCode, 'an error code', 0xffff_ffff),
      ...optional(interrupt, 'the vector of an interrupt', 255),
      ...[
        flag(nmiPending, 'nmiPending'),
        flag(nmiMasked, 'nmiMasked'),
        flag(interruptShadow, 'interruptShadow'),
      ].map(BigInt),
    ];
  },
  decode(words: Words): PendingEvents {
    const optional = (index: number) => (at(words, index) === 0n ? undefined : Number(at(words, index + 1)));
    const [vector, errorCode, interrupt] = [optional(0), optional(2), optional(4)];
    return {
      ...(vector === undefined
        ? {}
        : { exception: { vector, ...(errorCode === undefined ? {} : { errorCode }) } }),
      ...(interrupt === undefined ? {} : { interrupt }),
      nmiPending: at(words, 6) !== 0n,
      nmiMasked: at(words, 7) !== 0n,
      interruptShadow: at(words, 8) !== 0n,
    };
  },
};
