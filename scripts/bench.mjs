// `npm run bench`: squib's figures, in one run. Compares with QEMU where that is installed.
//
//   node scripts/bench.mjs [workloads] [exits] [startup] [boot] [--rounds N] [--workload NAME] [--kernel F --busybox F]
//
// Without --kernel, the boot bench takes the demo's kernel, and fetches it if the demo has not run yet.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const given = process.argv.slice(2);
const sections = ['workloads', 'exits', 'startup', 'boot'];
const wants = (section) => given.includes(section) || !given.some((arg) => sections.includes(arg));

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error) console.error(`${command} does not run: ${error.message}`);
  if (status !== 0) process.exit(status ?? 1);
}

/** The demo's guest, as arguments for the runner; none where it cannot be fetched. */
async function demoGuest() {
  const { cacheFolder } = await import('../dist/esm/demo/cache.js');
  const { debianGuest } = await import('../dist/esm/demo/debian.js');
  try {
    await debianGuest(cacheFolder(), (line) => console.error(line));
    return ['--kernel', join(cacheFolder(), 'vmlinuz'), '--busybox', join(cacheFolder(), 'busybox')];
  } catch (error) {
    console.error(`no kernel for the boot bench: ${error.message}`);
    return [];
  }
}

const guest = wants('boot') && !given.includes('--kernel') ? await demoGuest() : [];
run('cargo', ['run', '--release', '--quiet', '-p', 'squib-bench', '--', ...given, ...guest]);
if (wants('exits')) run(process.execPath, ['scripts/bench-devices.mjs']);
