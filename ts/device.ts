/** Devices in TypeScript, and how the guest's accesses reach them. See docs/design/callbacks.md. */
import { DeviceError, type SquibError } from './errors.js';

/**
 * A device that the guest reaches by ports or by addresses.
 *
 * Both methods are synchronous: the guest's instruction waits for them. Values are little-endian numbers of `width`
 * bytes: a number for 1 to 4 bytes, a bigint for wider accesses, which only MMIO has. A missing `read` reads as all
 * ones and a missing `write` swallows, as an empty bus does.
 *
 * @example
 * const doorbell: Device = {
 *   read: () => 42,
 *   write: (offset, width, value) => console.log(offset, value),
 * };
 */
export interface Device {
  /** What the device is called in errors and statistics. */
  readonly name?: string;
  /** Answers a read of `width` bytes at `offset` from the start of the range. */
  read?(offset: number, width: number): number | bigint;
  /** Takes a write. */
  write?(offset: number, width: number, value: number | bigint): void;
}

/** A range of I/O ports. */
export interface PioRange {
  /** First port. */
  readonly port: number;
  /** How many ports. */
  readonly length: number;
}

/** A range of guest-physical addresses that no RAM has. */
export interface MmioRange {
  /** First address. */
  readonly address: number | bigint;
  /** How many bytes. */
  readonly length: number;
}

/** Where a device answers. */
export type DeviceRange = PioRange | MmioRange;

// The layout of the record, as crates/squib-node/src/record.rs has it.
const WORDS = 8;
const DEVICE = 0;
const VCPU = 1;
const ACCESS = 2;
const OFFSET = 3;
const VALUE = 5;
const STATUS = 7;
const WRITE = 0x100;
const FAILED = 0;
const ANSWERED = 1;

const ALL_ONES = 0xffff_ffff;

interface Entry {
  readonly name: string;
  readonly device: Device;
}

/** The devices of one VM. What an answer means and what a failure leads to is decided here. */
export class DeviceTable {
  /** The record through which the addon asks and is answered. */
  readonly record = new Uint32Array(WORDS);
  /** By number. Numbers are never used again, so that an access on its way meets its own device or none. */
  readonly #entries: (Entry | undefined)[] = [];
  readonly #failures = new Map<number, DeviceError>();

  /** Adds a device and gives its number. */
  add(name: string, device: Device): number {
    return this.#entries.push({ name, device }) - 1;
  }

  /** Takes a device away. An access that is on its way to it finds an empty bus. */
  remove(id: number): void {
    this.#entries[id] = undefined;
  }

  /** The failure that ended the last run of vCPU `id`, instead of the addon's own error. */
  takeFailure(id: number): SquibError | undefined {
    const failure = this.#failures.get(id);
    this.#failures.delete(id);
    return failure;
  }

  /** The failure of any vCPU, where `error` says that a device failed. */
  takeAnyFailure(error: { code: string }): SquibError | undefined {
    if (error.code !== 'ERR_DEVICE_FAILED') return undefined;
    const [failure] = this.#failures.values();
    this.#failures.clear();
    return failure;
  }

  /** Called by the addon for each access. Never throws. */
  readonly dispatch = (): void => {
    const record = this.record;
    // Copied first: a device may run another vCPU, whose accesses use the same record.
    const vcpu = record[VCPU] as number;
    const access = record[ACCESS] as number;
    const offset = (record[OFFSET] as number) + (record[OFFSET + 1] as number) * 2 ** 32;
    const width = access & 0xff;
    const write = (access & WRITE) !== 0;
    const entry = this.#entries[record[DEVICE] as number];
    let low = ALL_ONES;
    let high = ALL_ONES;
    let status = ANSWERED;
    try {
      if (write) {
        const value =
          width <= 4 ? (record[VALUE] as number) : wide(record[VALUE] as number, record[VALUE + 1] as number);
        expectNothing(entry?.device.write?.(offset, width, value));
      } else if (entry?.device.read !== undefined) {
        const value = entry.device.read(offset, width);
        if (typeof value === 'number' && fitsU32(value, width)) {
          low = value;
          high = 0;
        } else {
          const word = toWord(value, width);
          low = Number(word & 0xffff_ffffn);
          high = Number(word >> 32n);
        }
      }
    } catch (error) {
      status = FAILED;
      const where = { device: entry?.name ?? 'unknown', offset, width, write };
      const failure =
        error instanceof Nonsense
          ? new DeviceError(where, error.message)
          : new DeviceError(where, `it threw ${describe(error)}`, error);
      this.#failures.set(vcpu, failure);
    }
    record[VALUE] = low;
    record[VALUE + 1] = high;
    record[STATUS] = status;
  };
}

/** An answer that is none. */
class Nonsense extends Error {}

/** Whether a number is whole, has no more than 32 bits, and fits the access. */
function fitsU32(value: number, width: number): boolean {
  return value >>> 0 === value && (width >= 4 || value >>> (8 * width) === 0);
}

function wide(low: number, high: number): bigint {
  return (BigInt(high) << 32n) | BigInt(low);
}

/** The answer to a read that is not simply a number of 32 bits. */
function toWord(value: unknown, width: number): bigint {
  const whole = typeof value === 'bigint' || (typeof value === 'number' && Number.isSafeInteger(value));
  if (!whole) {
    if (isPromise(value)) throw new Nonsense('it answered with a promise; devices answer at once');
    throw new Nonsense(`it answered ${describe(value)} instead of a whole number`);
  }
  const word = BigInt(value);
  if (word < 0n || word >> BigInt(8 * width) !== 0n)
    throw new Nonsense(`its answer ${value} does not fit ${width} bytes`);
  return word;
}

/** A write answers nothing; a promise means that the device was not done when the guest went on. */
function expectNothing(value: unknown): void {
  if (isPromise(value)) throw new Nonsense('its write gave a promise; devices take a write at once');
}

function isPromise(value: unknown): boolean {
  if (typeof (value as PromiseLike<unknown> | undefined)?.then !== 'function') return false;
  // The run ends with the device's error already; a later rejection would only end the process as well.
  (value as PromiseLike<unknown>).then(undefined, () => {});
  return true;
}

function describe(value: unknown): string {
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  if (typeof value === 'string') return JSON.stringify(value);
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}
