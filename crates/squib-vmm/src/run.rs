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
        let mut result = self.vcpu.run(entry);
        loop {
            // Most exits are accesses that a device answers, so that much of an exit is read and no more moved.
            let Some(access) = result.as_ref().ok().and_then(Access::of) else {
                match self.settle(result?, host) {
                    ControlFlow::Continue(entry) => result = self.vcpu.run(entry),
                    ControlFlow::Break(end) => return end,
                }
                continue;
            };
            drop(result);
            result = match self.access(&access, host) {
                Ok(None) => self.vcpu.run(VmEntry::Resume),
                Ok(Some(value)) => self.vcpu.run(VmEntry::Read(exit_data(value, access.width.into()))),
                Err(unsettled) => match self.finish(unsettled, access.exit()) {
                    ControlFlow::Continue(entry) => self.vcpu.run(entry),
                    ControlFlow::Break(end) => return end,
                },
            };
        }
    }

    /// Takes an access to the device it is meant for, and gives what was read.
    #[inline]
    fn access(&mut self, access: &Access, host: &mut dyn Host) -> Result<Option<u64>, Unsettled> {
        let Access { addr, write, width, value, .. } = *access;
        let (bus, kind) = match access.port {
            true => (&mut self.ports, ExitKind::Pio),
            false => (&mut self.memory, ExitKind::Mmio),
        };
        self.counts.count(kind);
        bus.refresh();
        if write && bus.ring(addr, width, value) {
            return Ok(None);
        }
        let (mapping, offset) = bus.locate(addr, width).ok_or(Unsettled::Unclaimed)?;
        mapping.count(write);
        if write {
            let action = match mapping.target() {
                Target::Device(device) => device.write(offset, width, value)?,
                Target::External(id) => host.write(*id, offset, width, value)?,
                Target::Reserved => return Err(Unsettled::Unclaimed),
            };
            return if action == Action::Continue { Ok(None) } else { wanted(action) };
        }
        let value = match mapping.target() {
            Target::Device(device) => device.read(offset, width)?,
            Target::External(id) => host.read(*id, offset, width)?,
            Target::Reserved => return Err(Unsettled::Unclaimed),
        };
        Ok(Some(value))
    }

    /// Settles an exit that is no access.
    #[inline(never)]
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
    #[inline(never)]
    fn finish(&mut self, unsettled: Unsettled, exit: VmExit) -> ControlFlow<Result<Stop>, VmEntry> {
        match unsettled {
            Unsettled::End(end) => {
                self.complete(exit);
                ControlFlow::Break(end)
            }
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
            Idle::Return => Err(Unsettled::End(Ok(Stop::Halted { deadline_ns }))),
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
    /// What is written.
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
        Some(Self { port, addr, write, width: data.len() as u8, value: exit_value(data)? })
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

/// Why an exit does not let the guest go on at once.
enum Unsettled {
    /// The run ends.
    End(Result<Stop>),
    /// Nobody here answers.
    Unclaimed,
}

impl From<Error> for Unsettled {
    fn from(error: Error) -> Self {
        Self::End(Err(error))
    }
}

/// What a device wants of the run loop after a write.
#[cold]
fn wanted(action: Action) -> Result<Option<u64>, Unsettled> {
    let stop = match action {
        Action::Continue => return Ok(None),
        Action::PowerOff => Stop::PowerOff,
        Action::Reset => Stop::Reset,
        Action::DebugExit(status) => Stop::DebugExit(status),
    };
    Err(Unsettled::End(Ok(stop)))
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
