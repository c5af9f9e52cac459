//! squib for Node.js: conversions between JavaScript values and squib's types, and nothing else.
//!
//! What a device's answer means, what its failure leads to, and how errors become classes is decided in
//! TypeScript (`ts/`), once for this binding and the browser's. See `docs/design/callbacks.md`.

pub mod arm64;
pub mod backends;
mod console;
pub mod doorbell;
pub mod error;
pub mod exit;
mod external;
mod host;
pub mod inspect;
mod life;
pub mod machine;
pub mod memory;
mod number;
mod record;
pub mod registers;
mod thread;
pub mod vcpu;
pub mod vm;
