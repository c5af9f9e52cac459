/** The demo's device in TypeScript: a guest writes a name and reads a greeting. */
import type { Device, MmioRange } from '../device.js';

/** Where it is: in the part of memory that the board leaves to devices. */
export const GREETER_AT: MmioRange = { address: 0xd000_0000, length: 128 };

const NEWLINE = 10;

/**
 * The device. Bytes written to it are a name, which a newline ends. Reads give the greeting, the first letter in the
 * highest byte, so that a number printed in hexadecimal can be read from left to right.
 *
 * @param onGreeting told of each name
 */
export function greeter(onGreeting: (name: string) => void): Device {
  const greeting = Buffer.alloc(GREETER_AT.length);
  let name = '';
  let greeted = 0;
  return {
    name: 'greeter',
    read(offset, width) {
      return BigInt(`0x${greeting.toString('hex', offset, offset + width)}`);
    },
    write(_offset, _width, value) {
      if (value !== NEWLINE) {
        name = (name + String.fromCharCode(Number(value) & 0x7f)).slice(0, 32);
        return;
      }
      greeted += 1;
      greeting.fill(0);
      greeting.write(
        `Hello ${name}, this is TypeScript in node ${process.version}; greeting number ${greeted}.`,
      );
      onGreeting(name);
      name = '';
    },
  };
}
