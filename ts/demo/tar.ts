/** Takes one file out of a tar stream. */

const BLOCK = 512;

/**
 * The contents of the first regular file whose path `wanted` accepts, or undefined. The rest of the stream is read and
 * passed over, so that its writer ends well.
 */
export async function fileFromTar(
  stream: AsyncIterable<Uint8Array>,
  wanted: (path: string) => boolean,
): Promise<Uint8Array | undefined> {
  let pending = Buffer.alloc(0);
  let skip = 0;
  let found: { parts: Buffer[]; left: number } | undefined;
  let file: Uint8Array | undefined;
  for await (const chunk of stream) {
    let rest = Buffer.concat([pending, chunk]);
    pending = Buffer.alloc(0);
    while (rest.length > 0) {
      if (found !== undefined && found.left > 0) {
        const part = rest.subarray(0, found.left);
        found.parts.push(part);
        found.left -= part.length;
        rest = rest.subarray(part.length);
        if (found.left === 0) file = Buffer.concat(found.parts);
      } else if (skip > 0) {
        const passed = Math.min(skip, rest.length);
        skip -= passed;
        rest = rest.subarray(passed);
      } else if (rest.length < BLOCK) {
        pending = rest;
        break;
      } else {
        const header = rest.subarray(0, BLOCK);
        rest = rest.subarray(BLOCK);
        const { path, size, regular } = parse(header);
        const padded = Math.ceil(size / BLOCK) * BLOCK;
        if (found === undefined && regular && size > 0 && wanted(path)) {
          found = { parts: [], left: size };
          skip = padded - size;
        } else skip = padded;
      }
    }
  }
  return file;
}

/** The fields of a ustar header (POSIX pax, "ustar Interchange Format"). */
function parse(header: Buffer): { path: string; size: number; regular: boolean } {
  const text = (start: number, length: number) => {
    const field = header.subarray(start, start + length);
    const end = field.indexOf(0);
    return field.subarray(0, end === -1 ? length : end).toString('utf8');
  };
  const [name, prefix] = [text(0, 100), text(257, 5) === 'ustar' ? text(345, 155) : ''];
  const size = Number.parseInt(text(124, 12).trim() || '0', 8);
  const kind = text(156, 1);
  return {
    path: prefix === '' ? name : `${prefix}/${name}`,
    size: Number.isNaN(size) ? 0 : size,
    regular: kind === '0' || kind === '',
  };
}
