// What `npm install` does in a clone: builds the addon, squib's own guests and the TypeScript. npm never runs this for
// somebody who installs the published package, which has all three.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

function build(script) {
  const { status } = spawnSync(process.execPath, [`scripts/${script}.mjs`], { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

if (spawnSync('cargo', ['--version'], { stdio: 'ignore' }).status === 0) {
  build('build-addon');
  build('build-guests');
} else if (!readdirSync(root).some((name) => name.endsWith('.node'))) {
  console.error(
    'squib: building the native addon needs Rust; install it from https://rustup.rs, then npm install again',
  );
  process.exit(1);
}
build('build-ts');
