//! Counting exits.

use std::sync::atomic::{AtomicU64, Ordering};

use squib_core::ExitKind;

/// How many exits of each kind one vCPU has made.
///
/// One thread counts at a time, so it needs no atomic addition; any thread may read.
#[derive(Debug)]
pub struct ExitCounts([AtomicU64; ExitKind::ALL.len()]);

impl Default for ExitCounts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; ExitKind::ALL.len()])
    }
}

impl ExitCounts {
    pub(crate) fn count(&self, kind: ExitKind) {
        let counter = &self.0[kind as usize];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Exits of this kind.
    pub fn get(&self, kind: ExitKind) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }
}
