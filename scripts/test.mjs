// `npm test`: brings everything up to date, then runs the Rust tests and the TypeScript tests. The last line counts both.
//
//   node scripts/test.mjs [cargo|jest] …   only one of them; further arguments are its own
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const total = { passed: 0, failed: 0 };

/** Adds the counts of one runner; a runner that failed without a failed test counts as one. */
function count(name, passed, failed, status) {
  total.passed += passed;
  total.failed += failed;
  if (status === 0 || failed > 0) return;
  total.failed += 1;
  console.error(`${name} ended with status ${status} without naming a failed test`);
}

/** Runs cargo's tests; shows their output and reads the counts in it. */
function cargo(args) {
  return new Promise((resolve) => {
    const child = spawn('cargo', ['test', '--workspace', '--locked', '--no-fail-fast', ...args], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      process.stdout.write(text);
      out += text;
    });
    child.once('error', (error) => resolve(count(`cargo (${error.message})`, 0, 0, 1)));
    child.once('close', (status) => {
      const results = [...out.matchAll(/^test result: .*? (\d+) passed; (\d+) failed;/gm)];
      const sum = (group) => results.reduce((n, result) => n + Number(result[group]), 0);
      resolve(count('cargo test', sum(1), sum(2), status));
    });
  });
}

/** Runs jest; its counts come from its report. */
function jest(args) {
  const folder = mkdtempSync(join(tmpdir(), 'squib-test-'));
  const report = join(folder, 'jest.json');
  try {
    const runner = join(root, 'node_modules/jest/bin/jest.js');
    const options = ['--json', `--outputFile=${report}`, '--verbose', ...args];
    // The report also goes to standard output, which nobody needs to see.
    const stdio = ['ignore', 'ignore', 'inherit'];
    const { status } = spawnSync(process.execPath, [runner, ...options], { cwd: root, stdio });
    const result = JSON.parse(readFileSync(report, 'utf8'));
    const suites = result.numRuntimeErrorTestSuites;
    count('jest', result.numPassedTests, result.numFailedTests + suites, status);
  } catch (error) {
    count(`jest (${error.message})`, 0, 0, 1);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs a script of this folder, as one check that only counts when it fails. */
function build(script) {
  const { status } = spawnSync(process.execPath, [`scripts/${script}.mjs`], { cwd: root, stdio: 'inherit' });
  if (status !== 0) count(script, 0, 0, status ?? 1);
}

const [only, ...rest] = process.argv.slice(2);
if (only !== 'jest') await cargo(only === 'cargo' ? rest : []);
if (only !== 'cargo') {
  build('prepare');
  build('build-wasm');
  jest(only === 'jest' ? rest : []);
}
console.log(`${total.passed} passed, ${total.failed} failed`);
process.exitCode = total.failed === 0 ? 0 : 1;
