/** Archives in the "newc" cpio format, which Linux unpacks as its first file system (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). */

/** A file of an archive. */
export interface CpioEntry {
  /** Path without a leading slash. */
  readonly path: string;
  /** Type and permissions, as in `st_mode`. */
  readonly mode: number;
  /** Contents of a file, or target of a symbolic link. */
  readonly data?: Uint8Array | undefined;
  /** Major and minor number of a device. */
  readonly device?: readonly [major: number, minor: number] | undefined;
}

const TRAILER = 'TRAILER!!!';

/** A folder. */
export function folder(path: string): CpioEntry {
  return { path, mode: 0o040755 };
}

/** An executable file. */
export function executable(path: string, data: Uint8Array | string): CpioEntry {
  return { path, mode: 0o100755, data: typeof data === 'string' ? new TextEncoder().encode(data) : data };
}

/** A character device. */
export function characterDevice(path: string, major: number, minor: number): CpioEntry {
  return { path, mode: 0o020600, device: [major, minor] };
}

/** The archive of these entries, in this order. */
export function cpio(entries: readonly CpioEntry[]): Uint8Array {
  const parts = entries.map((entry, index) => encode(entry, index + 1));
  parts.push(encode({ path: TRAILER, mode: 0 }, 0));
  return Buffer.concat(parts.flat());
}

function encode(entry: CpioEntry, inode: number): Buffer[] {
  const name = Buffer.from(`${entry.path}\0`);
  const data = entry.data ?? new Uint8Array();
  const [major, minor] = entry.device ?? [0, 0];
  // inode, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
  const fields = [inode, entry.mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
  return [header, name, padding(header.length + name.length), Buffer.from(data), padding(data.length)];
}

/** Zeroes up to a multiple of 4. */
function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
