// TypeScript by swc, as CommonJS; types are checked by `npm run check`.
/** @type {import('jest').Config} */
module.exports = {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/__tests__/**/*.test.ts'],
  transform: {
    '\\.c?ts$': [
      '@swc/jest',
      { jsc: { target: 'es2022', parser: { syntax: 'typescript' } }, module: { type: 'commonjs' } },
    ],
  },
  moduleFileExtensions: ['js', 'ts', 'cts', 'json', 'node'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1', '^(\\.{1,2}/.*)\\.cjs$': '$1.cts' },
  modulePathIgnorePatterns: ['<rootDir>/dist/', '<rootDir>/target', '<rootDir>/npm/'],
  // Guests are slow on a loaded machine without hardware virtualisation.
  testTimeout: 60_000,
};
