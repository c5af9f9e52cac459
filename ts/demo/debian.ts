/** Debian's kernel and busybox for the demo: fetched once, then from the cache. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Apt, AptError, type Progress } from './apt.js';

/** What the demo boots. */
export interface DebianGuest {
  /** The kernel's package, which names its version. */
  readonly kernelPackage: string;
  readonly kernel: Uint8Array;
  readonly busybox: Uint8Array;
}

const KERNEL_PREFIX = 'linux-image-6.12';
const KERNEL_SUFFIX = '-cloud-amd64';
const BUSYBOX = 'busybox-static';

/** The guest in `folder`, fetched if it is not there yet. */
export async function debianGuest(folder: string, progress: Progress): Promise<DebianGuest> {
  return (await cached(folder)) ?? (await fetch(folder, progress));
}

async function cached(folder: string): Promise<DebianGuest | undefined> {
  try {
    const kernelPackage = (await readFile(join(folder, 'kernel-package'), 'utf8')).trim();
    const [kernel, busybox] = await Promise.all([
      readFile(join(folder, 'vmlinuz')),
      readFile(join(folder, 'busybox')),
    ]);
    return { kernelPackage, kernel, busybox };
  } catch {
    return undefined;
  }
}

async function fetch(folder: string, progress: Progress): Promise<DebianGuest> {
  await mkdir(folder, { recursive: true });
  try {
    if (process.arch !== 'x64') throw new AptError('the machine is no amd64');
    return await fetchWith(Apt.system(folder, progress), folder);
  } catch (error) {
    if (!(error instanceof AptError)) throw error;
    progress(`${error.message}; trying again with package lists of our own`);
    return await fetchWith(await Apt.ownLists(folder, progress), folder);
  }
}

async function fetchWith(apt: Apt, folder: string): Promise<DebianGuest> {
  const kernels = (await apt.names(KERNEL_PREFIX)).filter(
    (name) => name.endsWith(KERNEL_SUFFIX) && !name.includes('unsigned'),
  );
  const kernelPackage = kernels.sort(byVersion).at(-1);
  if (kernelPackage === undefined)
    throw new AptError(`there is no package ${KERNEL_PREFIX}*${KERNEL_SUFFIX}`);
  const kernel = await apt.fileOf(kernelPackage, (path) => path.startsWith('./boot/vmlinuz-'));
  const busybox = await apt.fileOf(BUSYBOX, (path) => path.endsWith('bin/busybox'));
  await store(join(folder, 'vmlinuz'), kernel);
  await store(join(folder, 'busybox'), busybox);
  // Last, so that an interrupted fetch is not taken for a whole one.
  await store(join(folder, 'kernel-package'), `${kernelPackage}\n`);
  return { kernelPackage, kernel, busybox };
}

/** Orders names by the numbers in them. */
function byVersion(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

/** Writes a file whole or not at all. */
async function store(path: string, data: Uint8Array | string): Promise<void> {
  const unfinished = `${path}.${process.pid}`;
  await writeFile(unfinished, data);
  await rename(unfinished, path);
}
