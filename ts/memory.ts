/** Guest RAM: read without a call, written through the backend. */
import { type Address, byteArray, whole } from './arguments.js';
import type { NativeMemory } from './binding.cjs';
import { guard, SquibError } from './errors.js';
import { GuestView } from './view.js';

/** A run of guest RAM. */
export interface MemoryRegion {
  /** Guest-physical address of the first byte. */
  readonly address: number;
  /** Length in bytes. */
  readonly length: number;
}

/** Part of RAM that JavaScript sees directly. Never handed out: a write to it would go past the backend. */
interface Window {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/**
 * The RAM of a VM. Addresses are guest-physical, in bytes; whatever is not wholly RAM is `ERR_MEMORY_RANGE`, and then
 * nothing is read or written.
 *
 * Reads see what running vCPUs write at that moment, as a device would. Writes tell the backend which code they
 * change, so they are safe while the guest runs.
 */
export class Memory {
  readonly #native: NativeMemory;
  #windows: Window[];
  /** @internal Refuses to go on after the VM was closed. */
  readonly check: () => void;
  /** The runs of RAM, ascending. */
  readonly regions: readonly MemoryRegion[];

  /** @internal */
  constructor(native: NativeMemory, check: () => void) {
    this.#native = native;
    this.check = check;
    this.regions = guard(() => native.regions());
    this.#windows = guard(() => native.windows()).map(({ address, buffer }) => ({
      address,
      bytes: new Uint8Array(buffer),
    }));
  }

  /** @internal Gives the RAM back now, not when JavaScript collects its garbage. */
  close(): void {
    guard(() => this.#native.close(this.#windows.map(({ bytes }) => bytes.buffer as ArrayBuffer)));
    this.#windows = [];
  }

  /** Bytes of RAM in all. */
  get size(): number {
    return this.regions.reduce((sum, region) => sum + region.length, 0);
  }

  /** Copies `length` bytes out. */
  read(address: Address, length: number): Uint8Array {
    const [start, count] = this.#range(address, length);
    const window = this.#find(start, count);
    if (window === undefined) return guard(() => this.#native.read(start, count));
    const offset = start - window.address;
    return window.bytes.slice(offset, offset + count);
  }

  /** Copies `data` in. */
  write(address: Address, data: Uint8Array): void {
    const [start] = this.#range(address, byteArray(data, 'data').byteLength);
    guard(() => this.#native.write(start, data));
  }

  /** Sets `length` bytes to `byte`. */
  fill(address: Address, byte: number, length: number): void {
    const [start, count] = this.#range(address, length);
    const value = whole(byte, 'a byte', 'ERR_INVALID_ARGUMENT', 0xff);
    guard(() => this.#native.fill(start, value, count));
  }

  /** A typed view of `length` bytes. It copies nothing, and sees later changes. */
  view(address: Address, length: number): GuestView {
    const [start, count] = this.#range(address, length);
    const window = this.#find(start, count);
    const mapped =
      window && new DataView(window.bytes.buffer, window.bytes.byteOffset + start - window.address, count);
    return new GuestView(this, this.#native, start, count, mapped);
  }

  /** Checks a range, also for views, whose later accesses then need only an offset. */
  #range(address: Address, length: number): [number, number] {
    this.check();
    const start = whole(address, 'a guest-physical address', 'ERR_MEMORY_RANGE');
    const count = whole(length, 'a length', 'ERR_MEMORY_RANGE');
    const inside = (r: MemoryRegion) =>
      start >= r.address && start < r.address + r.length && count <= r.address + r.length - start;
    if (!this.regions.some(inside)) {
      const range = `0x${start.toString(16)}, length 0x${count.toString(16)}`;
      throw new SquibError('ERR_MEMORY_RANGE', `guest-physical range ${range} is not RAM`);
    }
    return [start, count];
  }

  #find(start: number, count: number): Window | undefined {
    return this.#windows.find((w) => start >= w.address && start + count <= w.address + w.bytes.byteLength);
  }
}
