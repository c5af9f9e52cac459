//! Hypervisor.framework's C interface for Apple silicon, as in its headers `hv_vm.h`, `hv_vcpu.h`, `hv_vcpu_types.h` and
//! `hv_error.h`, and each call as a safe function.
#![allow(unsafe_code, reason = "calls into the framework")]

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use squib_core::{Error, ErrorCode, Result};

use crate::decode::NativeExit;

/// `hv_vcpu_t`.
pub(super) type VcpuId = u64;

/// `hv_vcpu_exit_t`.
#[repr(C)]
pub(super) struct ExitRecord {
    reason: u32,
    syndrome: u64,
    virtual_address: u64,
    physical_address: u64,
}

/// `hv_reg_t`: X0 to X30 are 0 to 30.
pub(super) const REG_PC: u32 = 31;
pub(super) const REG_CPSR: u32 = 34;

/// `hv_sys_reg_t`: the bits 20:5 of the instructions that access them.
pub(super) const SPSR_EL1: u16 = 0xc200;
pub(super) const ELR_EL1: u16 = 0xc201;
pub(super) const ESR_EL1: u16 = 0xc290;
pub(super) const VBAR_EL1: u16 = 0xc600;

/// `HV_MEMORY_READ | HV_MEMORY_EXEC`.
const READ_EXECUTE: u64 = 5;
/// `HV_MEMORY_WRITE`.
const WRITE: u64 = 2;

#[link(name = "Hypervisor", kind = "framework")]
unsafe extern "C" {
    fn hv_vm_create(config: *mut c_void) -> u32;
    fn hv_vm_destroy() -> u32;
    fn hv_vm_get_max_vcpu_count(count: *mut u32) -> u32;
    fn hv_vm_map(addr: *mut c_void, ipa: u64, size: usize, flags: u64) -> u32;
    fn hv_vcpu_create(vcpu: *mut VcpuId, exit: *mut *mut ExitRecord, config: *mut c_void) -> u32;
    fn hv_vcpu_destroy(vcpu: VcpuId) -> u32;
    fn hv_vcpu_run(vcpu: VcpuId) -> u32;
    fn hv_vcpus_exit(vcpus: *mut VcpuId, count: u32) -> u32;
    fn hv_vcpu_get_reg(vcpu: VcpuId, register: u32, value: *mut u64) -> u32;
    fn hv_vcpu_set_reg(vcpu: VcpuId, register: u32, value: u64) -> u32;
    fn hv_vcpu_get_sys_reg(vcpu: VcpuId, register: u16, value: *mut u64) -> u32;
    fn hv_vcpu_set_sys_reg(vcpu: VcpuId, register: u16, value: u64) -> u32;
}

/// What a call returned, as a result.
fn check(call: &str, status: u32) -> Result<()> {
    let (code, why) = match status {
        0 => return Ok(()),
        0xfae9_4005 => (ErrorCode::OutOfMemory, "no resources"),
        0xfae9_4007 => (
            ErrorCode::BackendUnusable,
            "not permitted: the executable has to be signed with the entitlement com.apple.security.hypervisor",
        ),
        0xfae9_400f => (ErrorCode::BackendUnusable, "not supported on this Mac"),
        0xfae9_4002 => (ErrorCode::Hypervisor, "busy"),
        0xfae9_4003 => (ErrorCode::Hypervisor, "bad argument"),
        _ => (ErrorCode::Hypervisor, "failed"),
    };
    Err(Error::new(code, format!("{call}: {why} ({status:#x})")))
}

pub(super) fn max_vcpus() -> Result<u32> {
    let mut count = 0;
    // SAFETY: the pointer is good for the call.
    check("hv_vm_get_max_vcpu_count", unsafe { hv_vm_get_max_vcpu_count(&raw mut count) })?;
    Ok(count)
}

/// Makes the process' VM; there is one at most.
pub(super) fn create_vm() -> Result<()> {
    // SAFETY: no configuration is the default one.
    check("hv_vm_create", unsafe { hv_vm_create(null_mut()) })
}

/// Ends the process' VM.
pub(super) fn destroy_vm() {
    // SAFETY: takes no memory of ours. A VM that still has vCPUs is refused.
    let _ = unsafe { hv_vm_destroy() };
}

/// Gives the guest `len` bytes from `host` on at `guest`, which it may write or only read and run.
///
/// # Safety
/// The memory stays where it is, and nobody borrows it, until the VM has ended.
pub(super) unsafe fn map(host: *mut u8, guest: u64, len: usize, writable: bool) -> Result<()> {
    let flags = READ_EXECUTE | if writable { WRITE } else { 0 };
    // SAFETY: the caller's promise.
    check("hv_vm_map", unsafe { hv_vm_map(host.cast(), guest, len, flags) })
}

/// Makes a vCPU that belongs to the calling thread, and the place where its exits are.
pub(super) fn create_vcpu() -> Result<(VcpuId, NonNull<ExitRecord>)> {
    let (mut id, mut record) = (0, null_mut());
    // SAFETY: both pointers are good for the call; no configuration is the default one.
    check("hv_vcpu_create", unsafe { hv_vcpu_create(&raw mut id, &raw mut record, null_mut()) })?;
    let none = || Error::new(ErrorCode::Hypervisor, "hv_vcpu_create: no place for exits");
    Ok((id, NonNull::new(record).ok_or_else(none)?))
}

/// Ends a vCPU of the calling thread.
pub(super) fn destroy_vcpu(id: VcpuId) {
    // SAFETY: takes no memory of ours; an id of another thread is refused.
    let _ = unsafe { hv_vcpu_destroy(id) };
}

/// Runs a vCPU of the calling thread until it exits.
///
/// # Safety
/// `record` came with `id` from [`create_vcpu`], and the vCPU has not been destroyed.
pub(super) unsafe fn run_vcpu(id: VcpuId, record: NonNull<ExitRecord>) -> Result<NativeExit> {
    // SAFETY: takes no memory of ours.
    check("hv_vcpu_run", unsafe { hv_vcpu_run(id) })?;
    // SAFETY: the framework keeps the record as long as the vCPU, and writes it only in `hv_vcpu_run`.
    let record = unsafe { record.as_ptr().read() };
    Ok(match record.reason {
        0 => NativeExit::Cancelled,
        1 => NativeExit::Exception { syndrome: record.syndrome, physical_address: record.physical_address },
        2 => NativeExit::VirtualTimer,
        other => NativeExit::Unknown(other),
    })
}

/// Makes the vCPU's run, or the next if it is not running, return [`NativeExit::Cancelled`]. Any thread.
pub(super) fn stop_vcpu(mut id: VcpuId) {
    // SAFETY: the pointer is good for the call, to one id. One of a vCPU that has gone is refused.
    let _ = unsafe { hv_vcpus_exit(&raw mut id, 1) };
}

pub(super) fn register(id: VcpuId, number: u32) -> Result<u64> {
    let mut value = 0;
    // SAFETY: the pointer is good for the call.
    check("hv_vcpu_get_reg", unsafe { hv_vcpu_get_reg(id, number, &raw mut value) })?;
    Ok(value)
}

pub(super) fn set_register(id: VcpuId, number: u32, value: u64) -> Result<()> {
    // SAFETY: takes no memory of ours.
    check("hv_vcpu_set_reg", unsafe { hv_vcpu_set_reg(id, number, value) })
}

pub(super) fn system_register(id: VcpuId, number: u16) -> Result<u64> {
    let mut value = 0;
    // SAFETY: the pointer is good for the call.
    check("hv_vcpu_get_sys_reg", unsafe { hv_vcpu_get_sys_reg(id, number, &raw mut value) })?;
    Ok(value)
}

pub(super) fn set_system_register(id: VcpuId, number: u16, value: u64) -> Result<()> {
    // SAFETY: takes no memory of ours.
    check("hv_vcpu_set_sys_reg", unsafe { hv_vcpu_set_sys_reg(id, number, value) })
}
