//! A vCPU that several threads know: one at a time runs it or looks at it, any may cancel or close it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use squib_core::{CancelHandle, Error, ErrorCode, ExitKind, Result, Vcpu, VmEntry};

use crate::device::Host;
use crate::run::{Stop, VcpuLoop};
use crate::stats::ExitCounts;

/// A [`VcpuLoop`] behind a handle that is shared.
pub struct SharedVcpu {
    id: u32,
    inner: Mutex<Option<VcpuLoop>>,
    cancel: CancelHandle,
    closed: AtomicBool,
    counts: Arc<ExitCounts>,
    /// As of the last return from the guest; [`NOT_COUNTED`] where the backend does not count.
    instructions: AtomicU64,
    /// As of the last return from the guest.
    unknown_msrs: AtomicU64,
}

const NOT_COUNTED: u64 = u64::MAX;

impl SharedVcpu {
    /// Shares `inner`.
    pub fn new(mut inner: VcpuLoop) -> Self {
        let counts = inner.counts().clone();
        let vcpu = inner.vcpu();
        let (id, cancel, instructions) = (vcpu.id(), vcpu.cancel_handle(), vcpu.instructions());
        Self {
            id,
            inner: Mutex::new(Some(inner)),
            cancel,
            closed: AtomicBool::new(false),
            counts,
            instructions: AtomicU64::new(instructions.unwrap_or(NOT_COUNTED)),
            unknown_msrs: AtomicU64::new(0),
        }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Runs the guest: see [`VcpuLoop::run`].
    ///
    /// # Errors
    /// As [`VcpuLoop::run`]; [`ErrorCode::VcpuBusy`] when it is running already, on another thread or further up
    /// this one's stack, [`ErrorCode::Closed`] when it is closed or was while it ran.
    pub fn run(&self, entry: VmEntry, host: &mut dyn Host) -> Result<Stop> {
        self.with_loop(|inner| {
            let stop = inner.run(entry, host);
            let vcpu = inner.vcpu();
            self.instructions.store(vcpu.instructions().unwrap_or(NOT_COUNTED), Ordering::Relaxed);
            self.unknown_msrs.store(vcpu.unknown_msrs(), Ordering::Relaxed);
            stop
        })
    }

    /// Lets `f` use the vCPU while it is not running: registers, interrupts, budget.
    ///
    /// # Errors
    /// Those of `f`, [`ErrorCode::VcpuBusy`] while it runs, [`ErrorCode::Closed`] when it is closed.
    pub fn with<R>(&self, f: impl FnOnce(&mut dyn Vcpu) -> Result<R>) -> Result<R> {
        self.with_loop(|inner| f(inner.vcpu()))
    }

    /// Makes the run under way, or the next, return [`VmExit::Cancelled`](squib_core::VmExit::Cancelled) soon.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Gives the vCPU back to its backend: now, or when the run under way ends, which it does soon.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.cancel.cancel();
        self.discard();
    }

    /// # Errors
    /// [`ErrorCode::Closed`] when it is closed.
    pub fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(self.closed_error()) } else { Ok(()) }
    }

    /// Counts of its exits.
    pub fn counts(&self) -> &ExitCounts {
        &self.counts
    }

    /// Guest instructions executed up to the end of the last run, where the backend counts them.
    pub fn instructions(&self) -> Option<u64> {
        Some(self.instructions.load(Ordering::Relaxed)).filter(|n| *n != NOT_COUNTED)
    }

    /// Accesses to model-specific registers that do not exist, up to the end of the last run: those that made an exit, and
    /// those that the backend answered with #GP itself.
    pub fn unknown_msrs(&self) -> u64 {
        let exits = [ExitKind::MsrRead, ExitKind::MsrWrite].map(|kind| self.counts.get(kind));
        self.unknown_msrs.load(Ordering::Relaxed) + exits.iter().sum::<u64>()
    }

    fn with_loop<R>(&self, f: impl FnOnce(&mut VcpuLoop) -> Result<R>) -> Result<R> {
        let result = match &mut *self.lock()? {
            Some(inner) if !self.is_closed() => f(inner),
            _ => Err(self.closed_error()),
        };
        // Whoever comes second, this or `close`, finds the lock free and drops the vCPU.
        if self.is_closed() {
            self.discard();
            return Err(self.closed_error());
        }
        result
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn closed_error(&self) -> Error {
        Error::new(ErrorCode::Closed, format!("vCPU {} is closed", self.id))
    }

    fn discard(&self) {
        if let Ok(mut inner) = self.lock() {
            *inner = None;
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Option<VcpuLoop>>> {
        match self.inner.try_lock() {
            Ok(guard) => Ok(guard),
            // A device panicked in a run. The backend answers the access it left open at the next entry.
            Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
            // Whoever holds it is ending its last run, or giving the vCPU back.
            Err(TryLockError::WouldBlock) if self.is_closed() => Err(self.closed_error()),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(ErrorCode::VcpuBusy, format!("vCPU {} is running; cancel it first", self.id)))
            }
        }
    }
}
