#!/usr/bin/env node
/** The `squib` command. */
import { DEMO_OPTIONS, demo } from '../demo/main.js';
import { version } from '../doctor.js';
import { doctor } from './doctor.js';
import { INSPECT_OPTIONS, inspect } from './inspect.js';
import { endWithoutOutput } from './output.js';
import { RUN_OPTIONS, run } from './run.js';
import { BAD_ARGUMENTS, STATUSES, statusOf } from './status.js';
import { paint, table } from './style.js';

function help(): string {
  return [
    'squib: a virtual machine monitor for TypeScript',
    '',
    'usage',
    table([
      ['squib run [OPTIONS]', 'boot a machine on this terminal'],
      ['squib demo [OPTIONS]', 'boot Debian with a device in TypeScript'],
      ['squib doctor [--json]', 'say what this machine can run guests with'],
      ['squib inspect BYTES [OPTIONS]', 'list the operations that instructions are made of'],
      ['squib help', 'this text'],
      ['squib --version', 'the version'],
    ]),
    '',
    'options of run',
    table(RUN_OPTIONS),
    '',
    'options of demo',
    table(DEMO_OPTIONS),
    '',
    'options of inspect',
    table(INSPECT_OPTIONS),
    '',
    'exit statuses',
    table(STATUSES),
    '',
  ].join('\n');
}

const COMMANDS: Record<string, (argv: readonly string[]) => number | Promise<number>> = {
  run,
  demo,
  doctor,
  inspect,
};

/** Does what the arguments say, and gives the exit status. */
async function main([name, ...argv]: readonly string[]): Promise<number> {
  if (
    name === undefined ||
    name === 'help' ||
    name === '--help' ||
    name === '-h' ||
    argv.includes('--help')
  ) {
    process.stdout.write(help());
    return name === undefined ? BAD_ARGUMENTS : 0;
  }
  if (name === '--version') {
    process.stdout.write(`${version()}\n`);
    return 0;
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command === undefined) {
    process.stderr.write(`squib: there is no command ${JSON.stringify(name)}; see squib help\n`);
    return BAD_ARGUMENTS;
  }
  try {
    return await command(argv);
  } catch (error) {
    const { code, message, stack } = error as { code?: string; message: string; stack?: string };
    process.stderr.write(
      `${paint(process.stderr, 'red', 'squib:')} ${code === undefined ? stack : `${message} (${code})`}\n`,
    );
    return statusOf(error);
  }
}

endWithoutOutput();
process.exitCode = await main(process.argv.slice(2));
