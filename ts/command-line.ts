/** What kernels are told. */
import { guard } from './errors.js';
import { native } from './native.cjs';

/**
 * The command line of a {@link Machine}'s kernel when nobody asks for another: what Linux needs to know of this board, so
 * that it prints on the console and resets after a panic, and boots without testing its ciphers first.
 *
 * @param more words to put behind it; where Linux takes a word only once, the last one counts
 */
export function defaultCommandLine(more = ''): string {
  const words = guard(() => native().DEFAULT_COMMAND_LINE);
  return more === '' ? words : `${words} ${more}`;
}
