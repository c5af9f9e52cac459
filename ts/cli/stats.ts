/** What `--stats` prints. */
import type { Machine, MachineStats, Outcome } from '../machine.js';
import { table } from './style.js';

/** The statistics as one object, for `--stats=json`. */
export function statsObject(machine: Machine, outcome: Outcome, seconds: number): object {
  const stats = machine.stats;
  return {
    outcome: outcome.kind,
    status: outcome.status,
    backend: machine.backend.backend,
    seconds,
    ...stats,
    instructions: stats.instructions === undefined ? null : Number(stats.instructions),
    firstOutputMs: stats.firstOutputMs ?? null,
    userspaceMs: stats.userspaceMs ?? null,
    devices: stats.devices.map((device) => ({ ...device, base: `0x${device.base.toString(16)}` })),
  };
}

/** The statistics for people. */
export function statsText(machine: Machine, outcome: Outcome, seconds: number): string {
  const stats = machine.stats;
  const time = (ms: number | undefined) => (ms === undefined ? '–' : `${(ms / 1000).toFixed(3)} s`);
  const rows = [
    ['outcome', outcome.kind],
    ['backend', machine.backend.backend],
    ['run time', `${seconds.toFixed(3)} s`],
    ['first output', time(stats.firstOutputMs)],
    ['user space', time(stats.userspaceMs)],
    ['guest instructions', instructions(stats, seconds)],
    ['accesses to no device', String(stats.openBus)],
    ['accesses to unknown MSRs', String(stats.unknownMsrs)],
  ];
  const exits = Object.entries(stats.exits).map(([kind, count]) => [kind, String(count)]);
  const used = stats.devices.filter((device) => device.reads + device.writes > 0);
  const devices = used.map((d) => [
    d.name,
    `${d.ports ? 'port' : 'mmio'} 0x${d.base.toString(16)}`,
    `${d.reads}`,
    `${d.writes}`,
  ]);
  return [
    table(rows),
    '\nexits by kind',
    table(exits, [1]),
    '\naccesses by device',
    table([['', '', 'reads', 'writes'], ...devices], [2, 3]),
  ].join('\n');
}

function instructions({ instructions }: MachineStats, seconds: number): string {
  if (instructions === undefined) return 'not counted by this backend';
  const millions = Number(instructions) / 1e6;
  return `${millions.toFixed(1)} million, ${(millions / seconds).toFixed(0)} MIPS`;
}
