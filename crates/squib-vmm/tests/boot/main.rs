//! Kernel loaders, from outside.
#![allow(clippy::print_stderr, reason = "skipped tests say so")]

mod debian;
