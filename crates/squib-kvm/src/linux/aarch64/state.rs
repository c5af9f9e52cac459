//! aarch64 registers in and out of KVM.

use kvm_bindings::*;
use squib_core::arm64::{Arm64State, PowerState, Registers, SystemRegister, VectorRegisters};
use squib_core::{Error, ErrorCode, Result};

use super::registers as reg;
use crate::linux::errors::{failed, refused};
use crate::linux::vcpu::KvmVcpu;

/// Most registers that a list has room for; KVM has some 300 without large vectors.
const LIST_LEN: usize = 500;

impl KvmVcpu {
    fn core(&self, number: u64) -> Result<u64> {
        reg::get_u64(&self.fd, number).map_err(|e| failed("KVM_GET_ONE_REG", e))
    }

    fn set_core(&self, number: u64, bytes: &[u8]) -> Result<()> {
        reg::set(&self.fd, number, bytes).map_err(|e| refused("KVM_SET_ONE_REG", e))
    }
}

fn no_such(register: SystemRegister, errno: kvm_ioctls::Error, call: &str) -> Error {
    match errno.errno() {
        // EBUSY and EPERM: it cannot be set, or not any more.
        libc::ENOENT | libc::EINVAL | libc::EBUSY | libc::EPERM => {
            Error::new(ErrorCode::Register, format!("{call} refuses system register {register:?}"))
        }
        _ => failed(call, errno),
    }
}

impl Arm64State for KvmVcpu {
    fn registers(&mut self) -> Result<Registers> {
        let mut regs = Registers::default();
        for (number, x) in regs.x.iter_mut().enumerate() {
            *x = self.core(reg::x(number))?;
        }
        for (value, number) in [
            (&mut regs.sp_el0, reg::SP_EL0),
            (&mut regs.sp_el1, reg::SP_EL1),
            (&mut regs.pc, reg::PC),
            (&mut regs.pstate, reg::PSTATE),
        ] {
            *value = self.core(number)?;
        }
        Ok(regs)
    }

    fn set_registers(&mut self, regs: &Registers) -> Result<()> {
        // The only one that may be refused comes first.
        self.set_core(reg::PSTATE, &regs.pstate.to_le_bytes())?;
        for (number, x) in regs.x.iter().enumerate() {
            self.set_core(reg::x(number), &x.to_le_bytes())?;
        }
        for (value, number) in [(regs.sp_el0, reg::SP_EL0), (regs.sp_el1, reg::SP_EL1), (regs.pc, reg::PC)] {
            self.set_core(number, &value.to_le_bytes())?;
        }
        Ok(())
    }

    fn vector_registers(&mut self) -> Result<VectorRegisters> {
        let get = |e| failed("KVM_GET_ONE_REG", e);
        let mut regs = VectorRegisters::default();
        for (number, v) in regs.v.iter_mut().enumerate() {
            *v = u128::from_le_bytes(reg::get(&self.fd, reg::v(number)).map_err(get)?);
        }
        regs.fpsr = u32::from_le_bytes(reg::get(&self.fd, reg::FPSR).map_err(get)?);
        regs.fpcr = u32::from_le_bytes(reg::get(&self.fd, reg::FPCR).map_err(get)?);
        Ok(regs)
    }

    fn set_vector_registers(&mut self, regs: &VectorRegisters) -> Result<()> {
        for (number, v) in regs.v.iter().enumerate() {
            self.set_core(reg::v(number), &v.to_le_bytes())?;
        }
        self.set_core(reg::FPSR, &regs.fpsr.to_le_bytes())?;
        self.set_core(reg::FPCR, &regs.fpcr.to_le_bytes())
    }

    fn system_register(&mut self, register: SystemRegister) -> Result<u64> {
        reg::get_u64(&self.fd, reg::system(register)).map_err(|e| no_such(register, e, "KVM_GET_ONE_REG"))
    }

    fn set_system_register(&mut self, register: SystemRegister, value: u64) -> Result<()> {
        reg::set(&self.fd, reg::system(register), &value.to_le_bytes())
            .map_err(|e| no_such(register, e, "KVM_SET_ONE_REG"))
    }

    fn system_register_list(&mut self) -> Result<Vec<SystemRegister>> {
        let list = |e: String| Error::new(ErrorCode::Hypervisor, format!("KVM_GET_REG_LIST failed: {e}"));
        let mut numbers = RegList::new(LIST_LEN).map_err(|e| list(format!("{e:?}")))?;
        self.fd.get_reg_list(&mut numbers).map_err(|e| failed("KVM_GET_REG_LIST", e))?;
        let mut registers: Vec<_> =
            numbers.as_slice().iter().filter_map(|number| reg::system_register(*number)).collect();
        registers.sort_unstable();
        Ok(registers)
    }

    fn power_state(&mut self) -> Result<PowerState> {
        let state = self.fd.get_mp_state().map_err(|e| failed("KVM_GET_MP_STATE", e))?;
        Ok(if state.mp_state == KVM_MP_STATE_STOPPED { PowerState::Off } else { PowerState::On })
    }

    fn set_power_state(&mut self, state: PowerState) -> Result<()> {
        let mp_state = match state {
            PowerState::On => KVM_MP_STATE_RUNNABLE,
            PowerState::Off => KVM_MP_STATE_STOPPED,
        };
        self.fd.set_mp_state(kvm_mp_state { mp_state }).map_err(|e| failed("KVM_SET_MP_STATE", e))
    }
}
