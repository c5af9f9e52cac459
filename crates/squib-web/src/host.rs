//! What the module asks of JavaScript: devices, time and randomness.
#![allow(unsafe_code, reason = "imports of the WebAssembly module are foreign functions")]

use std::rc::Rc;

use squib_core::{Clock, Entropy, Result, Waker};
use squib_vmm::{Action, Host, Idle};

use crate::record::Record;

#[cfg(target_family = "wasm")]
mod import {
    #[link(wasm_import_module = "squib")]
    unsafe extern "C" {
        /// Answers the access in the record at this address.
        pub(super) safe fn access(record: *const u8);
        /// Hears a doorbell, by its number, of the VM whose record is at this address.
        pub(super) safe fn ring(record: usize, doorbell: u32);
        /// Milliseconds since some fixed moment.
        pub(super) safe fn now() -> f64;
        /// Milliseconds since 1970.
        pub(super) safe fn date() -> f64;
        /// 64 random bits.
        pub(super) safe fn random() -> u64;
    }
}

/// On the host, where the crate is only tested, there is no JavaScript: devices fail, time stands still, and dice show
/// nothing.
#[cfg(not(target_family = "wasm"))]
mod import {
    pub(super) fn access(_record: *const u8) {}
    pub(super) fn ring(_record: usize, _doorbell: u32) {}
    pub(super) fn now() -> f64 {
        0.0
    }
    pub(super) fn date() -> f64 {
        0.0
    }
    pub(super) fn random() -> u64 {
        0
    }
}

/// Calls devices in JavaScript.
pub(crate) struct WebHost(pub(crate) Rc<Record>);

impl WebHost {
    fn access(&self, device: u32, offset: u64, width: u8, value: Option<u64>) -> Result<u64> {
        self.0.ask(device, offset, width, value);
        import::access(self.0.address());
        self.0.answer()
    }
}

impl Host for WebHost {
    fn read(&mut self, device: u32, offset: u64, width: u8) -> Result<u64> {
        self.access(device, offset, width, None)
    }

    fn write(&mut self, device: u32, offset: u64, width: u8, value: u64) -> Result<Action> {
        self.access(device, offset, width, Some(value)).map(|_| Action::Continue)
    }

    fn idle(&mut self, _deadline_ns: Option<u64>) -> Idle {
        Idle::Return
    }
}

/// Tells JavaScript of a ring.
pub(crate) fn ring(record: usize, doorbell: u32) {
    import::ring(record, doorbell);
}

/// The engine's clocks.
pub(crate) struct WebClock;

fn nanoseconds(milliseconds: f64) -> u64 {
    // Float casts saturate, so a clock that goes mad gives a strange time and nothing worse.
    (milliseconds * 1e6) as u64
}

impl Clock for WebClock {
    fn now_ns(&self) -> u64 {
        nanoseconds(import::now())
    }

    fn unix_ns(&self) -> u64 {
        nanoseconds(import::date())
    }
}

/// The engine's random numbers.
pub(crate) struct WebEntropy;

impl Entropy for WebEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&import::random().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// Nobody waits: a halted guest returns to JavaScript, which runs it again when it likes.
pub(crate) struct NobodyWaits;

impl Waker for NobodyWaits {
    fn wake(&self) {}
}
