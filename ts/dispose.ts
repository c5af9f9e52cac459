/** `using` and `await using` on every supported node: those before 20.5 lack the two symbols. */
for (const name of ['dispose', 'asyncDispose'] as const) {
  if (Symbol[name] === undefined) Object.defineProperty(Symbol, name, { value: Symbol(`Symbol.${name}`) });
}

export {};
