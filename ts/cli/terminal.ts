/** The user's terminal as the guest's console: raw while the guest runs, and restored whatever happens. */
import { constants } from 'node:os';
import type { Machine } from '../machine.js';
import { EscapeFilter, escapeName } from './escape.js';

/** Signals that end squib; the terminal is restored first. */
const SIGNALS = ['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP'] as const;

/** The machine's console on the terminal. */
export interface Attachment {
  /** The signal that ended squib, as an exit status, if one did. */
  readonly signalStatus: number | undefined;
  /** Restores the terminal. */
  detach(): void;
}

/**
 * Shows the machine's output, and types what the user types into it.
 *
 * @param escapeCode code of the escape character, if there is one
 * @param quit called when the user, or a signal, wants to stop
 */
export function attach(machine: Machine, escapeCode: number | undefined, quit: () => void): Attachment {
  const { stdin, stdout, stderr } = process;
  const filter = new EscapeFilter(stdin.isTTY ? escapeCode : undefined);
  let signalStatus: number | undefined;

  const help = () => {
    const key = escapeCode === undefined ? '' : escapeName(escapeCode);
    stderr.write(`\r\n${key} x  quit\r\n${key} h  this help\r\n${key} ${key}  send ${key} to the guest\r\n`);
  };
  const typed = (bytes: Buffer) => {
    const guest = filter.feed(bytes, (command) => (command === 'quit' ? quit() : help()));
    // The machine may end while somebody types.
    if (guest.length > 0) machine.console.write(guest).catch(() => {});
  };
  const printed = (bytes: Uint8Array) => void stdout.write(bytes);
  const signalled = (signal: (typeof SIGNALS)[number]) => {
    signalStatus = 128 + constants.signals[signal];
    quit();
  };
  const restore = () => {
    if (stdin.isTTY) stdin.setRawMode(false);
  };

  if (stdin.isTTY) stdin.setRawMode(true);
  // 'exit' comes after an uncaught exception too.
  process.once('exit', restore);
  for (const signal of SIGNALS) process.on(signal, signalled);
  machine.on('output', printed);
  stdin.on('data', typed);

  return {
    get signalStatus() {
      return signalStatus;
    },
    detach() {
      restore();
      process.removeListener('exit', restore);
      for (const signal of SIGNALS) process.removeListener(signal, signalled);
      machine.removeListener('output', printed);
      stdin.removeListener('data', typed);
      // Nothing further is read, so the process may end.
      stdin.pause();
      stdin.unref?.();
    },
  };
}
