// `npm run userland`: runs programs of a Debian userland on the host and in a guest, and compares what they print.
//
//   node scripts/userland/main.mjs [--backend soft|kvm] [--cpu MODEL]
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { cacheFolder } from '../../dist/esm/demo/cache.js';
import { debianGuest } from '../../dist/esm/demo/debian.js';
import { defaultCommandLine, Machine } from '../../dist/esm/index.js';
import { ramDisk, userlandFiles } from './files.mjs';

const { values } = parseArgs({
  options: { backend: { type: 'string', default: 'soft' }, cpu: { type: 'string' } },
});
const say = (what) => console.error(`userland: ${what}`);

/** Cuts a stream of text into programs: what each printed, and how long it took in milliseconds. */
class Transcript {
  programs = new Map();
  /** The lines of no program. */
  others = [];
  #text = '';
  #name;
  #since;

  constructor(seen) {
    this.seen = seen;
  }

  add(text) {
    this.#text += text;
    const lines = this.#text.split('\n');
    this.#text = lines.pop();
    for (const line of lines) this.#line(line.replace(/\r$/, ''));
  }

  #line(line) {
    const now = performance.now();
    if (line.startsWith('@@')) {
      this.#name = line.slice(3) || undefined;
      this.#since = now;
      if (this.#name !== undefined) this.programs.set(this.#name, { printed: '', ms: 0 });
    } else if (this.#name !== undefined) {
      const program = this.programs.get(this.#name);
      program.printed += `${line}\n`;
      program.ms = now - this.#since;
      if (line.startsWith('@= ')) this.seen(this.#name, program);
    } else {
      this.others.push(line);
    }
  }
}

function onHost(files) {
  const host = new Transcript(() => {});
  return new Promise((resolve, reject) => {
    const script = fileURLToPath(new URL('host.sh', import.meta.url));
    const child = spawn('unshare', ['--map-root-user', '--mount', 'sh', script, files], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    child.stdout.setEncoding('utf8').on('data', (text) => host.add(text));
    child.once('error', reject);
    child.once('close', (status) =>
      status === 0 ? resolve(host.programs) : reject(new Error(`the programs on the host: status ${status}`)),
    );
  });
}

async function inGuest(kernel, initrd, seen) {
  const guest = new Transcript(seen);
  // Without the kernel's messages, which would stand between the programs' lines.
  const cmdline = `${defaultCommandLine()} loglevel=1`;
  const machine = await Machine.create({ ...values, kernel, initrd, cmdline, memory: '3G' });
  const decoder = new TextDecoder();
  machine.on('output', (bytes) => guest.add(decoder.decode(bytes, { stream: true })));
  try {
    const { kind } = await machine.run({ signal: AbortSignal.timeout(60 * 60_000) });
    if (kind !== 'powerOff') say(`the guest ended with ${kind}: ${guest.others.slice(-30).join('\n')}`);
  } finally {
    machine.close();
  }
}

const cache = join(cacheFolder(), 'userland');
const files = userlandFiles(cache, say);
const { kernel, kernelPackage } = await debianGuest(cacheFolder(), say);
say('running the programs on the host');
const expected = await onHost(files);
say(`running them on ${values.backend}, CPU model ${values.cpu ?? 'v1'}, under ${kernelPackage}`);
let same = 0;
await inGuest(kernel, ramDisk(cache, files), (name, { printed, ms }) => {
  const host = expected.get(name);
  const equal = host?.printed === printed;
  if (equal) same += 1;
  const times = host === undefined ? '' : `${(ms / host.ms).toFixed(1)}x the host's time`;
  console.log(`${equal ? 'same   ' : 'DIFFERS'}  ${name.padEnd(26)}${times}`);
  if (!equal) console.log(`--- host\n${host?.printed}--- guest\n${printed}`);
});
console.log(`${same} of ${expected.size} programs print in the guest what they print on the host`);
process.exitCode = same === expected.size && same > 0 ? 0 : 1;
