/** The demo: its parts, and the whole of it where Debian's packages can be had. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { characterDevice, cpio, executable, folder } from '../ts/demo/cpio.js';
import { greeter } from '../ts/demo/greeter.js';
import { initramfs } from '../ts/demo/initramfs.js';
import { fileFromTar } from '../ts/demo/tar.js';
import { Timeline } from '../ts/demo/timeline.js';

const CLI = join(__dirname, '../dist/esm/cli/main.js');

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'squib-demo-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

test('a cpio archive holds headers, names and contents, each padded to 4 bytes', () => {
  const archive = Buffer.from(cpio([folder('d'), executable('d/x', 'hello'), characterDevice('c', 5, 1)]));
  const text = archive.toString('latin1');
  expect(archive.length % 4).toBe(0);
  expect(text.startsWith('070701')).toBe(true);
  const headers = [...text.matchAll(/070701/g)].map(({ index }) => index);
  expect(headers).toHaveLength(4);
  expect(headers.every((at) => at % 4 === 0)).toBe(true);
  const field = (header: number, n: number) =>
    Number.parseInt(text.slice(header + 6 + n * 8, header + 14 + n * 8), 16);
  const [dir = 0, file = 0, device = 0, end = 0] = headers;
  expect([field(dir, 1), field(file, 1), field(device, 1)]).toEqual([0o040755, 0o100755, 0o020600]);
  expect([field(file, 6), field(device, 9), field(device, 10)]).toEqual([5, 5, 1]);
  expect(text.slice(file + 110, file + 114)).toBe('d/x\0');
  expect(text.slice(file + 116, file + 121)).toBe('hello');
  expect(text.slice(end + 110)).toContain('TRAILER!!!');
});

test("the userland's scripts are sound shell", () => {
  const text = Buffer.from(initramfs(Uint8Array.of(1))).toString('latin1');
  for (const [name, script] of [
    ['init', /#!\/bin\/busybox sh\n.*?poweroff -f\n(?=\0|0)/s.exec(text)?.[0]],
    ['greet', /#!\/bin\/sh\n.*?done\necho\n/s.exec(text)?.[0]],
  ] as const) {
    expect(script).toBeDefined();
    const path = join(scratch, name);
    writeFileSync(path, script ?? '');
    execFileSync('sh', ['-n', path]);
  }
});

test.each([1, 511, 512, 513, 100_000])('a file comes out of a tar in chunks of %i bytes', async (chunk) => {
  writeFileSync(join(scratch, 'a'), Buffer.alloc(1000, 'a'));
  writeFileSync(join(scratch, 'b'), Buffer.alloc(70_000, 'b'));
  const tar = execFileSync('tar', ['-c', '-C', scratch, './a', './b'], { maxBuffer: 1 << 20 });
  const chunks = () => {
    const parts = [];
    for (let at = 0; at < tar.length; at += chunk) parts.push(tar.subarray(at, at + chunk));
    return Readable.from(parts);
  };
  if (chunk > 1)
    expect(await fileFromTar(chunks(), (path) => path === './b')).toEqual(readFileSync(join(scratch, 'b')));
  expect(await fileFromTar(chunks(), (path) => path.endsWith('/a'))).toEqual(
    readFileSync(join(scratch, 'a')),
  );
  expect(await fileFromTar(chunks(), () => false)).toBeUndefined();
});

test('the greeter greets whoever wrote its name', () => {
  const names: string[] = [];
  const device = greeter((name) => names.push(name));
  expect(device.read?.(0, 8)).toBe(0n);
  for (const letter of Buffer.from('Ada\n')) device.write?.(0, 1, letter);
  let text = '';
  for (let offset = 0; offset < 128; offset += 8) {
    text += Buffer.from(
      BigInt(device.read?.(offset, 8) ?? 0)
        .toString(16)
        .padStart(16, '0'),
      'hex',
    ).toString();
  }
  expect(text).toContain('Hello Ada, this is TypeScript');
  expect(names).toEqual(['Ada']);
});

test('a timeline is in order of time', () => {
  const start = performance.now();
  const timeline = new Timeline();
  timeline.mark('second', start + 2000);
  timeline.mark('first', start + 1000);
  expect(`${timeline}`).toMatch(/^ {5}(0\.99\d|1\.000) s {2}first\n {5}(1\.99\d|2\.000) s {2}second$/);
});

test('npm run demo boots Debian, whose userland talks to a TypeScript device', () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, 'demo', '--script'], {
    encoding: 'utf8',
    maxBuffer: 1 << 24,
  });
  expect(`${status} ${stderr}`).toMatch(/^0 /);
  expect(stdout).toMatch(/boot timeline\n[\s\S]*the guest ended: powerOff/);
  if (stderr.includes('cannot be fetched here')) {
    process.stderr.write(`SKIPPED: the demo's Linux, because ${stderr.split('\n')[0]}\n`);
    expect(stdout).toContain('hello from 64-bit mode');
    return;
  }
  expect(stdout).toContain('squib: userland is up');
  expect(stdout).toMatch(/Hello busybox v[\d.]+, this is TypeScript in node/);
  expect(stdout).toContain('the guest used the TypeScript device: busybox');
  const moments = [
    'kernel and userland at hand',
    'machine built',
    'first output',
    'user space: the first process runs',
    'the script of the userland runs',
    'the guest used the TypeScript device: busybox',
    'the guest ended: powerOff',
  ];
  const timeline = stdout.slice(stdout.indexOf('boot timeline'));
  const places = moments.map((moment) => timeline.indexOf(moment));
  expect(places).toEqual([...places].sort((a, b) => a - b));
  expect(places).not.toContain(-1);
}, 300_000);
