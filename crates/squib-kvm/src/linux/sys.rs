//! System calls which kvm-ioctls does not offer in the form needed here.
#![allow(unsafe_code, reason = "calls of the kernel and the C library")]

use std::os::fd::AsRawFd;

use kvm_bindings::kvm_ioeventfd;
use kvm_ioctls::Error;

/// `_IO(KVMIO, 0x80)` (include/uapi/linux/kvm.h).
const KVM_RUN: libc::c_ulong = 0xae80;
/// `_IOW(KVMIO, 0x79, struct kvm_ioeventfd)`.
const KVM_IOEVENTFD: libc::c_ulong = 0x4040_ae79;

/// `_IO(KVMIO, 0xc7)`.
const KVM_RESET_DIRTY_RINGS: libc::c_ulong = 0xaec7;

/// Bytes in a page of this host's kernel.
pub(super) fn page_size() -> u64 {
    // SAFETY: takes no memory of ours.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

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

/// Makes the kernel take writes, or not any more (KVM API, 4.59 `KVM_IOEVENTFD`).
///
/// kvm-ioctls' own cannot say that any value rings, but only one width.
pub(super) fn ioeventfd(vm: &impl AsRawFd, request: &kvm_ioeventfd) -> Result<(), Error> {
    // SAFETY: the kernel reads the structure during the call, and keeps a reference of its own to the eventfd's file.
    match unsafe { libc::ioctl(vm.as_raw_fd(), KVM_IOEVENTFD as _, request) } {
        0.. => Ok(()),
        _ => Err(Error::last()),
    }
}

/// Lets KVM watch the pages, and use the places, of entries that were taken from rings (KVM API, 8.29). Says how many; a signal
/// may end it early.
pub(super) fn reset_dirty_rings(vm: &impl AsRawFd) -> Result<u32, Error> {
    // SAFETY: the call takes no argument; the kernel writes nothing but entries of rings, which are only used as it knows.
    match unsafe { libc::ioctl(vm.as_raw_fd(), KVM_RESET_DIRTY_RINGS as _, 0) } {
        count @ 0.. => Ok(count as u32),
        _ => Err(Error::last()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_something_else_is_an_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(run(&null).unwrap_err().errno(), libc::ENOTTY);
        assert_eq!(ioeventfd(&null, &kvm_ioeventfd::default()).unwrap_err().errno(), libc::ENOTTY);
        assert_eq!(reset_dirty_rings(&null).unwrap_err().errno(), libc::ENOTTY);
    }
}
