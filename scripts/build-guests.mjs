// Assembles squib's own guests into dist/guests/: the demo's, and those of the tests.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const cargo = ['run', '--quiet', '-p', 'squib-guests', '--', '--out', 'dist/guests'];
const { status } = spawnSync('cargo', cargo, { cwd: root, stdio: 'inherit' });
process.exit(status ?? 1);
