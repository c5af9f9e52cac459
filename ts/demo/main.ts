/** `squib demo`: an unmodified Debian kernel with busybox, and a device in TypeScript that it uses. */
import { parseArgs } from 'node:util';
import type { BackendChoice } from '../backend.js';
import { escapeCode, escapeName } from '../cli/escape.js';
import { attach } from '../cli/terminal.js';
import { defaultCommandLine } from '../command-line.js';
import { SquibError } from '../errors.js';
import { Machine, type MachineOptions, type Outcome } from '../machine.js';
import { AptError } from './apt.js';
import { cacheFolder } from './cache.js';
import { debianGuest } from './debian.js';
import { GREETER_AT, greeter } from './greeter.js';
import { initramfs, SCRIPT_MODE, USERLAND_MARK } from './initramfs.js';
import { lineDevice } from './line-device.js';
import { ownGuest } from './own-guest.js';
import { Timeline } from './timeline.js';

const ESCAPE = escapeCode('a');

/** What `squib demo` takes, for `squib help`. */
export const DEMO_OPTIONS: readonly (readonly [option: string, meaning: string])[] = [
  ['--kernel FILE', 'a Linux kernel of your own instead of Debian’s'],
  ['--initrd FILE', 'its initial RAM disk'],
  ['--backend NAME', 'auto, kvm, soft; default auto'],
  ['--script', 'run the script and power off, on a terminal too'],
];

/** Options of the demo. */
interface DemoArguments {
  readonly kernel: string | undefined;
  readonly initrd: string | undefined;
  readonly backend: BackendChoice | undefined;
  readonly interactive: boolean;
}

/** What the demo boots, and what it is called. */
interface Guest {
  readonly title: string;
  readonly options: MachineOptions;
  /** Typed on the console where there is nobody to type. */
  readonly typed: string;
}

function parse(argv: readonly string[]): DemoArguments {
  const text = { type: 'string' } as const;
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: { kernel: text, initrd: text, backend: text, script: { type: 'boolean' } },
    });
    const interactive =
      process.stdin.isTTY === true && process.stdout.isTTY === true && values.script !== true;
    return {
      kernel: values.kernel,
      initrd: values.initrd,
      backend: values.backend as BackendChoice | undefined,
      interactive,
    };
  } catch (error) {
    throw new SquibError('ERR_INVALID_ARGUMENT', (error as Error).message, { cause: error });
  }
}

function say(text: string): void {
  process.stderr.write(`squib: ${text}\n`);
}

/** Runs the demo, and gives the exit status: 0 when the guest powered off or the user quit. */
export async function demo(argv: readonly string[]): Promise<number> {
  const args = parse(argv);
  const timeline = new Timeline();
  const guest = await chooseGuest(args, timeline);
  timeline.mark('kernel and userland at hand');
  await using machine = await Machine.create(guest.options);
  timeline.mark(`machine built, ${guest.title} loaded`);
  say(`${guest.title} on the ${machine.backend.backend} backend (${machine.backend.reason})`);
  if (args.interactive && ESCAPE !== undefined)
    say(`${escapeName(ESCAPE)} x quits, ${escapeName(ESCAPE)} h helps`);
  watch(machine, timeline);
  const outcome = args.interactive ? await interact(machine) : await runAlone(machine, guest.typed);
  const quit = args.interactive && outcome.kind === 'aborted';
  timeline.mark(`the guest ended: ${quit ? 'you quit' : outcome.kind}`);
  const { firstOutputMs, userspaceMs } = machine.stats;
  if (firstOutputMs !== undefined) timeline.mark('first output', machine.created + firstOutputMs);
  if (userspaceMs !== undefined)
    timeline.mark('user space: the first process runs', machine.created + userspaceMs);
  process.stdout.write(`\nboot timeline\n${timeline}\n`);
  return quit ? 0 : outcome.status;
}

/** Notes when the userland says that it is up. */
function watch(machine: Machine, timeline: Timeline): void {
  let tail = '';
  const look = (bytes: Uint8Array) => {
    tail = (tail + Buffer.from(bytes).toString('latin1')).slice(-(bytes.length + USERLAND_MARK.length));
    if (!tail.includes(USERLAND_MARK)) return;
    timeline.mark('the script of the userland runs');
    machine.removeListener('output', look);
  };
  machine.on('output', look);
}

async function interact(machine: Machine): Promise<Outcome> {
  const stop = new AbortController();
  const terminal = attach(machine, ESCAPE, () => stop.abort());
  try {
    return await machine.run({ signal: stop.signal });
  } finally {
    terminal.detach();
  }
}

async function runAlone(machine: Machine, typed: string): Promise<Outcome> {
  machine.on('output', (bytes) => process.stdout.write(bytes));
  const run = machine.run();
  await machine.console.write(typed);
  return await run;
}

/** What the guest's shell has to know of the user's terminal. Linux hands such words to its first process as environment. */
function terminalWords(): string {
  const { columns, rows } = process.stdout;
  const term = process.env['TERM'] ?? '';
  const known = /^[\w.+-]+$/.test(term) ? `TERM=${term} ` : '';
  // A terminal that does not know its size says 0.
  return `${known}LINES=${rows || 24} COLUMNS=${columns || 80}`;
}

async function chooseGuest(args: DemoArguments, timeline: Timeline): Promise<Guest> {
  const greeted = (name: string) => timeline.mark(`the guest used the TypeScript device: ${name}`);
  const linux = {
    cmdline: defaultCommandLine(args.interactive ? terminalWords() : SCRIPT_MODE),
    backend: args.backend,
    devices: [{ at: GREETER_AT, device: greeter(greeted) }],
  };
  if (args.kernel !== undefined) {
    return { title: args.kernel, options: { ...linux, kernel: args.kernel, initrd: args.initrd }, typed: '' };
  }
  try {
    const { kernelPackage, kernel, busybox } = await debianGuest(cacheFolder(), say);
    return { title: kernelPackage, options: { ...linux, kernel, initrd: initramfs(busybox) }, typed: '' };
  } catch (error) {
    if (!(error instanceof AptError)) throw error;
    say(`Debian's kernel cannot be fetched here: ${error.message}.`);
    say('To boot one of your own: npm run demo -- --kernel vmlinuz --initrd initrd.img');
    say('Until then, a guest of our own, which needs no operating system:');
    const options = { kernel: ownGuest(), backend: args.backend, devices: [lineDevice()] };
    return { title: "squib's own guest", options, typed: 'hello\rq' };
  }
}
