//! From what the framework reports to a [`VmExit`] and what it waits for.

use squib_core::{DebugInfo, ExitData, MsrReason, Result, SystemEventKind, VmExit};

use crate::pending::Pending;
use crate::registers::{Register, Registers, advance, x};
use crate::syndrome::{Syndrome, class};

/// Why `hv_vcpu_run` came back (`hv_vcpu_exit_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NativeExit {
    /// `hv_vcpus_exit` was called.
    Cancelled,
    /// The guest took an exception to the hypervisor.
    Exception {
        /// ESR_EL2.
        syndrome: u64,
        /// The guest-physical address of an abort.
        physical_address: u64,
    },
    /// The virtual timer fired; the framework has masked it.
    VirtualTimer,
    /// Another reason, by its number.
    Unknown(u32),
}

/// What to do about it.
#[derive(Debug)]
pub enum Decoded {
    /// An exit, and what it waits for.
    Exit(VmExit, Pending),
    /// Nothing: enter the guest again.
    Resume,
}

/// The interrupt of the virtual timer: a private peripheral interrupt (Arm BSA, table 4), in
/// [`SystemEventKind::Other`].
const VIRTUAL_TIMER_INTERRUPT: u32 = 27;

/// Decodes `exit`.
///
/// Where the instruction that caused it has to be stepped over whatever the answer is, PC is moved here: `WFI`, `WFE` and
/// `SMC` are trapped before they are executed, `HVC` after. The rest is [`Pending::answer`]'s.
///
/// | class | exit |
/// |---|---|
/// | `WFI`, `WFIT`; `WFE`, `WFET` | `Wfi`; `Wfe` |
/// | `HVC`, `SMC` from AArch64 | `Hypercall`: X0, and X1 to X6 |
/// | `MSR`, `MRS`, system instructions | `MsrWrite`, `MsrRead`; the index is the instruction's bits 20:5 |
/// | data abort with a valid syndrome, where nothing is mapped or not for this | `Mmio` |
/// | cache maintenance where nothing is mapped | none: it is skipped |
/// | other data aborts, instruction aborts | `MemoryFault` with the syndrome as flags; the size, which is not told, is 0 |
/// | breakpoint, step, watchpoint, `BRK` | `Debug` |
/// | any other | `Unsupported` with its number |
///
/// # Errors
/// Those of `registers`.
pub fn decode(exit: NativeExit, registers: &mut impl Registers) -> Result<Decoded> {
    let exit = match exit {
        NativeExit::Cancelled => VmExit::Cancelled,
        NativeExit::Exception { syndrome, physical_address } => {
            return exception(Syndrome(syndrome), physical_address, registers);
        }
        NativeExit::VirtualTimer => VmExit::SystemEvent {
            kind: SystemEventKind::Other(VIRTUAL_TIMER_INTERRUPT),
            data: Default::default(),
        },
        NativeExit::Unknown(reason) => VmExit::Unknown { reason },
    };
    Ok(Decoded::Exit(exit, Pending::Nothing))
}

fn exception(syndrome: Syndrome, address: u64, registers: &mut impl Registers) -> Result<Decoded> {
    let len = syndrome.instruction_len();
    let (exit, pending) = match syndrome.class() {
        class::WFX => {
            advance(registers, len)?;
            let exit = if syndrome.waits_for_event() { VmExit::Wfe } else { VmExit::Wfi };
            (exit, Pending::Nothing)
        }
        class::HVC64 => (hypercall(registers)?, Pending::Hypercall),
        class::SMC64 => {
            advance(registers, len)?;
            (hypercall(registers)?, Pending::Hypercall)
        }
        class::SYSTEM => system(syndrome, registers)?,
        class::DATA_ABORT => return data_abort(syndrome, address, registers),
        class::INSTRUCTION_ABORT => (memory_fault(syndrome, address), Pending::Nothing),
        class::BREAKPOINT | class::STEP | class::WATCHPOINT | class::BRK64 => {
            (VmExit::Debug(DebugInfo::new(registers.read(Register::Pc)?, syndrome.0)), Pending::Nothing)
        }
        other => {
            let what = format!("exception class {other:#04x}, syndrome {:#x}", syndrome.0);
            (VmExit::Unsupported { what, rip: registers.read(Register::Pc)? }, Pending::Nothing)
        }
    };
    Ok(Decoded::Exit(exit, pending))
}

/// Function and arguments (SMC Calling Convention, 2.6).
fn hypercall(registers: &mut impl Registers) -> Result<VmExit> {
    let mut args = [0; 6];
    for (number, arg) in (1..).zip(&mut args) {
        *arg = x(registers, number)?;
    }
    Ok(VmExit::Hypercall { func: x(registers, 0)?, args })
}

fn system(syndrome: Syndrome, registers: &mut impl Registers) -> Result<(VmExit, Pending)> {
    let (index, reason) = (syndrome.system_register(), MsrReason::Unknown);
    let (operand, len) = (syndrome.system_operand(), syndrome.instruction_len());
    Ok(if syndrome.is_system_read() {
        (VmExit::MsrRead { index, reason }, Pending::SystemRead { register: operand, len })
    } else {
        (VmExit::MsrWrite { index, value: x(registers, operand)?, reason }, Pending::SystemWrite { len })
    })
}

fn data_abort(syndrome: Syndrome, addr: u64, registers: &mut impl Registers) -> Result<Decoded> {
    let len = syndrome.instruction_len();
    let unmapped = syndrome.is_mapping_fault() && !syndrome.is_table_walk();
    if unmapped && syndrome.is_maintenance() {
        // There is nothing to clean or invalidate.
        advance(registers, len)?;
        return Ok(Decoded::Resume);
    }
    if !unmapped || !syndrome.is_valid() {
        return Ok(Decoded::Exit(memory_fault(syndrome, addr), Pending::Nothing));
    }
    let (width, register) = (syndrome.access_len(), syndrome.access_register());
    let write = syndrome.is_write();
    let bytes = if write { x(registers, register)?.to_le_bytes() } else { [0; 8] };
    let pending = if write {
        Pending::MemoryWrite { len }
    } else {
        let (signed, wide) = (syndrome.sign_extends(), syndrome.is_64_bit());
        Pending::MemoryRead { register, width, signed, wide, len }
    };
    let exit = VmExit::Mmio { addr, write, data: ExitData::from_slice(&bytes[..width]) };
    Ok(Decoded::Exit(exit, pending))
}

fn memory_fault(syndrome: Syndrome, addr: u64) -> VmExit {
    VmExit::MemoryFault { addr, size: 0, flags: syndrome.0 }
}

#[cfg(test)]
mod tests;
