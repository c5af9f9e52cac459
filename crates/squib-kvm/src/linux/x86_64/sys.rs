//! The KVM calls of x86 that kvm-ioctls does not offer in the form needed here.
#![allow(unsafe_code, reason = "system calls on KVM's file descriptors")]

use std::os::fd::AsRawFd;

use kvm_bindings::kvm_interrupt;
use kvm_ioctls::{Cap, Error, VcpuFd, VmFd};

/// `_IOW(KVMIO, 0x86, struct kvm_interrupt)` (include/uapi/linux/kvm.h).
const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;
/// `_IOR(KVMIO, 0xa4, struct kvm_xsave)`.
const KVM_GET_XSAVE: libc::c_ulong = 0x9000_aea4;
/// `_IOW(KVMIO, 0xa5, struct kvm_xsave)`.
const KVM_SET_XSAVE: libc::c_ulong = 0x5000_aea5;
/// `_IOR(KVMIO, 0xcf, struct kvm_xsave)`.
const KVM_GET_XSAVE2: libc::c_ulong = 0x9000_aecf;

/// Length of the XSAVE area before Linux 5.17, and the shortest since.
const XSAVE_LEN: usize = 4096;

/// Queues an external interrupt on a vCPU without local APIC (KVM API, 4.16 `KVM_INTERRUPT`).
pub(super) fn interrupt(vcpu: &VcpuFd, vector: u8) -> Result<(), Error> {
    let interrupt = kvm_interrupt { irq: u32::from(vector) };
    // SAFETY: the kernel reads one `kvm_interrupt`.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT as _, &raw const interrupt) } {
        0.. => Ok(()),
        _ => Err(Error::last()),
    }
}

/// The length in bytes of a vCPU's XSAVE area; it grows with features that a process asks for (KVM API, 4.134).
fn xsave_len(vm: &VmFd) -> usize {
    usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0).max(XSAVE_LEN)
}

/// The XSAVE area of a vCPU of `vm`.
pub(super) fn get_xsave(vm: &VmFd, vcpu: &VcpuFd) -> Result<Vec<u8>, Error> {
    let mut area = vec![0; xsave_len(vm)];
    let call = if vm.check_extension(Cap::Xsave2) { KVM_GET_XSAVE2 } else { KVM_GET_XSAVE };
    // SAFETY: the kernel writes as many bytes as it said just now that the area has.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), call as _, area.as_mut_ptr()) } {
        0.. => Ok(area),
        _ => Err(Error::last()),
    }
}

/// Sets the XSAVE area of a vCPU of `vm`. What is missing of `area` is zero; more than KVM has room for is
/// `EINVAL`.
pub(super) fn set_xsave(vm: &VmFd, vcpu: &VcpuFd, area: &[u8]) -> Result<(), Error> {
    let mut whole = vec![0; xsave_len(vm)];
    whole.get_mut(..area.len()).ok_or(Error::new(libc::EINVAL))?.copy_from_slice(area);
    // SAFETY: the kernel reads as many bytes as it said just now that the area has.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_XSAVE as _, whole.as_ptr()) } {
        0.. => Ok(()),
        _ => Err(Error::last()),
    }
}
