/** `squib run`: boots a machine on this terminal. */
import { parseArgs } from 'node:util';
import { BACKEND_CHOICES, type BackendChoice } from '../backend.js';
import { defaultCommandLine } from '../command-line.js';
import { lineDevice } from '../demo/line-device.js';
import { ownGuest } from '../demo/own-guest.js';
import { SquibError } from '../errors.js';
import { Machine, type MachineOptions } from '../machine.js';
import { escapeCode } from './escape.js';
import { firmwareLog } from './firmware-log.js';
import { statsObject, statsText } from './stats.js';
import { attach } from './terminal.js';

/** What `squib run` takes, for `squib help`. */
export const RUN_OPTIONS: readonly (readonly [option: string, meaning: string])[] = [
  ['--kernel FILE', 'bzImage, vmlinux, or a multiboot or PVH program; without it, a guest of squib’s own'],
  ['--firmware FILE', 'firmware instead, such as SeaBIOS; its log goes to standard output'],
  ['--initrd FILE', 'initial RAM disk'],
  ['--append TEXT', 'words to put behind the default kernel command line'],
  ['--cmdline TEXT', 'the whole command line instead'],
  ['--memory SIZE', 'RAM, such as 256M or 1G; default 256M'],
  ['--cpus N', 'vCPUs; default 1'],
  ['--cpu MODEL', 'v1, v2 or max, with changes: v2,+aes,-popcnt,vendor=amd; default v1'],
  ['--backend NAME', `${BACKEND_CHOICES.join(', ')}; default auto`],
  ['--test-device', 'add the device that kvm-unit-tests look for'],
  ['--timeout SECONDS', 'end the machine after so long, fractions allowed; default never'],
  ['--stats[=json]', 'print statistics to standard error at the end'],
  ['--escape LETTER', 'Ctrl-LETTER x quits, Ctrl-LETTER h helps; default a; none for no escape'],
];

/** Options of a run, checked. */
interface RunArguments {
  readonly machine: MachineOptions;
  readonly timeoutMs: number | undefined;
  readonly stats: 'text' | 'json' | undefined;
  readonly escape: number | undefined;
}

function parse(argv: readonly string[]): RunArguments {
  // parseArgs knows no option whose value may be left out.
  const args = argv.map((arg) => (arg === '--stats' ? '--stats=text' : arg));
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    args,
    options: {
      ...{ kernel: text, firmware: text, initrd: text, append: text, cmdline: text },
      ...{ memory: text, cpus: text, cpu: text },
      ...{ backend: text, timeout: text, stats: text, escape: text },
      'test-device': { type: 'boolean' },
    },
  });
  const { kernel, firmware, append, cmdline, stats } = values;
  const ownGuestRuns = kernel === undefined && firmware === undefined;
  if (append !== undefined && cmdline !== undefined)
    throw new RangeError('--append has no default to follow where --cmdline is the whole line');
  if (stats !== undefined && stats !== 'text' && stats !== 'json')
    throw new RangeError('--stats takes json or nothing');
  return {
    machine: {
      kernel: ownGuestRuns ? ownGuest() : kernel,
      firmware,
      initrd: values.initrd,
      cmdline: cmdline ?? (firmware === undefined ? defaultCommandLine(append) : append),
      memory: values.memory,
      cpus: values.cpus === undefined ? 1 : numeric('--cpus', values.cpus),
      cpu: values.cpu,
      backend: values.backend as BackendChoice | undefined,
      testDevice: values['test-device'],
      devices: ownGuestRuns ? [lineDevice()] : firmware === undefined ? [] : [firmwareLog()],
    },
    timeoutMs:
      values.timeout === undefined ? undefined : numeric('--timeout', values.timeout, MAX_TIMEOUT) * 1000,
    stats,
    escape: escapeCode(values.escape ?? 'a'),
  };
}

/** Seconds that a timer of node's can wait: 24 days. */
const MAX_TIMEOUT = 2_147_483;

function numeric(option: string, value: string, max = Number.MAX_SAFE_INTEGER): number {
  const number = Number(value);
  if (value.trim() === '' || !(number >= 0 && number <= max)) {
    throw new RangeError(`${option} takes a number from 0 to ${max}, not ${JSON.stringify(value)}`);
  }
  return number;
}

/** Arguments that are wrong in form are the caller's fault, as those that squib itself refuses. */
function parseOrRefuse(argv: readonly string[]): RunArguments {
  try {
    return parse(argv);
  } catch (error) {
    if (error instanceof SquibError) throw error;
    throw new SquibError('ERR_INVALID_ARGUMENT', (error as Error).message, { cause: error });
  }
}

/** Runs a machine, and gives the exit status. */
export async function run(argv: readonly string[]): Promise<number> {
  const args = parseOrRefuse(argv);
  await using machine = await Machine.create(args.machine);
  process.stderr.write(`squib: backend ${machine.backend.backend} (${machine.backend.reason})\n`);
  const stop = new AbortController();
  const timer =
    args.timeoutMs === undefined ? undefined : setTimeout(() => stop.abort(timedOut()), args.timeoutMs);
  const terminal = attach(machine, args.escape, () => stop.abort());
  const start = performance.now();
  try {
    const outcome = await machine.run({ signal: stop.signal });
    const seconds = (performance.now() - start) / 1000;
    terminal.detach();
    if (args.stats === 'json')
      process.stderr.write(`${JSON.stringify(statsObject(machine, outcome, seconds))}\n`);
    if (args.stats === 'text') process.stderr.write(`\n${statsText(machine, outcome, seconds)}\n`);
    if (outcome.exit !== undefined)
      process.stderr.write(`squib: the guest could not go on: ${describe(outcome.exit)}\n`);
    return terminal.signalStatus ?? outcome.status;
  } finally {
    clearTimeout(timer);
    terminal.detach();
  }
}

function timedOut(): DOMException {
  return new DOMException('--timeout', 'TimeoutError');
}

function describe(exit: object): string {
  return JSON.stringify(exit, (_key, value) =>
    typeof value === 'bigint' ? `0x${value.toString(16)}` : value,
  );
}
