// Cross-compiles squib-hvf for macOS on Apple silicon, and links its example: nothing here runs it.
//
//   node scripts/check-hvf.mjs
//
// The linker asks which symbols Hypervisor.framework has. Apple's own list comes with Xcode; this one is made of the calls that
// macos/ffi.rs declares, so what is linked is that each of them is declared once and used as a function, and not that the framework
// has it. What is not there is skipped, out loud. The last line counts.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { crossEnvironment, Missing, needTarget } from './cross.mjs';
import { root, run } from './rig-shared.mjs';

const TARGET = 'aarch64-apple-darwin';
const FRAMEWORK = '/System/Library/Frameworks/Hypervisor.framework/Versions/A/Hypervisor';

const declarations = readFileSync(`${root}crates/squib-hvf/src/macos/ffi.rs`, 'utf8');
const symbols = [...declarations.matchAll(/^ {4}fn (hv_\w+)\(/gm)].map(([, name]) => `_${name}`);

/** The framework for the linker: a list of symbols as text (tapi-tbd, version 4). */
const stub = `--- !tapi-tbd
tbd-version: 4
targets: [ arm64-macos ]
install-name: '${FRAMEWORK}'
exports:
  - targets: [ arm64-macos ]
    symbols: [ ${symbols.join(', ')} ]
...
`;

/** Whether the linked program is one for macOS that takes all of the symbols from the framework. */
function check(program) {
  const wanted = [FRAMEWORK, ...symbols];
  const missing = wanted.filter((name) => !program.includes(`${name}\0`));
  const mach = program.readUInt32LE(0) === 0xfeedfacf;
  if (!mach) console.error('the program is no Mach-O of 64 bits');
  for (const name of missing) console.error(`the program does not name ${name}`);
  return mach && missing.length === 0;
}

function link(env) {
  const sdk = mkdtempSync(`${tmpdir()}/squib-hvf-`);
  try {
    const framework = `${sdk}/System/Library/Frameworks/Hypervisor.framework`;
    mkdirSync(framework, { recursive: true });
    writeFileSync(`${framework}/Hypervisor.tbd`, stub);
    const args = ['zigbuild', '--locked', '-p', 'squib-hvf', '--example', 'first_exit', '--target', TARGET];
    const { status } = run('cargo', args, { stdio: 'inherit', env: { ...env, SDKROOT: sdk } });
    return status === 0 && check(readFileSync(`${root}target/${TARGET}/debug/examples/first_exit`));
  } finally {
    rmSync(sdk, { recursive: true });
  }
}

try {
  needTarget(TARGET);
  const passed = link(crossEnvironment());
  console.log(passed ? '1 passed, 0 failed' : '0 passed, 1 failed');
  process.exitCode = passed ? 0 : 1;
} catch (error) {
  if (!(error instanceof Missing)) throw error;
  console.log(`SKIPPED: squib-hvf for macOS, because ${error.message}\n0 passed, 0 failed`);
}
