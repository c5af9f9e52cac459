// Compiles ts/ twice: as ES modules into dist/esm, and the library without the command line as CommonJS into dist/cjs.
import { spawnSync } from 'node:child_process';
import { copyFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const tsc = fileURLToPath(new URL('../node_modules/typescript/bin/tsc', import.meta.url));

for (const format of ['esm', 'cjs']) {
  rmSync(`${root}dist/${format}`, { recursive: true, force: true });
  const { status } = spawnSync(process.execPath, [tsc, '-p', `ts/tsconfig.${format}.json`], {
    cwd: root,
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
  // The compiler copies no declarations that it did not make.
  copyFileSync(`${root}ts/binding.d.cts`, `${root}dist/${format}/binding.d.cts`);
}
writeFileSync(`${root}dist/cjs/package.json`, '{ "type": "commonjs" }\n');
