//! squib in WebAssembly: a module with plain exports, for any JavaScript engine.
//!
//! `ts/wasm.ts` is its face. Numbers cross as WebAssembly's own types; anything longer through a transfer area.
//! Exports that can fail return a negative number and leave code and message there. Devices in JavaScript are called
//! through one import, by the record that the native addon uses too. See `docs/design/web.md`.

mod exit;
mod exports;
mod host;
mod record;
mod state;
mod vm;
