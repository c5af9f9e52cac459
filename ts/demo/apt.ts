/** Debian's packages, fetched by the machine's own client. Nothing is installed, and no root is needed. */
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileFromTar } from './tar.js';

/** Told what is being done. */
export type Progress = (what: string) => void;

/** No client, or it cannot get the package. */
export class AptError extends Error {}

/** `apt-get` with its state in a folder of ours, so that lists can be fetched without root, for amd64 on any machine. */
export class Apt {
  readonly #options: string[];
  readonly #folder: string;
  readonly #progress: Progress;

  private constructor(folder: string, options: string[], progress: Progress) {
    this.#folder = folder;
    this.#options = options;
    this.#progress = progress;
  }

  /** The client as the machine has it set up. */
  static system(folder: string, progress: Progress): Apt {
    return new Apt(
      folder,
      ['-o', 'APT::Sandbox::User=', '-o', `Dir::Cache=${join(folder, 'apt/cache')}`],
      progress,
    );
  }

  /** The same with package lists of its own, freshly fetched: where the machine's are missing, old, or for another processor. */
  static async ownLists(folder: string, progress: Progress): Promise<Apt> {
    const state = join(folder, 'apt');
    await mkdir(join(state, 'state/lists/partial'), { recursive: true });
    await mkdir(join(state, 'cache/archives/partial'), { recursive: true });
    const apt = new Apt(
      folder,
      [
        ...[
          '-o',
          'APT::Sandbox::User=',
          '-o',
          `Dir::State=${join(state, 'state')}`,
          '-o',
          `Dir::Cache=${join(state, 'cache')}`,
        ],
        ...[
          '-o',
          'Dir::State::status=/dev/null',
          '-o',
          'APT::Architecture=amd64',
          '-o',
          'APT::Architectures=amd64',
        ],
      ],
      progress,
    );
    progress('fetching package lists');
    await apt.#run('apt-get', ['-q', 'update'], folder);
    return apt;
  }

  /** Names of packages that begin so. */
  async names(prefix: string): Promise<string[]> {
    const out = await this.#run('apt-cache', ['pkgnames', prefix], this.#folder);
    return out.split('\n').filter(Boolean);
  }

  /** Downloads a package and takes one file out of it. */
  async fileOf(pkg: string, wanted: (path: string) => boolean): Promise<Uint8Array> {
    await mkdir(join(this.#folder, 'apt/cache/archives/partial'), { recursive: true });
    const folder = await mkdtemp(join(this.#folder, 'fetch-'));
    try {
      this.#progress(`downloading ${pkg}`);
      await this.#run('apt-get', ['-q', 'download', pkg], folder);
      const deb = (await readdir(folder)).find((name) => name.endsWith('.deb'));
      if (deb === undefined) throw new AptError(`apt-get download ${pkg} left no package`);
      this.#progress(`unpacking ${pkg}`);
      const unpack = spawn('dpkg-deb', ['--fsys-tarfile', join(folder, deb)], {
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      const failed = new Promise<never>((_, reject) => unpack.once('error', reject));
      const file = await Promise.race([fileFromTar(unpack.stdout, wanted), failed]);
      if (file === undefined) throw new AptError(`${pkg} does not hold the file that the demo needs`);
      return file;
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** Runs a client; its standard output, or an error with what it complained of. */
  #run(command: string, args: readonly string[], cwd: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const child = spawn(command, [...this.#options, ...args], { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
      let out = '';
      let complaints = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        out += text;
      });
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        complaints += text;
      });
      child.once('error', () => reject(new AptError(`there is no ${command} on this machine`)));
      child.once('close', (status) => {
        if (status === 0) resolve(out);
        else
          reject(
            new AptError(
              `${command} ${args.join(' ')}: ${complaints.trim().split('\n').at(-1) ?? `status ${status}`}`,
            ),
          );
      });
    });
  }
}
