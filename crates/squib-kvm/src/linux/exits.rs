//! Decoding: what `struct kvm_run` says, as a [`VmExit`] and what the exit waits for.

use kvm_bindings::*;
use smallvec::SmallVec;
use squib_core::{Error, ErrorCode, ExitData, MsrReason, Result, SystemEventKind, VmEntry, VmExit};

use super::arch::{NO_SUCH_HYPERCALL, debug_info};
use super::run_page::{Internal, RunPage};

/// `KVM_HC_MAP_GPA_RANGE` (include/uapi/linux/kvm_para.h), the hypercall that KVM can pass on.
pub(super) const HC_MAP_GPA_RANGE: u64 = 12;

/// An aarch64 syndrome's class and instruction length for a data abort from the guest (Arm ARM, D24.2.40): KVM passes on
/// only the fields below them.
const DATA_ABORT: u64 = 0x24 << 26 | 1 << 25;

/// All bits set, what an unanswered read gives.
const EMPTY_BUS: [u8; 8] = [0xff; 8];

/// Which answer the last exit waits for, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pending {
    /// None: there is nothing that could be answered.
    Nothing,
    MmioRead {
        len: usize,
    },
    Port(PortAccess),
    Hypercall,
    MsrRead,
    MsrWrite,
}

/// An element of a port access, and how many follow it. KVM reports a whole run of a string instruction in
/// one exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortAccess {
    port: u16,
    write: bool,
    size: usize,
    /// Where the element's data are in the run page.
    offset: usize,
    /// Elements after this one.
    left: u32,
}

/// The exit that the page holds. `rip` finds out where the guest is, for the exits that say so.
#[inline]
pub(super) fn decode(page: &RunPage, rip: impl FnOnce() -> u64) -> (VmExit, Pending) {
    match page.exit_reason() {
        KVM_EXIT_IO => {
            let io = page.io();
            let len = u64::from(io.count) * u64::from(io.size);
            if io.count == 0 || !matches!(io.size, 1 | 2 | 4) || !page.holds(io.data_offset, len) {
                return (malformed("KVM_EXIT_IO", format_args!("{io:?}")), Pending::Nothing);
            }
            let access = PortAccess {
                port: io.port,
                write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
                size: usize::from(io.size),
                offset: io.data_offset as usize,
                left: io.count - 1,
            };
            (access.exit(page), Pending::Port(access))
        }
        KVM_EXIT_MMIO => {
            let mmio = page.mmio();
            let len = mmio.len as usize;
            if !(1..=8).contains(&len) {
                return (malformed("KVM_EXIT_MMIO", format_args!("{mmio:?}")), Pending::Nothing);
            }
            let write = mmio.is_write != 0;
            let data = ExitData::from_buf_and_len(if write { mmio.data } else { [0; 8] }, len);
            let pending = if write { Pending::Nothing } else { Pending::MmioRead { len } };
            (VmExit::Mmio { addr: mmio.phys_addr, write, data }, pending)
        }
        reason => decode_rare(page, reason, rip),
    }
}

#[cold]
fn decode_rare(page: &RunPage, reason: u32, rip: impl FnOnce() -> u64) -> (VmExit, Pending) {
    let exit = match reason {
        KVM_EXIT_HLT => VmExit::Hlt,
        KVM_EXIT_HYPERCALL => {
            let call = page.hypercall();
            let mut args = call.args;
            if call.nr == HC_MAP_GPA_RANGE {
                // The kernel leaves the words after its three arguments as they were.
                args[3..].fill(0);
            }
            return (VmExit::Hypercall { func: call.nr, args }, Pending::Hypercall);
        }
        KVM_EXIT_X86_RDMSR => {
            let msr = page.msr();
            return (VmExit::MsrRead { index: msr.index, reason: msr_reason(msr.reason) }, Pending::MsrRead);
        }
        KVM_EXIT_X86_WRMSR => {
            let msr = page.msr();
            let exit = VmExit::MsrWrite { index: msr.index, value: msr.data, reason: msr_reason(msr.reason) };
            return (exit, Pending::MsrWrite);
        }
        KVM_EXIT_IRQ_WINDOW_OPEN => VmExit::InterruptWindow,
        KVM_EXIT_IOAPIC_EOI => VmExit::Eoi { vector: page.eoi().vector },
        KVM_EXIT_SHUTDOWN => VmExit::TripleFault,
        KVM_EXIT_SYSTEM_EVENT => {
            let event = page.system_event();
            VmExit::SystemEvent { kind: system_event(event.type_), data: system_event_data(page) }
        }
        KVM_EXIT_DEBUG => VmExit::Debug(debug_info(&page.debug().arch, rip)),
        // An access to no memory by an instruction that the syndrome does not describe.
        KVM_EXIT_ARM_NISV => {
            let fault = page.arm_nisv();
            VmExit::MemoryFault { addr: fault.fault_ipa, size: 0, flags: DATA_ABORT | fault.esr_iss }
        }
        KVM_EXIT_MEMORY_FAULT => {
            let fault = page.memory_fault();
            VmExit::MemoryFault { addr: fault.gpa, size: fault.size, flags: fault.flags }
        }
        KVM_EXIT_DIRTY_RING_FULL => VmExit::DirtyRingFull,
        KVM_EXIT_FAIL_ENTRY => {
            let fail = page.fail_entry();
            VmExit::FailedEntry { reason: fail.hardware_entry_failure_reason, cpu: fail.cpu }
        }
        KVM_EXIT_INTERNAL_ERROR => VmExit::InternalError(internal_error(&page.internal(), rip())),
        KVM_EXIT_UNKNOWN => VmExit::Unsupported {
            what: format!("hardware exit {:#x}, which KVM does not know", page.hw().hardware_exit_reason),
            rip: rip(),
        },
        reason => VmExit::Unknown { reason },
    };
    (exit, Pending::Nothing)
}

fn malformed(what: &str, fields: std::fmt::Arguments<'_>) -> VmExit {
    VmExit::InternalError(format!("{what} makes no sense: {fields}"))
}

fn msr_reason(reason: u32) -> MsrReason {
    match reason {
        KVM_MSR_EXIT_REASON_FILTER => MsrReason::Filter,
        KVM_MSR_EXIT_REASON_INVAL => MsrReason::Invalid,
        _ => MsrReason::Unknown,
    }
}

fn system_event(kind: u32) -> SystemEventKind {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => SystemEventKind::Shutdown,
        KVM_SYSTEM_EVENT_RESET => SystemEventKind::Reset,
        KVM_SYSTEM_EVENT_CRASH => SystemEventKind::Crash,
        KVM_SYSTEM_EVENT_WAKEUP => SystemEventKind::Wakeup,
        KVM_SYSTEM_EVENT_SUSPEND => SystemEventKind::Suspend,
        other => SystemEventKind::Other(other),
    }
}

fn system_event_data(page: &RunPage) -> SmallVec<[u64; 2]> {
    let (ndata, words) = page.system_event_words();
    SmallVec::from_slice(&words[..words.len().min(ndata as usize)])
}

/// The text of an internal error: what KVM calls it, where, and every word it gave (KVM API, 5,
/// `KVM_EXIT_INTERNAL_ERROR`).
fn internal_error(error: &Internal, rip: u64) -> String {
    let what = match error.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction could not be emulated",
        KVM_INTERNAL_ERROR_SIMUL_EX => "an exception arose while another was delivered",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit arose while an event was delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "the hardware exited for an unexpected reason",
        _ => "of a kind that squib does not know",
    };
    let data = &error.data[..error.data.len().min(error.ndata as usize)];
    let mut text = format!("KVM internal error, suberror {}: {what}, at rip {rip:#x}", error.suberror);
    // An emulation failure's first word is flags; the next two hold the length and bytes of the instruction.
    let emulation = error.suberror == KVM_INTERNAL_ERROR_EMULATION;
    if let [flags, first, second, ..] = *data
        && emulation
        && flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0
    {
        let words = [first.to_le_bytes(), second.to_le_bytes()];
        let [len, bytes @ ..] = words.as_flattened() else { return text };
        let bytes = &bytes[..bytes.len().min(usize::from(*len))];
        text += &format!(", instruction bytes {bytes:02x?}");
    }
    if !data.is_empty() {
        text += &format!(", data {data:x?}");
    }
    text
}

impl PortAccess {
    /// The exit for this element.
    #[inline]
    fn exit(&self, page: &RunPage) -> VmExit {
        let bytes = if self.write { page.port_data(self.offset, self.size) } else { [0; 8] };
        let data = ExitData::from_buf_and_len(bytes, self.size);
        VmExit::Pio { port: self.port, write: self.write, data }
    }
}

impl Pending {
    /// Puts the answer to the last exit into the page.
    ///
    /// # Errors
    /// [`ErrorCode::BadEntry`] when `entry` is no answer to it; nothing has changed then.
    #[inline]
    pub(super) fn answer(&self, page: &mut RunPage, entry: &VmEntry) -> Result<()> {
        match (self, entry) {
            (Self::Nothing | Self::MsrWrite, VmEntry::Resume | VmEntry::Complete(None)) => {
                if *self == Self::MsrWrite {
                    page.set_msr_answer(Some(page.msr().data));
                }
            }
            (Self::Port(access), VmEntry::Resume | VmEntry::Complete(None)) => {
                if !access.write {
                    page.set_port_data(access.offset, &EMPTY_BUS[..access.size]);
                }
            }
            (Self::MmioRead { len }, VmEntry::Resume | VmEntry::Complete(None)) => {
                page.set_mmio_data(&EMPTY_BUS[..*len]);
            }
            (Self::Hypercall, VmEntry::Resume | VmEntry::Complete(None)) => {
                page.set_hypercall_return(NO_SUCH_HYPERCALL);
            }
            (Self::MsrRead, VmEntry::Resume | VmEntry::Complete(None))
            | (Self::MsrRead | Self::MsrWrite, VmEntry::MsrFault) => page.set_msr_answer(None),
            (Self::Port(access), VmEntry::Read(data) | VmEntry::Complete(Some(data)))
                if !access.write && data.len() == access.size =>
            {
                page.set_port_data(access.offset, data);
            }
            (Self::MmioRead { len }, VmEntry::Read(data) | VmEntry::Complete(Some(data)))
                if data.len() == *len =>
            {
                page.set_mmio_data(data);
            }
            (Self::Hypercall, VmEntry::Hypercall(value)) => page.set_hypercall_return(*value),
            (Self::MsrRead, VmEntry::Msr(value)) => page.set_msr_answer(Some(*value)),
            _ => return Err(self.refuse(entry)),
        }
        Ok(())
    }

    /// The next element of a string access, of which the last has been answered.
    #[inline]
    pub(super) fn next_element(&mut self, page: &RunPage) -> Option<VmExit> {
        let Self::Port(access) = self else { return None };
        access.left = access.left.checked_sub(1)?;
        access.offset += access.size;
        Some(access.exit(page))
    }

    #[cold]
    fn refuse(&self, entry: &VmEntry) -> Error {
        let wanted = match self {
            Self::Nothing | Self::Port(PortAccess { write: true, .. }) => {
                "takes no answer: give Resume".to_owned()
            }
            Self::MmioRead { len } | Self::Port(PortAccess { size: len, .. }) => {
                format!("waits for Read with {len} bytes")
            }
            Self::Hypercall => "waits for Hypercall".to_owned(),
            Self::MsrRead => "waits for Msr or MsrFault".to_owned(),
            Self::MsrWrite => "waits for Resume or MsrFault".to_owned(),
        };
        Error::new(ErrorCode::BadEntry, format!("the last exit {wanted}, not {entry:?}"))
    }
}

#[cfg(test)]
mod tests;
