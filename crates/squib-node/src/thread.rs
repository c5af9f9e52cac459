//! Threads of vCPUs.

use squib_core::{Error, ErrorCode};

use crate::error::{Result, thrown};

/// Does `work` on a thread of its own.
///
/// # Errors
/// `Hypervisor` when the host gives no further thread.
pub(crate) fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    match std::thread::Builder::new().name(name).spawn(work) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(thrown(&Error::with_source(ErrorCode::Hypervisor, "the host gives no further thread", error)))
        }
    }
}
