//! Cases on the host CPU.
//!
//! A forked child unmaps everything but the sandbox of [`layout`](crate::layout), a page of code and a page it shares
//! with its parent, and then does nothing but return from signals: the parent writes a case into the signal frame, the
//! child's `rt_sigreturn` loads it into the CPU, and the exception that ends the case brings the next signal, whose frame
//! holds what the case left. No code of squib's lies in the address space that a case can reach, and a seccomp filter
//! keeps cases from calling the kernel.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod child;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod linux;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use linux::{Host, is_amd, settle};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod other {
    use crate::case::Case;
    use crate::host::Failure;
    use crate::state::Outcome;

    /// Nothing to settle.
    pub fn settle(_number: usize) -> u32 {
        0
    }

    /// Nothing is known of it.
    pub fn is_amd() -> bool {
        false
    }

    /// There is no oracle here.
    pub struct Host(std::convert::Infallible);

    impl Host {
        /// Always refuses.
        ///
        /// # Errors
        /// Why.
        pub fn new() -> Result<Self, String> {
            Err("the host is no x86-64 processor under Linux".to_owned())
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn run(&mut self, _case: &Case) -> Result<Outcome, Failure> {
            match self.0 {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn run_briefly(&mut self, _case: &Case) -> Result<Outcome, Failure> {
            match self.0 {}
        }
    }
}
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use other::{Host, is_amd, settle};

/// Why the host gave no outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The case did not end in time.
    Endless,
    /// The case called the kernel.
    SystemCall,
    /// The case is for a supervisor.
    Supervisor,
    /// The child is gone.
    Died(String),
}
