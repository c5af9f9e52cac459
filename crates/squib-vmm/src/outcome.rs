//! How a machine ended, and the exit status of a process that ran one.
//!
//! Every status but the debug-exit ones is even, because a debug exit with value `v` gives `(v << 1) | 1`, as
//! QEMU's isa-debug-exit does; so the two never collide.

use squib_core::{ErrorCode, SystemEventKind, VmExit};

use crate::run::Stop;

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest wrote to the debug-exit port; the status is `(value << 1) | 1`.
    DebugExit(u32),
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked, and then asked for a reset (with `panic=-1` on its command line).
    KernelPanic,
    /// The guest's exception handling failed three deep.
    TripleFault,
    /// The guest did something that the backend or the platform cannot go on from.
    Failed,
    /// A time limit was reached.
    TimedOut,
    /// The caller stopped it.
    Aborted,
}

/// Exit status of a process given bad arguments, or an image that is not one.
pub const STATUS_BAD_ARGUMENTS: u8 = 2;
/// Exit status of a process whose backend is missing or cannot be used here.
pub const STATUS_BACKEND_UNUSABLE: u8 = 20;

impl Outcome {
    /// The outcome that a stop means, if it ends the machine. `panicked` says whether the guest's kernel has
    /// reported a panic.
    pub fn of(stop: &Stop, panicked: bool) -> Option<Self> {
        Some(match stop {
            Stop::PowerOff | Stop::Exit(VmExit::Shutdown) => Self::PowerOff,
            Stop::Reset | Stop::Exit(VmExit::Reset) if panicked => Self::KernelPanic,
            Stop::Reset | Stop::Exit(VmExit::Reset) => Self::Reset,
            Stop::DebugExit(status) => Self::DebugExit(*status),
            Stop::Exit(VmExit::SystemEvent { kind, .. }) => Self::of_event(*kind, panicked),
            Stop::Exit(VmExit::TripleFault) if panicked => Self::KernelPanic,
            Stop::Exit(VmExit::TripleFault) => Self::TripleFault,
            Stop::Halted { .. } | Stop::Exit(VmExit::Cancelled | VmExit::BudgetSpent | VmExit::Debug(_)) => {
                return None;
            }
            Stop::Exit(_) => Self::Failed,
        })
    }

    fn of_event(kind: SystemEventKind, panicked: bool) -> Self {
        match kind {
            SystemEventKind::Shutdown => Self::PowerOff,
            SystemEventKind::Reset if !panicked => Self::Reset,
            SystemEventKind::Reset | SystemEventKind::Crash => Self::KernelPanic,
            _ => Self::Failed,
        }
    }

    /// The exit status of a process that ran the machine.
    pub const fn status(self) -> u8 {
        match self {
            Self::PowerOff => 0,
            // Only the low byte reaches the parent of a process.
            Self::DebugExit(status) => status as u8,
            Self::Reset => 10,
            Self::KernelPanic => 12,
            Self::TripleFault => 14,
            Self::Failed => 16,
            // As timeout(1) gives.
            Self::TimedOut => 124,
            // As a shell gives for a process ended by SIGINT.
            Self::Aborted => 130,
        }
    }

    /// The name used in TypeScript and in `--json` output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "powerOff",
            Self::DebugExit(_) => "debugExit",
            Self::Reset => "reset",
            Self::KernelPanic => "kernelPanic",
            Self::TripleFault => "tripleFault",
            Self::Failed => "failed",
            Self::TimedOut => "timedOut",
            Self::Aborted => "aborted",
        }
    }
}

/// The exit status of a process that failed with this error.
pub const fn error_status(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::BackendMissing | ErrorCode::BackendUnusable => STATUS_BACKEND_UNUSABLE,
        ErrorCode::InvalidArgument
        | ErrorCode::MemorySize
        | ErrorCode::VcpuCount
        | ErrorCode::Unsupported
        | ErrorCode::ImageFormat
        | ErrorCode::ImageTooLarge
        | ErrorCode::CommandLine
        | ErrorCode::DeviceOverlap
        | ErrorCode::OutOfMemory => STATUS_BAD_ARGUMENTS,
        ErrorCode::Timeout => Outcome::TimedOut.status(),
        ErrorCode::Aborted => Outcome::Aborted.status(),
        _ => Outcome::Failed.status(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: [Outcome; 7] = [
        Outcome::PowerOff,
        Outcome::Reset,
        Outcome::KernelPanic,
        Outcome::TripleFault,
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::Aborted,
    ];

    #[test]
    fn statuses_are_distinct_and_no_debug_exit() {
        let mut all: Vec<u8> = ENDS.into_iter().map(Outcome::status).collect();
        all.extend([STATUS_BAD_ARGUMENTS, STATUS_BACKEND_UNUSABLE]);
        assert!(all.iter().all(|s| s.is_multiple_of(2)), "{all:?}");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), ENDS.len() + 2);
        assert_eq!(Outcome::DebugExit(0x0100_0021).status(), 0x21);
    }

    #[test]
    fn stops_and_what_they_mean() {
        use squib_core::DebugInfo;
        let of = |stop| Outcome::of(&stop, false);
        assert_eq!(of(Stop::Exit(VmExit::Shutdown)), Some(Outcome::PowerOff));
        assert_eq!(of(Stop::Exit(VmExit::Reset)), Some(Outcome::Reset));
        assert_eq!(of(Stop::Exit(VmExit::TripleFault)), Some(Outcome::TripleFault));
        for exit in [
            VmExit::InternalError(String::new()),
            VmExit::FailedEntry { reason: 1, cpu: 0 },
            VmExit::InterruptWindow,
            VmExit::MemoryFault { addr: 0x1000, size: 0x1000, flags: 8 },
            VmExit::DirtyRingFull,
            VmExit::Unsupported { what: String::new(), rip: 0 },
            VmExit::Unknown { reason: 99 },
        ] {
            assert_eq!(of(Stop::Exit(exit)), Some(Outcome::Failed));
        }
        assert_eq!(of(Stop::DebugExit(7)), Some(Outcome::DebugExit(7)));
        assert_eq!(of(Stop::Halted { deadline_ns: None }), None);
        for exit in [VmExit::Cancelled, VmExit::BudgetSpent, VmExit::Debug(DebugInfo::new(0, 0))] {
            assert_eq!(of(Stop::Exit(exit)), None);
        }
        for (kind, outcome) in [
            (SystemEventKind::Shutdown, Outcome::PowerOff),
            (SystemEventKind::Reset, Outcome::Reset),
            (SystemEventKind::Crash, Outcome::KernelPanic),
            (SystemEventKind::Suspend, Outcome::Failed),
            (SystemEventKind::Other(9), Outcome::Failed),
        ] {
            let event = VmExit::SystemEvent { kind, data: Default::default() };
            assert_eq!(of(Stop::Exit(event)), Some(outcome));
        }
        for stop in [Stop::Reset, Stop::Exit(VmExit::Reset), Stop::Exit(VmExit::TripleFault)] {
            assert_eq!(Outcome::of(&stop, true), Some(Outcome::KernelPanic));
        }
        assert_eq!(Outcome::of(&Stop::PowerOff, true), Some(Outcome::PowerOff));
    }

    #[test]
    fn errors_have_the_status_of_their_kind() {
        assert_eq!(error_status(ErrorCode::BackendUnusable), STATUS_BACKEND_UNUSABLE);
        assert_eq!(error_status(ErrorCode::MemorySize), STATUS_BAD_ARGUMENTS);
        assert_eq!(error_status(ErrorCode::Timeout), Outcome::TimedOut.status());
        assert_eq!(error_status(ErrorCode::Hypervisor), Outcome::Failed.status());
    }
}
