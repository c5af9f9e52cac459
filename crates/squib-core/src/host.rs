//! What squib needs of its host, as traits, so that the same code runs natively and in a browser.

/// Time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since some fixed moment, never going back.
    fn now_ns(&self) -> u64;

    /// Nanoseconds since 1970-01-01 00:00:00 UTC.
    fn unix_ns(&self) -> u64;
}

/// Randomness for guests.
pub trait Entropy: Send + Sync {
    /// Fills `out`.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`](crate::ErrorCode::Internal) where there are no random numbers to be had now; `out` is not
    /// to be used then.
    fn fill(&self, out: &mut [u8]) -> crate::Result<()>;
}

/// Wakes the thread that waits for a halted vCPU.
///
/// Called by any thread, with no lock of squib's held, when an interrupt arrives for a vCPU that last
/// returned [`VmExit::Hlt`](crate::VmExit::Hlt), or when it is cancelled. Wakes that come early must count.
pub trait Waker: Send + Sync {
    /// Ends the wait, or makes the next one return at once.
    fn wake(&self);
}
