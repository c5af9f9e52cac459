//! One vCPU. The framework ties it to the thread that made it: there it is run, looked at and dropped.
#![allow(unsafe_code, reason = "a vCPU's record of exits is the framework's memory")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

use squib_core::backend::Cancel;
use squib_core::{CancelHandle, Error, ErrorCode, Result, Vcpu, VmEntry, VmExit, Waker};

use super::ffi::{self, ExitRecord, VcpuId};
use super::vm::Machine;
use crate::decode::{Decoded, NativeExit, decode};
use crate::pending::Pending;
use crate::registers::{Register, Registers};

pub(super) struct HvfVcpu {
    native: Native,
    record: NonNull<ExitRecord>,
    thread: ThreadId,
    pending: Pending,
    kick: Arc<Kick>,
    number: u32,
    /// Let go last: the VM ends after its vCPUs.
    _machine: Arc<Machine>,
}

// SAFETY: `record` is read only on the thread that made the vCPU, which `run` checks.
unsafe impl Send for HvfVcpu {}

impl HvfVcpu {
    pub(super) fn new(machine: Arc<Machine>, number: u32) -> Result<Self> {
        let (id, record) = ffi::create_vcpu()?;
        let kick = Kick {
            vcpu: Mutex::new(Some(id)),
            requested: AtomicBool::new(false),
            waker: machine.waker.clone(),
        };
        Ok(Self {
            native: Native(id),
            record,
            thread: std::thread::current().id(),
            pending: Pending::Nothing,
            kick: Arc::new(kick),
            number,
            _machine: machine,
        })
    }
}

impl Vcpu for HvfVcpu {
    fn id(&self) -> u32 {
        self.number
    }

    fn run(&mut self, entry: VmEntry) -> Result<VmExit> {
        if std::thread::current().id() != self.thread {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "a vCPU of Hypervisor.framework runs only on the thread that made it",
            ));
        }
        self.pending.answer(&entry, &mut self.native)?;
        self.pending = Pending::Nothing;
        if matches!(entry, VmEntry::Complete(_)) {
            return Ok(VmExit::Completed);
        }
        loop {
            if self.kick.requested.swap(false, Ordering::SeqCst) {
                return Ok(VmExit::Cancelled);
            }
            // SAFETY: both came together, and the vCPU lives as long as this.
            let native = unsafe { ffi::run_vcpu(self.native.0, self.record) }?;
            if native == NativeExit::Cancelled {
                // Of a request that the loop's check reports, or has reported before.
                continue;
            }
            if let Decoded::Exit(exit, pending) = decode(native, &mut self.native)? {
                self.pending = pending;
                return Ok(exit);
            }
        }
    }

    fn cancel_handle(&self) -> CancelHandle {
        CancelHandle::new(self.kick.clone())
    }
}

impl Drop for HvfVcpu {
    fn drop(&mut self) {
        *self.kick.vcpu.lock().unwrap_or_else(PoisonError::into_inner) = None;
        ffi::destroy_vcpu(self.native.0);
    }
}

/// What a vCPU shares with its cancel handles.
struct Kick {
    /// `None` once the vCPU has gone, whose number may be another's then.
    vcpu: Mutex<Option<VcpuId>>,
    /// A request that `run` has not reported yet.
    requested: AtomicBool,
    waker: Arc<dyn Waker>,
}

impl Cancel for Kick {
    fn cancel(&self) {
        if self.requested.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(id) = *self.vcpu.lock().unwrap_or_else(PoisonError::into_inner) {
            ffi::stop_vcpu(id);
        }
        self.waker.wake();
    }
}

/// The framework's vCPU as a bank of registers.
struct Native(VcpuId);

/// Which of the framework's two calls a register takes, and its number there.
enum Place {
    General(u32),
    System(u16),
}

fn place(register: Register) -> Place {
    match register {
        Register::X(number) => Place::General(number.into()),
        Register::Pc => Place::General(ffi::REG_PC),
        Register::Pstate => Place::General(ffi::REG_CPSR),
        Register::VbarEl1 => Place::System(ffi::VBAR_EL1),
        Register::ElrEl1 => Place::System(ffi::ELR_EL1),
        Register::SpsrEl1 => Place::System(ffi::SPSR_EL1),
        Register::EsrEl1 => Place::System(ffi::ESR_EL1),
    }
}

impl Registers for Native {
    fn read(&mut self, register: Register) -> Result<u64> {
        match place(register) {
            Place::General(number) => ffi::register(self.0, number),
            Place::System(number) => ffi::system_register(self.0, number),
        }
    }

    fn write(&mut self, register: Register, value: u64) -> Result<()> {
        match place(register) {
            Place::General(number) => ffi::set_register(self.0, number, value),
            Place::System(number) => ffi::set_system_register(self.0, number, value),
        }
    }
}
