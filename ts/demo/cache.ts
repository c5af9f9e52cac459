/** Where the demo keeps what it fetched. */
import { homedir } from 'node:os';
import { join } from 'node:path';

/** The user's cache folder for squib (XDG Base Directory Specification; on macOS as its guidelines have it). */
export function cacheFolder(): string {
  const xdg = process.env['XDG_CACHE_HOME'];
  if (xdg) return join(xdg, 'squib');
  return process.platform === 'darwin'
    ? join(homedir(), 'Library/Caches/squib')
    : join(homedir(), '.cache/squib');
}
