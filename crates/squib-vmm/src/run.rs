//! The run loop: an exit in, a device, an entry out.

use std::ops::ControlFlow;
use std::sync::Arc;

use squib_core::{
    Error, ErrorCode, ExitData, ExitKind, Result, Vcpu, VmEntry, VmExit, exit_data, exit_value,
};

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
    /// The vCPU sits on a board: an address with nothing behind it reads as all ones and swallows writes, an
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
    pub fn run(&mut self, entry: VmEntry, host: &mut dyn Host) -> Result<Stop> {
        let (mut given, mut answer) = (Some(entry), Answer::Written);
        loop {
            // Each entry is made where it is passed on, and an exit stays where it was written: of most, which are accesses that a
            // device answers, no more than a few numbers are moved.
            let result = match (given.take(), answer) {
                (Some(entry), _) => self.vcpu.run(entry),
                (None, Answer::Written) => self.vcpu.run(VmEntry::Resume),
                (None, Answer::Read { value, width }) => {
                    self.vcpu.run(VmEntry::Read(exit_data(value, width.into())))
                }
            };
            let settled = match result.as_ref().ok().and_then(Access::of) {
                Some(access) => {
                    drop(result);
                    match self.access(&access, host) {
                        Ok(next) => {
                            answer = next;
                            continue;
                        }
                        Err(unsettled) => self.finish(unsettled, access.exit()),
                    }
                }
                None => self.settle(result?, host),
            };
            match settled {
                ControlFlow::Continue(entry) => given = Some(entry),
                ControlFlow::Break(end) => return end,
            }
        }
    }

    /// Takes an access to the device it is meant for, and gives its answer.
    #[inline]
    fn access(&mut self, access: &Access, host: &mut dyn Host) -> Result<Answer, Unsettled> {
        let Access { addr, write, width, value, .. } = *access;
        let (bus, kind) = match access.port {
            true => (&mut self.ports, ExitKind::Pio),
            false => (&mut self.memory, ExitKind::Mmio),
        };
        self.counts.count(kind);
        bus.refresh();
        if write && bus.ring(addr, width, value) {
            return Ok(Answer::Written);
        }
        let (mapping, offset) = bus.locate(addr, width).ok_or(Unsettled::Unclaimed)?;
        mapping.count(write);
        if write {
            let action = match mapping.target() {
                Target::Device(device) => device.write(offset, width, value),
                Target::External(id) => host.write(*id, offset, width, value),
                Target::Reserved => return Err(Unsettled::Unclaimed),
            };
            return match action {
                Ok(Action::Continue) => Ok(Answer::Written),
                other => wanted(other),
            };
        }
        let value = match mapping.target() {
            Target::Device(device) => device.read(offset, width),
            Target::External(id) => host.read(*id, offset, width),
            Target::Reserved => return Err(Unsettled::Unclaimed),
        }?;
        Ok(Answer::Read { value, width })
    }

    /// Settles an exit that is no access.
    #[cold]
    fn settle(&mut self, exit: VmExit, host: &mut dyn Host) -> ControlFlow<Result<Stop>, VmEntry> {
        self.counts.count(exit.kind());
        let settled = match &exit {
            VmExit::Hlt | VmExit::Wfi | VmExit::Wfe => self.wait(host),
            VmExit::Eoi { vector } => self.end_of_interrupt(*vector),
            VmExit::Pio { data, .. } | VmExit::Mmio { data, .. } => {
                let message = format!("{exit:?} is of {} bytes: the backend may make 1 to 8", data.len());
                Err(Error::new(ErrorCode::AccessWidth, message).into())
            }
            _ => Err(Unsettled::Unclaimed),
        };
        match settled {
            Ok(()) => ControlFlow::Continue(VmEntry::Resume),
            Err(unsettled) => self.finish(unsettled, exit),
        }
    }

    /// What becomes of an exit that is not settled.
    #[cold]
    fn finish(&mut self, unsettled: Unsettled, exit: VmExit) -> ControlFlow<Result<Stop>, VmEntry> {
        match unsettled {
            Unsettled::End(end) => {
                self.complete(exit);
                ControlFlow::Break(*end)
            }
            Unsettled::Halted { deadline_ns } => ControlFlow::Break(Ok(Stop::Halted { deadline_ns })),
            Unsettled::Unclaimed => match self.unclaimed.answer(&exit) {
                Some(entry) => {
                    self.counts.count_open_bus();
                    ControlFlow::Continue(entry)
                }
                None => ControlFlow::Break(Ok(Stop::Exit(exit))),
            },
        }
    }

    fn end_of_interrupt(&self, vector: u8) -> Result<(), Unsettled> {
        let io_apic = self.io_apic.as_ref().ok_or(Unsettled::Unclaimed)?;
        Ok(io_apic.end_of_interrupt(vector)?)
    }

    /// The guest has nothing to do until an interrupt.
    fn wait(&mut self, host: &mut dyn Host) -> Result<(), Unsettled> {
        if self.unclaimed == Unclaimed::Return {
            return Err(Unsettled::Unclaimed);
        }
        if self.vcpu.is_runnable() {
            return Ok(());
        }
        let deadline_ns = self.vcpu.idle_deadline_ns();
        match host.idle(deadline_ns) {
            Idle::Resume => Ok(()),
            Idle::Return => Err(Unsettled::Halted { deadline_ns }),
        }
    }

    /// Finishes the access that ended the run, so that no instruction is left half done. A failure of the backend
    /// shows at the next run, so it does not hide why this one ended.
    #[cold]
    fn complete(&mut self, mut exit: VmExit) {
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

/// An access to a device, taken out of its exit.
struct Access {
    /// To a port, not to memory.
    port: bool,
    addr: u64,
    write: bool,
    /// Bytes, 1 to 8.
    width: u8,
    /// What is written; 0 of a read.
    value: u64,
}

impl Access {
    /// The access that this exit is, if it is one of 1 to 8 bytes.
    #[inline]
    fn of(exit: &VmExit) -> Option<Self> {
        let (port, addr, write, data) = match exit {
            VmExit::Pio { port, write, data } => (true, u64::from(*port), *write, data),
            VmExit::Mmio { addr, write, data } => (false, *addr, *write, data),
            _ => return None,
        };
        let value = if write { exit_value(data)? } else { 0 };
        let width = u8::try_from(data.len()).ok().filter(|width| matches!(width, 1..=8))?;
        Some(Self { port, addr, write, width, value })
    }

    /// Its exit.
    fn exit(&self) -> VmExit {
        let (write, data) = (self.write, exit_data(self.value, self.width.into()));
        match self.port {
            true => VmExit::Pio { port: self.addr as u16, write, data },
            false => VmExit::Mmio { addr: self.addr, write, data },
        }
    }
}

/// What a device answers.
#[derive(Clone, Copy)]
enum Answer {
    Written,
    /// `width` is 1 to 8 bytes.
    Read {
        value: u64,
        width: u8,
    },
}

/// Why an exit does not let the guest go on at once. It is small, because each access could have that outcome.
enum Unsettled {
    /// The run ends.
    End(Box<Result<Stop>>),
    /// The run ends, because the host cannot wait for an interrupt.
    Halted { deadline_ns: Option<u64> },
    /// Nobody here answers.
    Unclaimed,
}

impl From<Error> for Unsettled {
    #[cold]
    fn from(error: Error) -> Self {
        Self::End(Box::new(Err(error)))
    }
}

/// What a device wants of the run loop after a write.
#[cold]
fn wanted(action: Result<Action>) -> Result<Answer, Unsettled> {
    let stop = match action? {
        Action::Continue => return Ok(Answer::Written),
        Action::PowerOff => Stop::PowerOff,
        Action::Reset => Stop::Reset,
        Action::DebugExit(status) => Stop::DebugExit(status),
    };
    Err(Unsettled::End(Box::new(Ok(stop))))
}

impl Unclaimed {
    /// The platform's answer to an exit that no device claims, if it has one.
    fn answer(self, exit: &VmExit) -> Option<VmEntry> {
        match (self, exit) {
            (Self::Return, _) => None,
            // The backend knows how its guests are told that there is no such hypercall.
            (Self::Platform, VmExit::Hypercall { .. }) => Some(VmEntry::Resume),
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
