//! Errors: a stable code, what was wrong, and what to do about it.

use std::fmt;

/// A result with squib's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The stable identity of an error. A program matches on this, never on the message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it appears in TypeScript and in `--json` output. Never changes meaning.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// An argument is outside of what the function takes.
    InvalidArgument = "ERR_INVALID_ARGUMENT",
    /// A memory size is zero, not a multiple of the page size, or larger than the host can give.
    MemorySize = "ERR_MEMORY_SIZE",
    /// A guest-physical range is not wholly RAM.
    MemoryRange = "ERR_MEMORY_RANGE",
    /// Two memory regions overlap, or one lies where the backend has an interrupt controller or pages of its own.
    MemoryOverlap = "ERR_MEMORY_OVERLAP",
    /// A device's range overlaps another's, or leaves the address space.
    DeviceOverlap = "ERR_DEVICE_OVERLAP",
    /// A device failed while it handled an access.
    DeviceFailed = "ERR_DEVICE_FAILED",
    /// A device was called again from within its own callback.
    DeviceReentered = "ERR_DEVICE_REENTERED",
    /// The access width is not 1, 2, 4 or 8 bytes (ports: 1, 2 or 4).
    AccessWidth = "ERR_ACCESS_WIDTH",
    /// No such interrupt line, or no interrupt controller.
    IrqLine = "ERR_IRQ_LINE",
    /// More vCPUs than the backend supports, or a vCPU number used twice.
    VcpuCount = "ERR_VCPU_COUNT",
    /// The vCPU is already running.
    VcpuBusy = "ERR_VCPU_BUSY",
    /// The entry does not answer the last exit.
    BadEntry = "ERR_BAD_ENTRY",
    /// The VM, vCPU or memory has been closed.
    Closed = "ERR_CLOSED",
    /// The backend is not compiled for this platform.
    BackendMissing = "ERR_BACKEND_MISSING",
    /// The backend exists but cannot be used here; the message says why.
    BackendUnusable = "ERR_BACKEND_UNUSABLE",
    /// The backend cannot do what was asked; see its capabilities.
    Unsupported = "ERR_UNSUPPORTED",
    /// A system call or hypervisor call failed.
    Hypervisor = "ERR_HYPERVISOR",
    /// The host has no memory for this.
    OutOfMemory = "ERR_OUT_OF_MEMORY",
    /// No such register.
    Register = "ERR_REGISTER",
    /// A kernel or program image is truncated, malformed, or of a kind that is not known.
    ImageFormat = "ERR_IMAGE_FORMAT",
    /// An image does not fit where it has to go.
    ImageTooLarge = "ERR_IMAGE_TOO_LARGE",
    /// The kernel command line is too long or not representable.
    CommandLine = "ERR_COMMAND_LINE",
    /// The guest did something that cannot go on.
    GuestFailed = "ERR_GUEST_FAILED",
    /// A time limit was reached.
    Timeout = "ERR_TIMEOUT",
    /// The caller stopped it.
    Aborted = "ERR_ABORTED",
    /// A defect in squib.
    Internal = "ERR_INTERNAL",
}

/// What went wrong: code, message, and the error beneath it if there is one.
#[derive(Debug)]
pub struct Error {
    code: ErrorCode,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with `code`. The message says what was wrong and, where one can tell, what to do.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), source: None }
    }

    /// The same with the error that caused it.
    pub fn with_source(
        code: ErrorCode,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { code, message: message.into(), source: Some(source.into()) }
    }

    /// The stable code.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The message without its cause.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_prefixed() {
        for (i, code) in ErrorCode::ALL.iter().enumerate() {
            assert!(code.as_str().starts_with("ERR_"));
            assert!(ErrorCode::ALL[..i].iter().all(|c| c.as_str() != code.as_str()));
        }
    }

    #[test]
    fn display_keeps_the_cause() {
        let e = Error::with_source(ErrorCode::Hypervisor, "KVM_RUN failed", std::io::Error::other("EIO"));
        assert_eq!(e.to_string(), "KVM_RUN failed: EIO");
        assert!(std::error::Error::source(&e).is_some());
    }
}
