/** The escape character: typed keys that are meant for squib and not for the guest. */

/** What the user asks of squib. */
export type Command = 'quit' | 'help';

/** Keys after the escape character. */
const COMMANDS: Record<string, Command> = { x: 'quit', h: 'help', '?': 'help' };

/** The code of an escape option: a letter stands for Ctrl and that letter, `none` for no escape at all. */
export function escapeCode(option: string): number | undefined {
  if (option === 'none') return undefined;
  const match = /^(?:\^|ctrl-)?([a-z])$/i.exec(option);
  if (match?.[1] === undefined)
    throw new RangeError(`--escape takes a letter or none, not ${JSON.stringify(option)}`);
  return match[1].toUpperCase().charCodeAt(0) - 64;
}

/** How the escape character is shown to people. */
export function escapeName(code: number): string {
  return `Ctrl-${String.fromCharCode(code + 96)}`;
}

/** Splits what is typed into what the guest gets and what squib is asked for. */
export class EscapeFilter {
  readonly #code: number | undefined;
  #armed = false;

  constructor(code: number | undefined) {
    this.#code = code;
  }

  /** Goes through typed bytes in order. The escape character twice reaches the guest once; other keys after it are lost. */
  feed(bytes: Uint8Array, command: (command: Command) => void): Uint8Array {
    const guest: number[] = [];
    for (const byte of bytes) {
      if (this.#armed) {
        this.#armed = false;
        const key = COMMANDS[String.fromCharCode(byte)];
        if (byte === this.#code) guest.push(byte);
        else if (key !== undefined) command(key);
      } else if (byte === this.#code) this.#armed = true;
      else guest.push(byte);
    }
    return Uint8Array.from(guest);
  }
}
