/** The user's terminal: raw while a guest runs, restored afterwards. With a real pseudo-terminal from script(1). */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const CLI = join(__dirname, '../dist/esm/cli/main.js');
const SHOW =
  'stty -a | tr ";" "\\n" | tr " " "\\n" | grep -x -e -icanon -e icanon -e -echo -e echo | tr "\\n" " "';
const available = spawnSync('script', ['--version']).status === 0;

/** What is done when a prompt shows: keys are typed, or something is called. */
type Step = readonly [prompt: RegExp, keys: string | (() => unknown)];

let child: ChildProcess | undefined;
afterEach(() => child?.kill());

/** What a shell prints that runs `command` on a terminal, where these steps are taken in order. */
function onTerminal(command: string, steps: readonly Step[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const shell = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
    child = shell;
    let out = '';
    let next = 0;
    shell.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
      const step = steps[next];
      if (step === undefined || !step[0].test(out)) return;
      next += 1;
      if (typeof step[1] === 'string') shell.stdin.write(step[1]);
      else step[1]();
    });
    shell.once('error', reject);
    shell.once('close', () => resolve(out));
  });
}

const squib = (...args: string[]) => [process.execPath, CLI, ...args].map((part) => `'${part}'`).join(' ');
const RUN = squib('run', '--backend', 'soft', '--memory', '16M');

if (available) {
  test('Ctrl-a h helps, Ctrl-a x quits, keys reach the guest unechoed, and the terminal is restored', async () => {
    const keys = [
      [/> /, '\x01h'],
      [/this help/, 'word\r'],
      [/drow/, '\x01x'],
    ] as const;
    const out = await onTerminal(`${RUN}; echo "status $?"; ${SHOW}`, keys);
    expect(out).toContain('Ctrl-a x  quit');
    expect(out).toContain('TypeScript read 4 letters: drow');
    expect(out).toContain('status 130');
    expect(out.trim().split('\n').at(-1)).toMatch(
      /^(?=.*(^| )icanon)(?=.*(^| )echo)(?!.*-icanon)(?!.*-echo)/,
    );
  });

  test('the terminal is restored after a signal', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'squib-terminal-'));
    const pid = join(folder, 'pid');
    const kill = () => process.kill(Number(readFileSync(pid, 'utf8')), 'SIGTERM');
    const command = `sh -c 'echo $$ > ${pid}; exec ${RUN.replaceAll("'", '"')}'; echo "status $?"; ${SHOW}`;
    const out = await onTerminal(command, [[/> /, kill]]);
    rmSync(folder, { recursive: true });
    expect(out).toContain('status 143');
    expect(out.trim().split('\n').at(-1)).not.toContain('-icanon');
  });

  test('the terminal is restored after the guest powered off', async () => {
    const out = await onTerminal(`${RUN}; echo "status $?"; ${SHOW}`, [[/> /, 'q']]);
    expect(out).toContain('status 0');
    expect(out.trim().split('\n').at(-1)).not.toContain('-icanon');
  });

  test('the demo ends in a shell, which Ctrl-a x leaves', async () => {
    // Without Debian's packages the demo runs the guest of our own, whose prompt is another.
    const out = await onTerminal(`${squib('demo')}; echo "status $?"; ${SHOW}`, [
      [/# |> /, 'greet Ada; stty size\r'],
      [/greeting number 2[\s\S]*\d+ \d+\r|letters/, '\x01x'],
    ]);
    expect(out).toContain('the guest ended: you quit');
    expect(out).toContain('status 0');
    expect(out.trim().split('\n').at(-1)).not.toContain('-icanon');
    if (out.includes('cannot be fetched here')) {
      process.stderr.write("SKIPPED: the demo's shell, because its Linux cannot be fetched here\n");
      return;
    }
    expect(out).toContain('Hello Ada, this is TypeScript');
    expect(out).not.toContain('stty:');
    expect(out).toMatch(/\n[1-9]\d* [1-9]\d*\r/);
  }, 300_000);
} else {
  test('SKIPPED: the terminal, because there is no script(1) here', () => {
    process.stderr.write('SKIPPED: tests of the terminal, because there is no script(1) here\n');
  });
}
