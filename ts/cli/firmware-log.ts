/** Firmware's log: bytes at port 0x402, as SeaBIOS and EDK II write them. */
import type { Device, PioRange } from '../device.js';

/** What a read gives where somebody listens. */
const PRESENT = 0xe9;

/** A device that passes the log on to standard output. */
export function firmwareLog(): { at: PioRange; device: Device } {
  return {
    at: { port: 0x402, length: 1 },
    device: {
      name: 'firmware log',
      read: () => PRESENT,
      write: (_offset, _width, value) => {
        process.stdout.write(Uint8Array.of(Number(value)));
      },
    },
  };
}
