//! The run loop: an exit in, a device, an entry out.

use std::sync::Arc;

use squib_core::{Error, ErrorCode, ExitData, Result, Vcpu, VmEntry, VmExit};

use crate::bus::{Bus, Lookup, Target};
use crate::device::{Action, Host, Idle};
use crate::io_apic::IoApic;
use crate::stats::ExitCounts;

/// Why the run loop came back.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stop {
    /// An exit that neither a device nor the platform answers. If it is a read, hypercall or MSR access, the
    /// entry of the next run answers it.
    Exit(VmExit),
    /// A device says that the guest powered itself off.
    PowerOff,
    /// A device says that the guest asked for a reset.
    Reset,
    /// The guest ended the run with this status, by the debug-exit port.
    DebugExit(u32),
    /// The guest waits for an interrupt, and the [`Host`] cannot. Run again when woken, or when the VM's
    /// clock comes to the deadline.
    Halted {
        /// When the vCPU's own timer fires; `None` when only an interrupt from outside can wake it.
        deadline_ns: Option<u64>,
    },
}

/// What happens to exits that no device claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclaimed {
    /// The caller gets each of them, `HLT` too, as [`Stop::Exit`].
    Return,
    /// The vCPU sits on a PC's board: an address with nothing behind it reads as all ones and swallows writes, an
    /// unknown hypercall or model-specific register gives an error to the guest, and `HLT` waits.
    Platform,
}

/// A vCPU with the buses that its exits go to.
pub struct VcpuLoop {
    vcpu: Box<dyn Vcpu>,
    ports: Lookup,
    memory: Lookup,
    unclaimed: Unclaimed,
    io_apic: Option<Arc<IoApic>>,
    counts: Arc<ExitCounts>,
}

impl VcpuLoop {
    /// Routes the exits of `vcpu` to these buses.
    pub fn new(vcpu: Box<dyn Vcpu>, ports: &Arc<Bus>, memory: &Arc<Bus>, unclaimed: Unclaimed) -> Self {
        let (ports, memory) = (ports.lookup(), memory.lookup());
        Self { vcpu, ports, memory, unclaimed, io_apic: None, counts: Arc::default() }
    }

    /// Tells `io_apic` of the ends of interrupts.
    pub(crate) fn with_io_apic(self, io_apic: Option<Arc<IoApic>>) -> Self {
        Self { io_apic, ..self }
    }

    /// The vCPU, for its registers and settings.
    pub fn vcpu(&mut self) -> &mut dyn Vcpu {
        &mut *self.vcpu
    }

    /// Counts of this vCPU's exits, which any thread may read.
    pub fn counts(&self) -> &Arc<ExitCounts> {
        &self.counts
    }

    /// Answers the exit that the last run returned (else [`VmEntry::Resume`]), and runs the guest until
    /// something happens that its devices do not settle.
    ///
    /// # Errors
    /// A device's error, [`ErrorCode::AccessWidth`] from a backend that makes impossible accesses, or an error
    /// of [`Vcpu::run`]. After a device's error its access is completed, a read with all bits set, so that the
    /// guest is in a consistent state and can be run again.
    pub fn run(&mut self, mut entry: VmEntry, host: &mut dyn Host) -> Result<Stop> {
        loop {
            let exit = self.vcpu.run(entry)?;
            self.counts.count(exit.kind());
            let next = match &exit {
                VmExit::Pio { port, write, data } => {
                    access(&mut self.ports, host, (*port).into(), *write, data)
                }
                VmExit::Mmio { addr, write, data } => access(&mut self.memory, host, *addr, *write, data),
                VmExit::Hlt | VmExit::Wfi | VmExit::Wfe => self.wait(host),
                VmExit::Eoi { vector } => self.end_of_interrupt(*vector),
                _ => Next::Unclaimed,
            };
            entry = match next {
                Next::Enter(entry) => entry,
                Next::End(end) => {
                    self.complete(&exit);
                    return end;
                }
                Next::Unclaimed => match self.unclaimed.answer(&exit) {
                    Some(entry) => {
                        self.counts.count_open_bus();
                        entry
                    }
                    None => return Ok(Stop::Exit(exit)),
                },
            };
        }
    }

    fn end_of_interrupt(&self, vector: u8) -> Next {
        match self.io_apic.as_ref().map(|io_apic| io_apic.end_of_interrupt(vector)) {
            None => Next::Unclaimed,
            Some(Ok(())) => Next::Enter(VmEntry::Resume),
            Some(Err(error)) => Next::End(Err(error)),
        }
    }

    /// The guest has nothing to do until an interrupt.
    fn wait(&mut self, host: &mut dyn Host) -> Next {
        if self.unclaimed == Unclaimed::Return {
            return Next::Unclaimed;
        }
        if self.vcpu.is_runnable() {
            return Next::Enter(VmEntry::Resume);
        }
        let deadline_ns = self.vcpu.idle_deadline_ns();
        match host.idle(deadline_ns) {
            Idle::Resume => Next::Enter(VmEntry::Resume),
            Idle::Return => Next::End(Ok(Stop::Halted { deadline_ns })),
        }
    }

    /// Finishes the access that ended the run, so that no instruction is left half done. A failure of the backend
    /// shows at the next run, so it does not hide why this one ended.
    fn complete(&mut self, exit: &VmExit) {
        let mut exit = exit.clone();
        for _ in 0..MAX_FRAGMENTS {
            let answer = match open_bus(&exit) {
                Some(VmEntry::Read(data)) => Some(data),
                Some(_) => None,
                None => return,
            };
            match self.vcpu.run(VmEntry::Complete(answer)) {
                Ok(next) => exit = next,
                Err(_) => return,
            }
        }
    }
}

/// Most accesses of one instruction that are completed when a run ends. One that crosses a page has two, and KVM
/// takes up to a page of a string instruction's elements out of the guest at once.
const MAX_FRAGMENTS: usize = 4096;

/// What follows an exit.
enum Next {
    /// The guest goes on with this answer.
    Enter(VmEntry),
    /// The run ends.
    End(Result<Stop>),
    /// Nobody here answers.
    Unclaimed,
}

/// Takes an access to the device it is meant for.
fn access(bus: &mut Lookup, host: &mut dyn Host, addr: u64, write: bool, data: &ExitData) -> Next {
    let mut bytes = [0; 8];
    let Some(value) = bytes.get_mut(..data.len()).filter(|v| !v.is_empty()) else {
        let message = format!("an access of {} bytes at {addr:#x}: the backend may make 1 to 8", data.len());
        return Next::End(Err(Error::new(ErrorCode::AccessWidth, message)));
    };
    value.copy_from_slice(data);
    let width = data.len() as u8;
    let Some((mapping, offset)) = bus.find(addr, width) else { return Next::Unclaimed };
    mapping.count(write);
    if write {
        let value = u64::from_le_bytes(bytes);
        let action = match mapping.target() {
            Target::Device(device) => device.write(offset, width, value),
            Target::External(id) => host.write(*id, offset, width, value),
            Target::Reserved => return Next::Unclaimed,
        };
        return match action {
            Ok(Action::Continue) => Next::Enter(VmEntry::Resume),
            Ok(Action::PowerOff) => Next::End(Ok(Stop::PowerOff)),
            Ok(Action::Reset) => Next::End(Ok(Stop::Reset)),
            Ok(Action::DebugExit(status)) => Next::End(Ok(Stop::DebugExit(status))),
            Err(error) => Next::End(Err(error)),
        };
    }
    let value = match mapping.target() {
        Target::Device(device) => device.read(offset, width),
        Target::External(id) => host.read(*id, offset, width),
        Target::Reserved => return Next::Unclaimed,
    };
    match value {
        Ok(value) => Next::Enter(VmEntry::Read(ExitData::from_slice(&value.to_le_bytes()[..data.len()]))),
        Err(error) => Next::End(Err(error)),
    }
}

/// `-KVM_ENOSYS`, by which a guest learns that there is no such hypercall (Linux,
/// include/uapi/linux/kvm_para.h).
const NO_SUCH_HYPERCALL: u64 = -1000_i64 as u64;

impl Unclaimed {
    /// The platform's answer to an exit that no device claims, if it has one.
    fn answer(self, exit: &VmExit) -> Option<VmEntry> {
        match (self, exit) {
            (Self::Return, _) => None,
            (Self::Platform, VmExit::Hypercall { .. }) => Some(VmEntry::Hypercall(NO_SUCH_HYPERCALL)),
            (Self::Platform, VmExit::MsrRead { .. } | VmExit::MsrWrite { .. }) => Some(VmEntry::MsrFault),
            (Self::Platform, _) => open_bus(exit),
        }
    }
}

/// How an access ends that nobody answers: reads float high, writes are lost. `None` for other exits.
fn open_bus(exit: &VmExit) -> Option<VmEntry> {
    match exit {
        VmExit::Pio { write, data, .. } | VmExit::Mmio { write, data, .. } => Some(match write {
            true => VmEntry::Resume,
            false => VmEntry::Read(ExitData::from_elem(0xff, data.len())),
        }),
        _ => None,
    }
}
