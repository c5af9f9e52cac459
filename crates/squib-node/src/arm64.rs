//! aarch64 register state as plain objects of bigints and numbers.

use napi::bindgen_prelude::BigInt;
use napi_derive::napi;
use squib_core::ErrorCode;
use squib_core::arm64::{Arm64State, PowerState, Registers, SystemRegister, VectorRegisters};

use crate::error::{Result, refuse};
use crate::number::{long_word, small, word};
use crate::registers::field;
use crate::vcpu::State;

/// General-purpose registers, stack pointers, program counter and processor state.
#[napi(object, js_name = "Arm64Registers")]
pub struct JsRegisters {
    /// X0 to X30, 31 of them.
    pub x: Vec<BigInt>,
    /// SP_EL0: the stack of programs, and of EL1 while PSTATE.SP is 0.
    pub sp_el0: BigInt,
    /// SP_EL1.
    pub sp_el1: BigInt,
    /// Address of the next instruction.
    pub pc: BigInt,
    /// PSTATE in the form of SPSR_EL1 (Arm ARM, DDI 0487, C5.2.19).
    pub pstate: BigInt,
}

impl From<Registers> for JsRegisters {
    fn from(r: Registers) -> Self {
        Self {
            x: r.x.map(BigInt::from).into(),
            sp_el0: r.sp_el0.into(),
            sp_el1: r.sp_el1.into(),
            pc: r.pc.into(),
            pstate: r.pstate.into(),
        }
    }
}

impl JsRegisters {
    fn to_core(&self) -> Result<Registers> {
        Ok(Registers {
            x: each(&self.x, "x", field)?,
            sp_el0: field(&self.sp_el0)?,
            sp_el1: field(&self.sp_el1)?,
            pc: field(&self.pc)?,
            pstate: field(&self.pstate)?,
        })
    }
}

/// V0 to V31 and the registers that control them.
#[napi(object, js_name = "Arm64VectorRegisters")]
pub struct JsVectorRegisters {
    /// V0 to V31, 32 of them, of 128 bits each.
    pub v: Vec<BigInt>,
    /// FPSR: floating-point status, 32 bits.
    pub fpsr: u32,
    /// FPCR: floating-point control, 32 bits.
    pub fpcr: u32,
}

impl From<VectorRegisters> for JsVectorRegisters {
    fn from(r: VectorRegisters) -> Self {
        Self { v: r.v.map(BigInt::from).into(), fpsr: r.fpsr, fpcr: r.fpcr }
    }
}

impl JsVectorRegisters {
    fn to_core(&self) -> Result<VectorRegisters> {
        Ok(VectorRegisters { v: each(&self.v, "v", long_word)?, fpsr: self.fpsr, fpcr: self.fpcr })
    }
}

/// The `N` registers of a list.
fn each<T: Copy + Default, const N: usize>(
    values: &[BigInt],
    name: &str,
    number: impl Fn(&BigInt) -> Result<T>,
) -> Result<[T; N]> {
    if values.len() != N {
        return refuse(ErrorCode::InvalidArgument, format!("{name} must hold {N} registers"));
    }
    let mut registers = [T::default(); N];
    for (register, value) in registers.iter_mut().zip(values) {
        *register = number(value)?;
    }
    Ok(registers)
}

/// Whether a vCPU runs or waits to be started (PSCI, DEN 0022, 5.1.4 `CPU_ON`).
#[napi(js_name = "Arm64PowerState", string_enum = "lowercase")]
#[derive(Debug)]
pub enum JsPowerState {
    /// It runs, or waits for an interrupt.
    On,
    /// It runs nothing until another vCPU starts it, or its state is set.
    Off,
}

impl From<PowerState> for JsPowerState {
    fn from(state: PowerState) -> Self {
        match state {
            PowerState::On => Self::On,
            PowerState::Off => Self::Off,
        }
    }
}

impl From<JsPowerState> for PowerState {
    fn from(state: JsPowerState) -> Self {
        match state {
            JsPowerState::On => Self::On,
            JsPowerState::Off => Self::Off,
        }
    }
}

/// The aarch64 state of a vCPU. `ts/arm64.ts` is its face.
#[napi]
pub struct NativeArm64(pub(crate) State);

#[napi]
impl NativeArm64 {
    fn with<T>(&self, f: impl FnOnce(&mut dyn Arm64State) -> squib_core::Result<T>) -> Result<T> {
        self.0.with(|vcpu| f(vcpu.arm64()?))
    }

    /// General-purpose registers.
    #[napi(catch_unwind)]
    pub fn registers(&self) -> Result<JsRegisters> {
        self.with(|a| a.registers()).map(Into::into)
    }

    /// Sets them.
    #[napi(catch_unwind)]
    pub fn set_registers(&self, registers: JsRegisters) -> Result<()> {
        let registers = registers.to_core()?;
        self.with(|a| a.set_registers(&registers))
    }

    /// Vector and floating-point registers.
    #[napi(catch_unwind)]
    pub fn vector_registers(&self) -> Result<JsVectorRegisters> {
        self.with(|a| a.vector_registers()).map(Into::into)
    }

    /// Sets them.
    #[napi(catch_unwind)]
    pub fn set_vector_registers(&self, registers: JsVectorRegisters) -> Result<()> {
        let registers = registers.to_core()?;
        self.with(|a| a.set_vector_registers(&registers))
    }

    /// A system register, by its encoding.
    #[napi(catch_unwind)]
    pub fn system_register(&self, encoding: u32) -> Result<BigInt> {
        let register = system_register(encoding)?;
        self.with(|a| a.system_register(register)).map(Into::into)
    }

    /// Sets one.
    #[napi(catch_unwind)]
    pub fn set_system_register(&self, encoding: u32, value: BigInt) -> Result<()> {
        let register = system_register(encoding)?;
        let value = word(&value, ErrorCode::InvalidArgument)?;
        self.with(|a| a.set_system_register(register, value))
    }

    /// The encodings of the system registers that make up the state of a vCPU.
    #[napi(catch_unwind)]
    pub fn system_register_list(&self) -> Result<Vec<u32>> {
        let list = self.with(|a| a.system_register_list())?;
        Ok(list.into_iter().map(|register| register.0.into()).collect())
    }

    /// Whether it runs.
    #[napi(catch_unwind)]
    pub fn power_state(&self) -> Result<JsPowerState> {
        self.with(|a| a.power_state()).map(Into::into)
    }

    /// Starts or stops it.
    #[napi(catch_unwind)]
    pub fn set_power_state(&self, state: JsPowerState) -> Result<()> {
        self.with(|a| a.set_power_state(state.into()))
    }
}

fn system_register(encoding: u32) -> Result<SystemRegister> {
    Ok(SystemRegister(small(encoding, 0xffff, "a system register's encoding")? as u16))
}
