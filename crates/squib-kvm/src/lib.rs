//! The Linux KVM backend, for x86-64 and aarch64 hosts.
//!
//! [`KvmBackend::open`] gives a [`HypervisorBackend`](squib_core::HypervisorBackend); [`probe`] says what the
//! machine's KVM is worth. Both exist on every platform, so that callers need no `cfg`: elsewhere opening
//! fails with [`ErrorCode::BackendMissing`](squib_core::ErrorCode::BackendMissing).
//!
//! How exits are completed and runs are cancelled, and why so: `docs/design/kvm.md`.

mod report;

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod linux;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use linux::{KvmBackend, probe};

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod missing;
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub use missing::{KvmBackend, probe};

pub use report::{ProbeReport, Step};
