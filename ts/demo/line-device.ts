/** The device that squib's own guest talks to: it answers lines. */
import type { Device, DeviceRange } from '../device.js';

/** The port at which the guest looks for it. */
const AT: DeviceRange = { port: 0x510, length: 1 };

const NEWLINE = 10;

/** Answers a line of the guest's user. */
function answer(line: string): string {
  return line === ''
    ? 'TypeScript is listening'
    : `TypeScript read ${line.length} letters: ${[...line].reverse().join('')}`;
}

/** The device: a line comes in byte by byte and ends with a newline; the answer goes out until a 0. */
export function lineDevice(): { at: DeviceRange; device: Device } {
  let line = '';
  let pending = [...Buffer.from(answer(''))];
  const device: Device = {
    name: 'line device',
    read: () => pending.shift() ?? 0,
    write(_offset, _width, value) {
      if (value !== NEWLINE) {
        line += String.fromCharCode(Number(value));
        return;
      }
      pending = [...Buffer.from(answer(line))];
      line = '';
    },
  };
  return { at: AT, device };
}
