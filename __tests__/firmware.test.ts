/** Firmware: SeaBIOS, where Debian's package of it can be had. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Apt } from '../ts/demo/apt.js';
import { cacheFolder } from '../ts/demo/cache.js';
import { type Device, Machine } from '../ts/index.js';
import { codeOfAsync } from './support/vm.js';

const LOG_PORT = 0x402;
const IMAGES = ['bios-256k.bin', 'bios-microvm.bin'];

/** A file of Debian's `seabios` package: from the cache, else from the machine's package client; or why it cannot be had. */
async function seabios(name: string): Promise<Uint8Array | string> {
  const folder = join(cacheFolder(), 'seabios');
  const path = join(folder, name);
  try {
    return readFileSync(path);
  } catch {
    // Not there yet.
  }
  mkdirSync(folder, { recursive: true });
  try {
    const bytes = await Apt.system(folder, () => undefined).fileOf('seabios', (file) =>
      file.endsWith(`/${name}`),
    );
    writeFileSync(path, bytes);
    return bytes;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Collects a log, and tells when a line has come. */
function log(line: string, come: () => void): { device: Device; text: () => string } {
  let text = '';
  return {
    text: () => text,
    device: {
      name: 'log',
      read: () => 0xe9,
      write: (_offset, _width, value) => {
        text += String.fromCharCode(Number(value));
        if (text.endsWith(line)) come();
      },
    },
  };
}

test.each(IMAGES)(
  '%s starts at the reset vector and tries to boot',
  async (name) => {
    const firmware = await seabios(name);
    if (typeof firmware === 'string') {
      console.warn(`SKIPPED: SeaBIOS in a machine, because the package seabios cannot be had: ${firmware}`);
      return;
    }
    const stop = new AbortController();
    const { device, text } = log('No bootable device.', () => stop.abort());
    const devices = [{ at: { port: LOG_PORT, length: 1 }, device }];
    await using machine = await Machine.create({ firmware, memory: '128M', backend: 'soft', devices });
    expect(machine.boot).toMatchObject({ protocol: 'firmware', entry: 0xffff_fff0n });
    const { kind } = await machine.run({
      signal: AbortSignal.any([stop.signal, AbortSignal.timeout(60_000)]),
    });
    expect(text()).toMatch(/^SeaBIOS \(version /);
    expect(text()).toContain('RamSize: 0x08000000');
    expect(text()).toContain('Booting from Hard Disk...');
    expect(kind).toBe('aborted');
  },
  90_000,
);

test('a machine has a kernel or firmware, and firmware is a ROM', async () => {
  const rom = new Uint8Array(64 << 10);
  const code = (options: object) =>
    codeOfAsync(Machine.create({ backend: 'soft', memory: '1M', ...options }));
  expect(await code({})).toBe('ERR_INVALID_ARGUMENT');
  expect(await code({ kernel: rom, firmware: rom })).toBe('ERR_INVALID_ARGUMENT');
  expect(await code({ firmware: rom, cmdline: 'quiet' })).toBe('ERR_INVALID_ARGUMENT');
  expect(await code({ firmware: rom.subarray(1) })).toBe('ERR_IMAGE_FORMAT');
});
