/**
 * The one place that loads the native addon: the platform package that npm chose, or the one built in a clone.
 *
 * CommonJS in both builds of this package, because only `require` loads an addon.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** What the addon exports. */
export type Addon = typeof import('./binding.cjs');

/** The name of this platform as napi's packages spell it, such as `linux-x64-gnu`. */
export function target(): string {
  const { platform, arch } = process;
  if (platform === 'linux') return `linux-${arch}-${isMusl() ? 'musl' : 'gnu'}`;
  if (platform === 'win32') return `win32-${arch}-msvc`;
  return `${platform}-${arch}`;
}

/** Whether this node is linked with musl: then its report names no version of glibc. */
function isMusl(): boolean {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
  return report !== undefined && report.header?.glibcVersionRuntime === undefined;
}

/** The folder of this package: the nearest one above that holds a `package.json` named squib. */
export function packageRoot(): string {
  for (let folder = __dirname; ; folder = dirname(folder)) {
    const manifest = join(folder, 'package.json');
    if (existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).name === 'squib') return folder;
    if (dirname(folder) === folder) return __dirname;
  }
}

let loaded: Addon | undefined;

/**
 * The addon, loaded when it is first needed, so that importing squib works on every platform.
 *
 * @throws an `Error` with code `ERR_ADDON_MISSING` that says what to do.
 */
export function native(): Addon {
  loaded ??= load();
  return loaded;
}

function load(): Addon {
  const name = target();
  const local = join(packageRoot(), `squib.${name}.node`);
  const candidates = existsSync(local) ? [local] : [`squib-${name}`];
  const reasons: string[] = [];
  for (const candidate of candidates) {
    try {
      return require(candidate) as Addon;
    } catch (error) {
      reasons.push(error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error));
    }
  }
  const message =
    `squib has no native addon for ${name} here (${reasons.join('; ')}). ` +
    `In a clone, build it: npm run build. Otherwise install squib again without --omit=optional, ` +
    `or see the README for the platforms that have one.`;
  throw Object.assign(new Error(message), { code: 'ERR_ADDON_MISSING' });
}
