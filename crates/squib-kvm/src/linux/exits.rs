//! Decoding: what `struct kvm_run` says, as a [`VmExit`] and what the exit waits for.

use kvm_bindings::*;
use smallvec::SmallVec;
use squib_core::{Error, ErrorCode, MsrReason, Result, SystemEventKind, VmEntry, VmExit, exit_data};

use super::arch::{NO_SUCH_HYPERCALL, debug_info};
use super::run_page::{Internal, MMIO_DATA, RunPage};

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
    /// What is read, or for a write no more than to go on.
    Access(Access),
    Hypercall,
    MsrRead,
    MsrWrite,
}

/// An access, or an element of one: KVM reports a whole run of a string instruction on a port in one exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    /// Where its data are in the run page.
    offset: usize,
    /// Bytes, 1 to 8.
    size: usize,
    /// Elements after this one.
    left: u32,
    port: u16,
    write: bool,
}

/// The exit that the page holds, if it is an access as it should be, and in `pending` what it waits for.
///
/// Most exits are. It is inlined where they are returned, so that the code of such an exit lies together.
#[inline]
pub(super) fn access(page: &RunPage, pending: &mut Pending) -> Option<VmExit> {
    match page.exit_reason() {
        KVM_EXIT_IO => {
            let io = page.io();
            let len = u64::from(io.count) * u64::from(io.size);
            if io.count == 0 || !matches!(io.size, 1 | 2 | 4) || !page.holds(io.data_offset, len) {
                return None;
            }
            let access = Access {
                offset: io.data_offset as usize,
                size: io.size.into(),
                left: io.count - 1,
                port: io.port,
                write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
            };
            *pending = Pending::Access(access);
            Some(access.port_exit(page))
        }
        KVM_EXIT_MMIO => {
            let mmio = page.mmio();
            let (size, write) = (mmio.len as usize, mmio.is_write != 0);
            if !(1..=8).contains(&size) {
                return None;
            }
            *pending = Pending::Access(Access { offset: MMIO_DATA, size, left: 0, port: 0, write });
            let value = if write { u64::from_le_bytes(mmio.data) } else { 0 };
            Some(VmExit::Mmio { addr: mmio.phys_addr, write, data: exit_data(value, size) })
        }
        _ => None,
    }
}

/// The exit that the page holds when it is no [`access`], and in `pending` what it waits for. `rip` finds out where the guest is,
/// for the exits that say so.
pub(super) fn other(page: &RunPage, pending: &mut Pending, rip: impl FnOnce() -> u64) -> VmExit {
    match page.exit_reason() {
        KVM_EXIT_IO => malformed("KVM_EXIT_IO", &page.io()),
        KVM_EXIT_MMIO => malformed("KVM_EXIT_MMIO", &page.mmio()),
        KVM_EXIT_HLT => VmExit::Hlt,
        KVM_EXIT_HYPERCALL => {
            let call = page.hypercall();
            let mut args = call.args;
            if call.nr == HC_MAP_GPA_RANGE {
                // The kernel leaves the words after its three arguments as they were.
                args[3..].fill(0);
            }
            *pending = Pending::Hypercall;
            VmExit::Hypercall { func: call.nr, args }
        }
        KVM_EXIT_X86_RDMSR => {
            let msr = page.msr();
            *pending = Pending::MsrRead;
            VmExit::MsrRead { index: msr.index, reason: msr_reason(msr.reason) }
        }
        KVM_EXIT_X86_WRMSR => {
            let msr = page.msr();
            *pending = Pending::MsrWrite;
            VmExit::MsrWrite { index: msr.index, value: msr.data, reason: msr_reason(msr.reason) }
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
    }
}

fn malformed(what: &str, fields: &dyn std::fmt::Debug) -> VmExit {
    VmExit::InternalError(format!("{what} makes no sense: {fields:?}"))
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

impl Access {
    /// The exit for this element.
    #[inline]
    fn port_exit(&self, page: &RunPage) -> VmExit {
        let value = if self.write { page.data(self.offset, self.size) } else { 0 };
        VmExit::Pio { port: self.port, write: self.write, data: exit_data(value, self.size) }
    }

    /// Whether these are the bytes that it waits for.
    #[inline]
    fn takes(&self, data: &[u8]) -> bool {
        !self.write && data.len() == self.size
    }

    /// Puts what was read into the page.
    #[inline]
    fn read(&self, page: &mut RunPage, data: &[u8]) {
        page.set_data(self.offset, data);
    }
}

impl Pending {
    /// Puts the answer to the last exit into the page, and says whether the access is only to be completed.
    ///
    /// # Errors
    /// [`ErrorCode::BadEntry`] when `entry` is no answer to it; nothing has changed then.
    #[inline]
    pub(super) fn answer(&self, page: &mut RunPage, entry: VmEntry) -> Result<bool> {
        match (self, &entry) {
            (Self::Access(access), VmEntry::Resume) if access.write => {}
            (Self::Access(access), VmEntry::Read(data)) if access.takes(data) => access.read(page, data),
            _ => return self.answer_rare(page, entry),
        }
        Ok(false)
    }

    #[cold]
    fn answer_rare(&self, page: &mut RunPage, entry: VmEntry) -> Result<bool> {
        match (self, &entry) {
            (
                Self::Nothing | Self::Access(Access { write: true, .. }),
                VmEntry::Resume | VmEntry::Complete(None),
            ) => {}
            (Self::Access(access), VmEntry::Resume | VmEntry::Complete(None)) => {
                access.read(page, &EMPTY_BUS[..access.size]);
            }
            (Self::Access(access), VmEntry::Complete(Some(data))) if access.takes(data) => {
                access.read(page, data);
            }
            (Self::Hypercall, VmEntry::Resume | VmEntry::Complete(None)) => {
                page.set_hypercall_return(NO_SUCH_HYPERCALL);
            }
            (Self::Hypercall, VmEntry::Hypercall(value)) => page.set_hypercall_return(*value),
            (Self::MsrRead, VmEntry::Msr(value)) => page.set_msr_answer(Some(*value)),
            (Self::MsrWrite, VmEntry::Resume | VmEntry::Complete(None)) => {
                page.set_msr_answer(Some(page.msr().data));
            }
            (Self::MsrRead, VmEntry::Resume | VmEntry::Complete(None))
            | (Self::MsrRead | Self::MsrWrite, VmEntry::MsrFault) => page.set_msr_answer(None),
            _ => return Err(self.refuse(&entry)),
        }
        Ok(matches!(entry, VmEntry::Complete(_)))
    }

    /// The next element of a string access, of which the last has been answered.
    #[inline]
    pub(super) fn next_element(&mut self, page: &RunPage) -> Option<VmExit> {
        let Self::Access(access) = self else { return None };
        access.left = access.left.checked_sub(1)?;
        access.offset += access.size;
        Some(access.port_exit(page))
    }

    #[cold]
    fn refuse(&self, entry: &VmEntry) -> Error {
        let wanted = match self {
            Self::Nothing | Self::Access(Access { write: true, .. }) => {
                "takes no answer: give Resume".to_owned()
            }
            Self::Access(Access { size, .. }) => format!("waits for Read with {size} bytes"),
            Self::Hypercall => "waits for Hypercall".to_owned(),
            Self::MsrRead => "waits for Msr or MsrFault".to_owned(),
            Self::MsrWrite => "waits for Resume or MsrFault".to_owned(),
        };
        Error::new(ErrorCode::BadEntry, format!("the last exit {wanted}, not {entry:?}"))
    }
}

#[cfg(test)]
mod tests;
