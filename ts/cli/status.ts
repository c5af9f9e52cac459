/** Exit statuses of the `squib` command, said once. */
import { SquibError } from '../errors.js';
import { native } from '../native.cjs';

/** Each exit status and what it means. Those of outcomes are even, so that they never meet a debug exit's. */
export const STATUSES: readonly (readonly [status: string, meaning: string])[] = [
  ['0', 'the guest powered itself off; or the command did what it was asked'],
  ['(v << 1) | 1', 'the guest wrote v to the debug-exit port 0xf4'],
  ['2', 'bad arguments, or an image that is none'],
  ['10', 'the guest asked for a reset'],
  ['12', "the guest's kernel panicked, and then asked for a reset (panic=-1)"],
  ['14', 'triple fault'],
  ['16', 'the guest did something that nobody can go on from, or squib failed'],
  ['20', 'the backend is missing or cannot be used here'],
  ['124', 'time-out'],
  ['130', 'stopped by the user'],
  ['128 + n', 'ended by signal n'],
];

/** Status of bad arguments. */
export const BAD_ARGUMENTS = 2;
/** Status where the guest, or squib, cannot go on. */
export const FAILED = 16;
/** Status where nothing can run a guest. */
export const UNUSABLE = 20;

/** The exit status for an error. */
export function statusOf(error: unknown): number {
  if (!(error instanceof SquibError)) return FAILED;
  // These two can come where there is no addon to ask.
  if (error.code === 'ERR_ADDON_MISSING') return UNUSABLE;
  if (error.code === 'ERR_INVALID_ARGUMENT') return BAD_ARGUMENTS;
  return native().errorStatus(error.code);
}
