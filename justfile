# What a contributor does; `just ready` is what CI runs. https://just.systems

# List the recipes.
default:
    @just --list

# Build addon, guests and TypeScript.
build:
    npm install

# Everything that CI checks.
ready:
    .ci/run

# All tests, Rust and TypeScript.
test:
    npm test

# Rust tests of one crate: `just test-crate squib-soft mmu`.
test-crate crate *filter:
    cargo test -p {{crate}} {{filter}}

# The KVM backend's tests where KVM is real: `just rig --boots 10 --kernels DIR`; scripts/rig.mjs says how.
rig *args:
    node scripts/rig.mjs {{args}}

# The same on aarch64, on a Linux for it inside of an emulator: `just rig-arm64 --boots 10 --gic 2`; scripts/rig-arm64.mjs says how.
rig-arm64 *args:
    node scripts/rig-arm64.mjs {{args}}

# The macOS backend, cross-compiled and linked; scripts/check-hvf.mjs says against what.
check-hvf:
    node scripts/check-hvf.mjs

# Put all code into its normal form.
fmt:
    cargo fmt
    npm run format

# The quick part of the lints.
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    npm run check
    npm run lint

# Boot Debian's kernel on this machine.
demo:
    npm run demo

# The figures, beside QEMU's where it is installed: `just bench workloads`.
bench *args:
    npm run bench -- {{args}}

# Programs of a Debian userland on the host and in a guest, and whether they print the same.
userland:
    npm run userland

# squib's CPU against this machine's: `just conformance --cases-per-form 100`.
conformance *args:
    npm run conformance -- {{args}}

# The WebAssembly module, dist/squib.wasm.
wasm:
    node scripts/build-wasm.mjs

# The documentation of the crates.
doc:
    cargo doc --workspace --no-deps --open

# Fuzz one target; needs a nightly toolchain and cargo-fuzz.
fuzz target *args:
    cargo +nightly fuzz run {{target}} {{args}}
