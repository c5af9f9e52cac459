/** Output that nobody takes. */
import { constants } from 'node:os';
import { FAILED } from './status.js';

/** Ends squib when its output cannot be written: without a word where the reader has gone, as SIGPIPE would. */
export function endWithoutOutput(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(128 + constants.signals.SIGPIPE);
    process.stderr.write(`squib: cannot write to standard output: ${error.message}\n`);
    process.exit(FAILED);
  });
  // There is nobody left to tell.
  process.stderr.on('error', () => {});
}
