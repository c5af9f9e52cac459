/** A `DataView` of guest RAM. */
import type { NativeMemory } from './binding.cjs';
import { guard, SquibError } from './errors.js';
import type { Memory } from './memory.js';

/** Where setters put a value together. JavaScript runs one at a time, so one is enough. */
const scratch = new DataView(new ArrayBuffer(8));

/**
 * Typed access to a range of guest RAM, with the methods of `DataView`. Numbers are little-endian unless told
 * otherwise, as the guest is. Getters copy nothing and make no call; setters go through the backend, so that code
 * which they change is seen. An offset outside of the view is `ERR_MEMORY_RANGE`.
 */
export class GuestView {
  readonly #memory: Memory;
  readonly #native: NativeMemory;
  /** The bytes themselves, where this engine can show foreign memory. */
  readonly #mapped: DataView | undefined;
  /** Guest-physical address of the first byte. */
  readonly address: number;
  /** Length in bytes. */
  readonly byteLength: number;

  /** @internal The range has been checked. */
  constructor(
    memory: Memory,
    native: NativeMemory,
    address: number,
    byteLength: number,
    mapped: DataView | undefined,
  ) {
    this.#memory = memory;
    this.#native = native;
    this.address = address;
    this.byteLength = byteLength;
    this.#mapped = mapped;
  }

  getUint8(offset: number): number {
    return this.#get(offset, 1, (view, at) => view.getUint8(at));
  }
  getInt8(offset: number): number {
    return this.#get(offset, 1, (view, at) => view.getInt8(at));
  }
  getUint16(offset: number, littleEndian = true): number {
    return this.#get(offset, 2, (view, at) => view.getUint16(at, littleEndian));
  }
  getInt16(offset: number, littleEndian = true): number {
    return this.#get(offset, 2, (view, at) => view.getInt16(at, littleEndian));
  }
  getUint32(offset: number, littleEndian = true): number {
    return this.#get(offset, 4, (view, at) => view.getUint32(at, littleEndian));
  }
  getInt32(offset: number, littleEndian = true): number {
    return this.#get(offset, 4, (view, at) => view.getInt32(at, littleEndian));
  }
  getFloat32(offset: number, littleEndian = true): number {
    return this.#get(offset, 4, (view, at) => view.getFloat32(at, littleEndian));
  }
  getFloat64(offset: number, littleEndian = true): number {
    return this.#get(offset, 8, (view, at) => view.getFloat64(at, littleEndian));
  }
  getBigUint64(offset: number, littleEndian = true): bigint {
    return this.#get(offset, 8, (view, at) => view.getBigUint64(at, littleEndian));
  }
  getBigInt64(offset: number, littleEndian = true): bigint {
    return this.#get(offset, 8, (view, at) => view.getBigInt64(at, littleEndian));
  }

  setUint8(offset: number, value: number): void {
    scratch.setUint8(0, value);
    this.#set(offset, 1);
  }
  setInt8(offset: number, value: number): void {
    scratch.setInt8(0, value);
    this.#set(offset, 1);
  }
  setUint16(offset: number, value: number, littleEndian = true): void {
    scratch.setUint16(0, value, littleEndian);
    this.#set(offset, 2);
  }
  setInt16(offset: number, value: number, littleEndian = true): void {
    scratch.setInt16(0, value, littleEndian);
    this.#set(offset, 2);
  }
  setUint32(offset: number, value: number, littleEndian = true): void {
    scratch.setUint32(0, value, littleEndian);
    this.#set(offset, 4);
  }
  setInt32(offset: number, value: number, littleEndian = true): void {
    scratch.setInt32(0, value, littleEndian);
    this.#set(offset, 4);
  }
  setFloat32(offset: number, value: number, littleEndian = true): void {
    scratch.setFloat32(0, value, littleEndian);
    this.#set(offset, 4);
  }
  setFloat64(offset: number, value: number, littleEndian = true): void {
    scratch.setFloat64(0, value, littleEndian);
    this.#set(offset, 8);
  }
  setBigUint64(offset: number, value: bigint, littleEndian = true): void {
    scratch.setBigUint64(0, value, littleEndian);
    this.#set(offset, 8);
  }
  setBigInt64(offset: number, value: bigint, littleEndian = true): void {
    scratch.setBigInt64(0, value, littleEndian);
    this.#set(offset, 8);
  }

  #get<T>(offset: number, width: number, get: (view: DataView, at: number) => T): T {
    this.#check(offset, width);
    if (this.#mapped !== undefined) return get(this.#mapped, offset);
    const bytes = guard(() => this.#native.read(this.address + offset, width));
    return get(new DataView(bytes.buffer, bytes.byteOffset), 0);
  }

  /** Writes the first `width` bytes of the scratch view. */
  #set(offset: number, width: number): void {
    this.#check(offset, width);
    const address = this.address + offset;
    if (width === 8) guard(() => this.#native.setBigint(address, scratch.getBigUint64(0, true)));
    else guard(() => this.#native.setNumber(address, width, scratch.getUint32(0, true)));
  }

  #check(offset: number, width: number): void {
    this.#memory.check();
    if (Number.isInteger(offset) && offset >= 0 && offset <= this.byteLength - width) return;
    const range = `${offset}, width ${width}`;
    throw new SquibError(
      'ERR_MEMORY_RANGE',
      `offset ${range} is outside of a view of ${this.byteLength} bytes`,
    );
  }
}
