//! The run itself, which kvm-ioctls does not offer in the form needed here.
#![allow(unsafe_code, reason = "a system call on a vCPU's file descriptor")]

use std::os::fd::AsRawFd;

use kvm_ioctls::Error;

/// `_IO(KVMIO, 0x80)` (include/uapi/linux/kvm.h).
const KVM_RUN: libc::c_ulong = 0xae80;

/// Runs the vCPU until its next exit, which is then in the run page (KVM API, 4.10 `KVM_RUN`).
///
/// kvm-ioctls' own `run` decodes the exit into a borrowed form that drops parts of it, so it is not used.
#[inline]
pub(super) fn run(vcpu: &impl AsRawFd) -> Result<(), Error> {
    // SAFETY: the call takes no argument; the kernel writes nothing but the vCPU's run page and guest memory,
    // both of which outlive the vCPU and are never borrowed.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_RUN as _, 0) } {
        0.. => Ok(()),
        _ => Err(Error::last()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_is_no_vcpu_is_an_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(run(&null).unwrap_err().errno(), libc::ENOTTY);
    }
}
