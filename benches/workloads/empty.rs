//! Nothing: what starting and ending costs.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

workload!();

fn run() -> u64 {
    0
}
