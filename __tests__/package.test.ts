/** What would be published for this platform, installed where there is neither a clone nor Rust. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { native, target } from '../ts/native.cjs';

const ROOT = join(__dirname, '..');
const README = readFileSync(join(ROOT, 'README.md'), 'utf8');

let folder: string;
let archives: string[];
/** Node and the system's tools, but no cargo and no rustc. */
const env = { ...process.env, PATH: [dirname(process.execPath), '/usr/bin', '/bin'].join(delimiter) };

function node(args: readonly string[], cwd = folder) {
  return spawnSync(process.execPath, args, { cwd, env, encoding: 'utf8' });
}

function tool(name: string): string {
  const manifest = join(ROOT, 'node_modules', name, 'package.json');
  const { bin } = JSON.parse(readFileSync(manifest, 'utf8')) as { bin: string | Record<string, string> };
  const file = typeof bin === 'string' ? bin : (Object.values(bin)[0] ?? '');
  return join(dirname(manifest), file);
}

/** The code blocks of the README in this language. */
function blocks(language: string): string[] {
  return [...README.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(
    ([, text = '']) => text,
  );
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'squib-package-'));
  archives = execFileSync(process.execPath, ['scripts/pack.mjs'], { cwd: ROOT, encoding: 'utf8' })
    .trim()
    .split('\n');
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }');
  const options = ['--offline', '--no-audit', '--no-fund', '--ignore-scripts', '--no-save'];
  execFileSync('npm', ['install', ...options, ...archives], { cwd: folder, stdio: 'ignore' });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('the lock file has the packages of every platform, not of one alone', () => {
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { optionalDependencies?: Record<string, string> }>;
  };
  const wanted = Object.values(packages).flatMap((each) => Object.keys(each.optionalDependencies ?? {}));
  expect(wanted.filter((name) => packages[`node_modules/${name}`] === undefined)).toEqual([]);
});

test('there is no Rust on the path of these tests', () => {
  expect(spawnSync('cargo', ['--version'], { env }).error).toMatchObject({ code: 'ENOENT' });
});

test('the packages hold what they should, and are small', () => {
  expect(archives.map((path) => path.replace(/.*\//, ''))).toEqual([
    'squib-0.1.0.tgz',
    `squib-${target()}-0.1.0.tgz`,
  ]);
  const installed = join(folder, 'node_modules/squib');
  const manifest = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'));
  expect(manifest.optionalDependencies[`squib-${target()}`]).toBe(manifest.version);
  expect(manifest.scripts).toBeUndefined();
  const platform = JSON.parse(
    readFileSync(join(folder, `node_modules/squib-${target()}/package.json`), 'utf8'),
  );
  expect(platform).toMatchObject({ os: [process.platform], cpu: [process.arch] });
});

test("the README's example prints what the README says", () => {
  writeFileSync(join(folder, 'example.js'), blocks('ts')[0] ?? '');
  const { stdout, stderr } = node(['example.js']);
  expect(stderr).toBe('');
  expect(stdout).toBe(blocks('text')[0]);
});

test('it can be required as CommonJS', () => {
  mkdirSync(join(folder, 'cjs'), { recursive: true });
  writeFileSync(join(folder, 'cjs/package.json'), '{ "type": "commonjs" }');
  const program =
    "const { Vm, Machine, SquibError } = require('squib'); console.log(typeof Vm.create, typeof Machine.create, SquibError.name)";
  writeFileSync(join(folder, 'cjs/main.js'), program);
  expect(node(['cjs/main.js']).stdout).toBe('function function SquibError\n');
});

test('doctor and the guest that ships run', () => {
  const cli = join('node_modules', '.bin', 'squib');
  const doctor = node([cli, 'doctor', '--json']);
  expect(JSON.parse(doctor.stdout)).toMatchObject({
    target: target(),
    addon: { works: true },
    soft: { works: true },
  });
  expect(doctor.status).toBe(0);
  const run = spawnSync(process.execPath, [cli, 'run', '--backend', 'soft'], {
    cwd: folder,
    env,
    input: 'q',
    encoding: 'utf8',
  });
  expect(run.stdout).toContain('hello from 64-bit mode');
  expect(run.status).toBe(0);
});

test('the types serve strict programs in both formats', () => {
  const [example = '', , machine = ''] = blocks('ts');
  writeFileSync(join(folder, 'typed.ts'), `${example}\nexport {};\n`);
  writeFileSync(join(folder, 'machine.ts'), `${machine}\nexport const end: string = kind;\n`);
  writeFileSync(
    join(folder, 'cjs/typed.ts'),
    "import { type VmExit, Vm } from 'squib';\nexport const run = (vm: Vm): VmExit => vm.createVcpu(0).run();\n" +
      "import { type BaseVm, WasmEngine } from 'squib/wasm';\n" +
      "export const vms = (wasm: WasmEngine): BaseVm[] => [Vm.create({ memory: '4K' }), wasm.createVm({ memory: '4K' })];\n",
  );
  const config = {
    compilerOptions: {
      strict: true,
      noEmit: true,
      module: 'nodenext',
      target: 'es2022',
      lib: ['es2022', 'esnext.disposable', 'dom'],
      types: ['node'],
      typeRoots: [join(ROOT, 'node_modules/@types')],
    },
    include: ['typed.ts', 'cjs/typed.ts'],
  };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config));
  const { stdout } = node([tool('typescript'), '-p', '.']);
  expect(stdout).toBe('');
});

test('the compiler says which kinds of exit a switch forgets', () => {
  // Those of other backends are missing.
  const cases = native()
    .backendCapabilities('soft')
    .exits.map((kind) => `case '${kind}':`);
  const program = `
    import { assertNever, type VmExit } from 'squib';
    export function known(exit: VmExit): boolean {
      switch (exit.kind) {
        ${cases.join(' ')} return true;
        default: return assertNever(exit);
      }
    }`;
  writeFileSync(join(folder, 'forgetful.ts'), program);
  const types = ['--typeRoots', join(ROOT, 'node_modules/@types'), '--types', 'node'];
  const flags = ['--strict', '--noEmit', '--module', 'nodenext', '--target', 'es2022', '--ignoreConfig'];
  const { stdout } = node([tool('typescript'), ...flags, ...types, 'forgetful.ts']);
  expect(stdout).toMatch(/"wfi".* is not assignable to parameter of type 'never'/);
});

test('publint and attw have nothing to say', () => {
  const [archive = ''] = archives;
  expect(node([tool('publint'), 'run', archive, '--strict']).stdout).toContain('All good!');
  // squib.wasm is a file to fetch or to read, and no module.
  const options = ['--exclude-entrypoints', 'squib.wasm', '--no-color', '--no-emoji'];
  const attw = node([tool('@arethetypeswrong/cli'), archive, ...options]);
  expect(attw.stdout).toContain('No problems found');
});

test('where no addon fits, everything says what to do', () => {
  rmSync(join(folder, `node_modules/squib-${target()}`), { recursive: true });
  const cli = join('node_modules', '.bin', 'squib');
  const doctor = node([cli, 'doctor']);
  expect(doctor.stdout).toContain('npm run build');
  expect(doctor.status).toBe(20);
  for (const args of [['run'], ['demo', '--kernel', 'none'], ['inspect', '90']]) {
    const { status, stderr } = node([cli, ...args]);
    expect(stderr).toContain('ERR_ADDON_MISSING');
    expect(status).toBe(20);
  }
  expect(node([cli, 'inspect', 'zz']).status).toBe(2);
  expect(node([cli, 'help']).status).toBe(0);
  const program =
    "import { Vm } from 'squib'; try { Vm.create({ memory: 4096 }) } catch (e) { console.log(e.name, e.code) }";
  expect(node(['--input-type=module', '-e', program]).stdout).toBe('SquibError ERR_ADDON_MISSING\n');
});

test("where no addon fits, the README's example runs in WebAssembly", () => {
  const [example = '', wasm = ''] = blocks('ts');
  const [before, after] = example.split(/^const vm = .*\n/m);
  writeFileSync(join(folder, 'wasm.js'), wasm + before?.replace(/^import .*\n/, '') + after);
  const { stdout, stderr } = node(['wasm.js']);
  expect(stderr).toBe('');
  expect(stdout).toBe(blocks('text')[0]);
});
