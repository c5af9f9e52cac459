/** `squib doctor`: says what this machine can run guests with, and what to do about what it cannot. */
import { parseArgs } from 'node:util';
import { type Diagnosis, doctor as diagnose, type Finding } from '../doctor.js';
import { SquibError } from '../errors.js';
import { UNUSABLE } from './status.js';
import { paint, table } from './style.js';

/** Prints the diagnosis, and gives the exit status: 0 when some backend runs guests. */
export function doctor(argv: readonly string[]): number {
  const json = wantsJson(argv);
  const diagnosis = diagnose();
  process.stdout.write(json ? `${JSON.stringify(diagnosis, null, 2)}\n` : `${describe(diagnosis)}\n`);
  return diagnosis.auto === null ? UNUSABLE : 0;
}

function wantsJson(argv: readonly string[]): boolean {
  try {
    return parseArgs({ args: [...argv], options: { json: { type: 'boolean' } } }).values.json === true;
  } catch (error) {
    throw new SquibError('ERR_INVALID_ARGUMENT', (error as Error).message, { cause: error });
  }
}

const good = (text: string) => paint(process.stdout, 'green', text);
const bad = (text: string) => paint(process.stdout, 'red', text);

function mark(works: boolean | undefined): string {
  if (works === undefined) return '–';
  return works ? good('✓') : bad('✗');
}

function describe({ squib, node, target, addon, kvm, soft, auto }: Diagnosis): string {
  const say = (name: string, finding: Finding) =>
    `${mark(finding.works)} ${name}${finding.works ? '' : `: ${finding.why}`}`;
  const lines = [
    `squib ${squib}, node ${node}, ${target}`,
    '',
    say('native addon', addon),
    say('soft backend', soft),
  ];
  if (kvm !== null) {
    lines.push(`${mark(kvm.runsGuestsAtSpeed)} kvm backend: ${kvm.reason}`);
    for (const step of kvm.steps)
      lines.push(`    ${mark(step.works)} ${step.name}${step.why === undefined ? '' : `: ${step.why}`}`);
    const capabilities = Object.entries(kvm.capabilities).sort();
    if (capabilities.length > 0)
      lines.push(
        '',
        'KVM capabilities',
        table(
          capabilities.map(([name, value]) => [name, String(value)]),
          [1],
        ),
      );
  }
  lines.push(
    '',
    auto === null
      ? bad('no backend can run guests here')
      : `--backend auto chooses ${good(auto.backend)}: ${auto.reason}`,
  );
  return lines.join('\n');
}
