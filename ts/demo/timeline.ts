/** When what happened, for people. */

/** A list of moments since it was made. */
export class Timeline {
  readonly #start = performance.now();
  readonly #moments: [milliseconds: number, what: string][] = [];

  /** Notes that something happens now, or happened at `moment` of `performance.now()`. */
  mark(what: string, moment: number = performance.now()): void {
    this.#moments.push([moment - this.#start, what]);
  }

  /** As lines of text, in order of time. */
  toString(): string {
    const moments = [...this.#moments].sort(([a], [b]) => a - b);
    return moments.map(([ms, what]) => `  ${(ms / 1000).toFixed(3).padStart(8)} s  ${what}`).join('\n');
  }
}
