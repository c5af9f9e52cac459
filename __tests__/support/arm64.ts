/** aarch64 programs of a few instructions, as words (Arm ARM, DDI 0487, C6.2). */

/** `hvc #0` */
export const HVC = 0xd400_0002;
/** `wfi` */
export const WFI = 0xd503_207f;
/** A branch to itself. */
export const SPIN = 0x1400_0000;

/** The bytes of a program. */
export function assemble(...words: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(words).buffer);
}

/** Puts `value`, of 64 bits, into register `d`. */
export function set(d: number, value: number | bigint): number[] {
  const part = (n: number) => Number((BigInt(value) >> BigInt(16 * n)) & 0xffffn);
  const keep = [1, 2, 3].filter((n) => part(n) !== 0);
  const word = (opcode: number, n: number) => (opcode | (n << 21) | (part(n) << 5) | d) >>> 0;
  return [word(0xd280_0000, 0), ...keep.map((n) => word(0xf280_0000, n))]; // movz, movk
}

/** An access of 1, 2, 4 or 8 bytes between register `t` and the address in `n`, `offset` bytes on. */
function access(opcode: number, width: number, t: number, n: number, offset: number): number {
  return (opcode | (Math.log2(width) << 30) | ((offset / width) << 10) | (n << 5) | t) >>> 0;
}

/** Loads `width` bytes into register `t`. */
export function load(width: number, t: number, n: number, offset = 0): number {
  return access(0x3940_0000, width, t, n, offset);
}

/** Stores `width` bytes of register `t`; 31 is zero. */
export function store(width: number, t: number, n: number, offset = 0): number {
  return access(0x3900_0000, width, t, n, offset);
}

/** A branch by so many words if the low 32 bits of `t` are zero. */
export function branchIfZero(t: number, words: number): number {
  return (0x3400_0000 | ((words & 0x7_ffff) << 5) | t) >>> 0;
}

/** A branch by so many words. */
export function branch(words: number): number {
  return (0x1400_0000 | (words & 0x3ff_ffff)) >>> 0;
}

/** PSCI's `SYSTEM_OFF` (DEN 0022, 5.1.9). */
export const POWER_OFF = [...set(0, 0x8400_0008), HVC];

/** A program as an arm64 `Image` (Linux, Documentation/arch/arm64/booting.rst), entered at its first instruction. */
export function image(...words: number[]): Uint8Array {
  const header = new DataView(new ArrayBuffer(64));
  header.setUint32(0, branch(16), true);
  header.setBigUint64(16, 0x1_0000n, true); // its size in memory
  header.setUint32(56, 0x644d_5241, true);
  return Buffer.concat([new Uint8Array(header.buffer), assemble(...words)]);
}
