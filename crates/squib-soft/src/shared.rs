//! What other threads may do to a vCPU: kick it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use squib_core::Waker;
use squib_core::backend::Cancel;

/// Reasons for which a vCPU has to look up.
pub mod attention {
    /// Return [`squib_core::VmExit::Cancelled`].
    pub const CANCEL: u32 = 1 << 0;
    /// Something has changed in the interrupt controllers.
    pub const INTERRUPT: u32 = 1 << 1;
    /// Code was written from outside.
    pub const CODE: u32 = 1 << 2;
}

/// The part of a vCPU that others reach.
pub struct Shared {
    attention: AtomicU32,
    waker: Arc<dyn Waker>,
}

impl Shared {
    /// For a vCPU whose waiting thread `waker` wakes.
    pub fn new(waker: Arc<dyn Waker>) -> Self {
        Self { attention: AtomicU32::new(0), waker }
    }

    /// Asks for attention, and wakes the vCPU if it is halted.
    pub fn request(&self, reason: u32) {
        if self.attention.fetch_or(reason, Ordering::AcqRel) & reason == 0 {
            self.waker.wake();
        }
    }

    /// Whether anything is asked.
    #[inline(always)]
    pub fn is_requested(&self) -> bool {
        self.attention.load(Ordering::Relaxed) != 0
    }

    /// Takes the requests.
    pub fn take(&self) -> u32 {
        if self.is_requested() { self.attention.swap(0, Ordering::AcqRel) } else { 0 }
    }
}

impl Cancel for Shared {
    fn cancel(&self) {
        self.request(attention::CANCEL);
    }
}
