/** The `squib` command, as its users run it: the compiled one. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { probeKvm } from '../ts/backend.js';
import { EscapeFilter, escapeCode, escapeName } from '../ts/cli/escape.js';
import { defaultCommandLine } from '../ts/command-line.js';
import { characterDevice, cpio, executable, folder as folderEntry } from '../ts/demo/cpio.js';
import { commandLinePrinter, multiboot, POWER_OFF } from './support/guests.js';

const CLI = join(__dirname, '../dist/esm/cli/main.js');

interface Ended {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs the command with this input; `during` may act while it runs, and `uid` be somebody else. */
function squib(
  args: readonly string[],
  input = '',
  during?: (pid: number, out: string) => void,
  uid?: number,
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const user = uid === undefined ? {} : { uid, gid: uid };
    const child = spawn(process.execPath, [CLI, ...args], { stdio: ['pipe', 'pipe', 'pipe'], ...user });
    let out = '';
    let err = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
      if (child.pid !== undefined) during?.(child.pid, out);
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text;
    });
    child.stdin.end(input);
    child.once('error', reject);
    child.once('close', (status) => resolve({ status, out, err }));
  });
}

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'squib-cli-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function program(name: string, code: readonly number[]): string {
  const path = join(folder, name);
  writeFileSync(path, multiboot(code));
  return path;
}

describe('squib run', () => {
  test('without a kernel boots the guest of our own, with its device in TypeScript', async () => {
    const { status, out, err } = await squib(['run', '--backend', 'soft', '--memory', '16M'], 'abc\rq');
    expect(out).toContain('hello from 64-bit mode');
    expect(out).toContain('TypeScript read 3 letters: cba');
    expect(err).toContain('squib: backend soft (asked for)');
    expect(status).toBe(0);
  });

  test('the kernel gets the default command line and --append behind it, or --cmdline instead', async () => {
    const kernel = join(folder, 'command-line');
    writeFileSync(kernel, commandLinePrinter());
    const args = ['run', '--backend', 'soft', '--kernel', kernel];
    expect((await squib(args)).out).toBe(defaultCommandLine());
    const { out } = await squib([...args, '--append', 'quiet panic=5']);
    expect(out).toMatch(/^console=ttyS0 panic=-1 .* quiet panic=5$/);
    expect((await squib([...args, '--cmdline', 'program 10'])).out).toBe('program 10');
    expect((await squib([...args, '--cmdline', 'program', '--append', '10'])).status).toBe(2);
  });

  test('the kernel gets --initrd and --memory', async () => {
    // mov esi, [ebx + 24]; mov esi, [esi]; lodsb; test al, al; jz on; out 0xe9, al; jmp back
    const showModule = [0x8b, 0x73, 0x18, 0x8b, 0x36, 0xac, 0x84, 0xc0, 0x74, 0x04, 0xe6, 0xe9, 0xeb, 0xf7];
    // mov eax, [ebx + 8], which is KiB from 1 MiB on; shr eax, 10; out 0xf4, al
    const exitWithMemory = [0x8b, 0x43, 0x08, 0xc1, 0xe8, 0x0a, 0xe6, 0xf4, 0xf4];
    const kernel = program('initrd-and-memory', [...showModule, ...exitWithMemory]);
    const initrd = join(folder, 'initrd');
    writeFileSync(initrd, 'the initial RAM disk\0');
    const args = ['run', '--backend', 'soft', '--kernel', kernel, '--initrd', initrd, '--memory', '64M'];
    const { status, out } = await squib(args);
    expect(out).toBe('the initial RAM disk');
    expect(status).toBe((63 << 1) | 1);
  });

  test('an exit that nobody can go on from gives 16, and is shown', async () => {
    // mov esp, 0x80000; pushfd; or word [esp], 0x4000; popfd; iret: a return to another task, which soft has not
    const code = [0xbc, 0, 0, 8, 0, 0x9c, 0x66, 0x81, 0x0c, 0x24, 0, 0x40, 0x9d, 0xcf];
    const { status, err } = await squib(['run', '--kernel', program('task', code), '--backend', 'soft']);
    expect(err).toMatch(/the guest could not go on: \{"kind":"unsupported",.*"rip":"0x10002d"/);
    expect(status).toBe(16);
  });

  // mov al, v; out 0xf4, al
  test.each([0, 1, 21])('a debug exit of %i gives (v << 1) | 1', async (value) => {
    const kernel = program(`exit-${value}`, [0xb0, value, 0xe6, 0xf4, 0xf4]);
    expect((await squib(['run', '--kernel', kernel, '--backend', 'soft'])).status).toBe((value << 1) | 1);
  });

  test('a triple fault gives 14', async () => {
    // lidt of an empty table, then an invalid instruction
    const kernel = program('triple', [0x0f, 0x01, 0x1d, 0x00, 0x05, 0x00, 0x00, 0x0f, 0x0b]);
    expect((await squib(['run', '--kernel', kernel, '--backend', 'soft'])).status).toBe(14);
  });

  test('a reset gives 10; one after a kernel panic gives 12', async () => {
    // mov dx, 0x602; mov al, 1; out dx, al
    const reset = [0x66, 0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xf4];
    const kernel = program('reset', reset);
    expect((await squib(['run', '--kernel', kernel, '--backend', 'soft'])).status).toBe(10);
    const text = [...Buffer.from('Kernel panic - not syncing: test\n')];
    // out 0xe9 for each letter
    const panic = text.flatMap((letter) => [0xb0, letter, 0xe6, 0xe9]);
    const panicking = program('panic', [...panic, ...reset]);
    const { status, out } = await squib(['run', '--kernel', panicking, '--backend', 'soft']);
    expect(out).toContain('Kernel panic');
    expect(status).toBe(12);
  });

  test('a time-out gives 124', async () => {
    const kernel = program('loop', [0xeb, 0xfe]);
    const { status } = await squib(['run', '--kernel', kernel, '--backend', 'soft', '--timeout', '0.2']);
    expect(status).toBe(124);
  });

  test.each(['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP'] as const)(
    '%s ends the guest and gives 128 + its number',
    async (signal) => {
      let sent = false;
      const { status } = await squib(['run', '--backend', 'soft'], '', (pid, out) => {
        if (sent || !out.includes('> ')) return;
        sent = true;
        process.kill(pid, signal);
      });
      expect(status).toBe({ SIGINT: 130, SIGQUIT: 131, SIGTERM: 143, SIGHUP: 129 }[signal]);
    },
  );

  test('--stats counts accesses to model-specific registers that do not exist', async () => {
    // mov ecx, 0xdeadbeef; rdmsr, which raises #GP, and there is nobody to take it
    const kernel = program('unknown-msr', [0xb9, 0xef, 0xbe, 0xad, 0xde, 0x0f, 0x32]);
    const { status, err } = await squib(['run', '--kernel', kernel, '--backend', 'soft', '--stats=json']);
    expect(JSON.parse(err.trim().split('\n').at(-1) ?? '').unknownMsrs).toBe(1);
    expect(status).toBe(14);
  });

  test('ends without a word when its reader goes away', async () => {
    const child = spawn(process.execPath, [CLI, 'run', '--backend', 'soft', '--memory', '16M']);
    let err = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text;
    });
    child.stdout.once('data', () => child.stdout.destroy());
    // The guest echoes what it reads.
    const typist = setInterval(() => child.stdin.write('x'), 10);
    child.stdin.on('error', () => {});
    const status = await new Promise((resolve) => child.once('close', resolve));
    clearInterval(typist);
    expect(err).toBe('squib: backend soft (asked for)\n');
    expect(status).toBe(128 + constants.signals.SIGPIPE);
  });

  test('--stats counts exits and accesses', async () => {
    const args = ['run', '--backend', 'soft', '--memory', '16M'];
    const json = await squib([...args, '--stats=json'], 'q');
    const stats = JSON.parse(json.err.trim().split('\n').at(-1) ?? '');
    expect(stats).toMatchObject({ outcome: 'powerOff', status: 0, backend: 'soft', userspaceMs: null });
    expect(stats.exits.pio).toBeGreaterThan(100);
    expect(stats.instructions).toBeGreaterThan(1000);
    expect(stats.firstOutputMs).toBeGreaterThan(0);
    expect(stats.devices.find((d: { name: string }) => d.name === 'line device').reads).toBeGreaterThan(0);
    const text = await squib([...args, '--stats'], 'q');
    expect(text.err).toMatch(/first output +\d+\.\d{3} s\n +user space +–\n +guest instructions +\d/);
    expect(text.err).toMatch(/exits by kind\n +pio +\d+/);
    expect(text.err).toMatch(/line device +port 0x510 +\d+ +\d+/);
  });

  const refused: [string, string[], number, string][] = [
    ['an unknown option', ['--frob'], 2, 'ERR_INVALID_ARGUMENT'],
    ['a stray argument', ['stray'], 2, 'ERR_INVALID_ARGUMENT'],
    ['a kernel that is not there', ['--kernel', '/nonexistent'], 2, 'ERR_INVALID_ARGUMENT'],
    ['a kernel that is none', ['--kernel', CLI], 2, 'ERR_IMAGE_FORMAT'],
    ['a wild memory size', ['--memory', '12X'], 2, 'ERR_MEMORY_SIZE'],
    ['odd memory', ['--memory', '4097'], 2, 'ERR_MEMORY_SIZE'],
    ['more memory than there can be', ['--memory', '5000T'], 2, 'ERR_MEMORY_SIZE'],
    ['no vCPUs', ['--cpus', '0'], 2, 'ERR_VCPU_COUNT'],
    ['two vCPUs on soft', ['--cpus', '2', '--backend', 'soft'], 2, 'ERR_VCPU_COUNT'],
    ['a number that is none', ['--cpus', 'many'], 2, 'ERR_INVALID_ARGUMENT'],
    ['a time-out that is none', ['--timeout', '-1'], 2, 'ERR_INVALID_ARGUMENT'],
    ['a time-out beyond all timers', ['--timeout', '2147484'], 2, 'from 0 to 2147483'],
    ['an unknown backend', ['--backend', 'qemu'], 2, 'ERR_INVALID_ARGUMENT'],
    ['an unknown CPU model', ['--cpu', 'v9'], 2, 'there are v1, v2, max'],
    ['an unknown CPU feature', ['--cpu', 'v2,+turbo'], 2, 'no CPU feature turbo; there are fpu,'],
    ['an unknown form of statistics', ['--stats=xml'], 2, 'ERR_INVALID_ARGUMENT'],
    ['an escape that is no letter', ['--escape', '%'], 2, 'ERR_INVALID_ARGUMENT'],
  ];
  test.each(refused)('%s is refused', async (_name, args, expected, code) => {
    const { status, err } = await squib(['run', ...args]);
    expect(err).toContain(code);
    expect(status).toBe(expected);
  });

  test('a backend that cannot be used gives 20', async () => {
    const opens = probeKvm().steps[0]?.works === true;
    const nobody = opens && process.getuid?.() === 0 ? 65534 : undefined;
    if (opens && (nobody === undefined || (statSync('/dev/kvm').mode & 0o006) !== 0)) {
      process.stderr.write(
        'SKIPPED: an unusable backend gives 20, because everybody may open /dev/kvm here\n',
      );
      return;
    }
    const { status, err } = await squib(['run', '--backend', 'kvm'], '', undefined, nobody);
    expect(err).toContain('ERR_BACKEND_');
    expect(status).toBe(20);
  });

  test('auto says whether it chose kvm or soft, and why', async () => {
    const { status, err } = await squib(['run', '--memory', '16M'], 'q');
    const { runsGuestsAtSpeed } = probeKvm();
    expect(err).toContain(`squib: backend ${runsGuestsAtSpeed ? 'kvm' : 'soft'} (`);
    expect(status).toBe(0);
  });
});

/** A Linux that says which it is, and switches off. */
function linux(busybox: string): string {
  const init =
    '#!/busybox sh\necho "up: $(/busybox uname -r), $(/busybox nproc) processors"\n/busybox poweroff -f\n';
  const path = join(folder, 'initrd');
  const files = [executable('busybox', readFileSync(busybox)), executable('init', init)];
  writeFileSync(path, cpio([folderEntry('dev'), characterDevice('dev/console', 5, 1), ...files]));
  return path;
}

describe('Linux by squib run --backend kvm', () => {
  const { SQUIB_TEST_KERNELS: kernels, SQUIB_TEST_BUSYBOX: busybox } = process.env;
  const names = kernels ? readdirSync(kernels).filter((name) => name.startsWith('vmlinuz-')) : [];
  if (!probeKvm().runsGuestsAtSpeed || busybox === undefined || names.length === 0) {
    const why = 'that needs a kvm at speed, and SQUIB_TEST_KERNELS and SQUIB_TEST_BUSYBOX';
    test('SKIPPED', () =>
      void process.stderr.write(`SKIPPED: Linux by squib run --backend kvm, because ${why}\n`));
    return;
  }
  const cases = names.flatMap((name) => ['1', '2'].map((cpus) => ({ name, cpus })));
  test.each(cases)(
    '$name with $cpus vCPUs',
    async ({ name, cpus }) => {
      const files = ['--kernel', join(kernels ?? '', name), '--initrd', linux(busybox)];
      const options = ['--backend', 'kvm', '--cpus', cpus, '--memory', '256M'];
      const { status, out, err } = await squib(['run', ...options, ...files]);
      expect(out).toContain(`up: ${name.slice('vmlinuz-'.length)}, ${cpus} processors`);
      expect(err).toContain('squib: backend kvm (asked for)');
      expect(status).toBe(0);
    },
    300_000,
  );
});

describe('squib doctor', () => {
  test('says what runs guests here', async () => {
    const { status, out } = await squib(['doctor']);
    expect(out).toContain('✓ soft backend');
    expect(out).toContain('--backend auto chooses');
    expect(status).toBe(0);
  });

  test('--json is one object', async () => {
    const { status, out } = await squib(['doctor', '--json']);
    const diagnosis = JSON.parse(out);
    expect(diagnosis).toMatchObject({ addon: { works: true }, soft: { works: true }, node: process.version });
    expect(diagnosis.auto.backend).toBe(diagnosis.kvm.runsGuestsAtSpeed ? 'kvm' : 'soft');
    expect(status).toBe(0);
  });
});

describe('squib inspect', () => {
  test('lists the operations of each instruction', async () => {
    const { status, out } = await squib(['inspect', '48 01 d8', 'f4', '--address', '0x1000']);
    expect(out).toBe(
      [
        '1000: 48 01 d8  add rax, rbx',
        '    t0 = get64 rbx',
        '    t1 = get64 rax',
        '    t2 = add64 t1, t0',
        '    set64 rax, t2',
        '    flags.add64 t2, t0',
        '',
        '1003: f4  hlt',
        '    helper Hlt',
        '',
      ].join('\n'),
    );
    expect(status).toBe(0);
  });

  test('--json has the same, and --mode says how bytes are read', async () => {
    const texts = [];
    for (const mode of ['16', '32', '64']) {
      const { status, out } = await squib(['inspect', '--json', '--mode', mode, '40b80100']);
      const all = JSON.parse(out) as { text?: string; error?: string }[];
      texts.push([status, ...all.map(({ text, error }) => text ?? error)]);
    }
    expect(texts).toEqual([
      [0, 'inc ax', 'mov ax, 0x1'],
      [2, 'inc eax', 'truncated'],
      [2, 'truncated'],
    ]);
  });

  test('says what a processor does with bytes that are no instruction', async () => {
    const invalid = await squib(['inspect', '90 0f 0b 0f 04 90']);
    expect(invalid.out).toMatch(/ud2[\s\S]*3: 0f 04 90 {2}#UD\n$/);
    expect(invalid.status).toBe(2);
    expect((await squib(['inspect', `${'66'.repeat(15)}90`])).out).toContain('#GP');
  });

  test.each([[[]], [['0x90']], [['9']], [['zz']], [['90', '--mode', '8']], [['90', '--address', '-1']]])(
    'refuses %j',
    async (args) => {
      const { status, err } = await squib(['inspect', ...args]);
      expect(err).toContain('ERR_INVALID_ARGUMENT');
      expect(status).toBe(2);
    },
  );
});

test('doctor and demo refuse what they do not know', async () => {
  for (const args of [
    ['doctor', '--frob'],
    ['doctor', 'stray'],
    ['demo', '--frob'],
    ['demo', '--backend', 'qemu', '--kernel', CLI],
  ]) {
    const { status, err } = await squib(args);
    expect(err).toContain('ERR_INVALID_ARGUMENT');
    expect(status).toBe(2);
  }
});

test('help lists commands, options and statuses; nonsense is refused', async () => {
  const help = await squib(['help']);
  for (const command of ['run', 'demo', 'doctor', 'inspect']) expect(help.out).toContain(`squib ${command} `);
  const options = [
    'kernel',
    'initrd',
    'append',
    'cmdline',
    'memory',
    'cpus',
    'cpu',
    'backend',
    'timeout',
    'stats',
    'escape',
    'script',
  ];
  for (const option of options) expect(help.out).toContain(`--${option}`);
  const statuses = ['0', '(v << 1) | 1', '2', '10', '12', '14', '16', '20', '124', '130', '128 + n'];
  for (const status of statuses) expect(help.out).toContain(`\n  ${status} `);
  expect(help.status).toBe(0);
  expect(await squib(['--version'])).toEqual({ status: 0, out: '0.1.0\n', err: '' });
  expect((await squib(['frobnicate'])).status).toBe(2);
  expect((await squib(['constructor'])).status).toBe(2);
  expect((await squib([])).status).toBe(2);
});

test('the demo without a terminal runs a given program and prints a timeline', async () => {
  const { status, out } = await squib(['demo', '--backend', 'soft', '--kernel', program('off', POWER_OFF)]);
  expect(out).toContain('boot timeline');
  expect(out).toContain('the guest ended: powerOff');
  expect(status).toBe(0);
});

describe('the escape character', () => {
  const feed = (filter: EscapeFilter, text: string) => {
    const commands: string[] = [];
    const guest = filter.feed(Buffer.from(text), (command) => void commands.push(command));
    return [Buffer.from(guest).toString(), ...commands];
  };

  test('separates what the guest gets from what squib is asked', () => {
    const filter = new EscapeFilter(escapeCode('a'));
    expect(feed(filter, 'ls\r')).toEqual(['ls\r']);
    expect(feed(filter, 'a\x01hb\x01x')).toEqual(['ab', 'help', 'quit']);
    expect(feed(filter, '\x01')).toEqual(['']);
    expect(feed(filter, '\x01z')).toEqual(['\x01z']);
    expect(feed(filter, '\x01zz')).toEqual(['z']);
  });

  test('can be another letter, or none', () => {
    expect(feed(new EscapeFilter(escapeCode('b')), '\x01\x02x')).toEqual(['\x01', 'quit']);
    expect(feed(new EscapeFilter(escapeCode('none')), '\x01x')).toEqual(['\x01x']);
    expect([escapeCode('^B'), escapeCode('ctrl-z'), escapeName(1)]).toEqual([2, 26, 'Ctrl-a']);
    expect(() => escapeCode('')).toThrow(RangeError);
  });
});
