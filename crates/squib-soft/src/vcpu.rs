//! The soft vCPU behind squib's traits: answers go in, exits come out, and interrupts are taken in between.

use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;
use squib_core::x86::bits::{RFLAGS_IF, RFLAGS_RF};
use squib_core::x86::{Activity, X86State};
use squib_core::{CancelHandle, Error, ErrorCode, ExitData, Result, Vcpu, VmEntry, VmExit};
use squib_devices::apic::Signal;
use squib_devices::irqchip::Irqchip;
use squib_x86::Stop;
use squib_x86::env::Leave;
use squib_x86::state::Shadow;
use squib_x86::system::debug;
use squib_x86::system::interrupt::{self, Event};

use crate::cpu::Cpu;
use crate::exec::Pause;
use crate::replay::{self, Access};
use crate::shared::{Shared, attention};

/// Guest instructions between two looks at the clock and at requests of other threads.
const QUANTUM: i64 = 4096;

/// `-KVM_ENOSYS`, by which a guest learns that there is no such hypercall (Linux, include/uapi/linux/kvm_para.h).
const NO_SUCH_HYPERCALL: u64 = -1000_i64 as u64;

/// Pages of code that were written from outside, as `(guest-physical address)`.
pub(crate) type WrittenCode = Mutex<Vec<u64>>;

/// What the vCPU waits for before it can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// Nothing.
    No,
    /// The answer to a device access.
    Access(Access),
    /// The return value of a hypercall.
    Hypercall,
    /// An interrupt.
    Halted,
    /// INIT or start-up: an application processor before its start.
    StartUp,
    /// For ever: after a triple fault, the caller has to reset it.
    Shutdown,
}

/// A vCPU of the soft backend.
pub struct SoftVcpu {
    pub(crate) cpu: Cpu,
    shared: Arc<Shared>,
    written_code: Arc<WrittenCode>,
    waiting: Waiting,
    budget: Option<u64>,
}

impl SoftVcpu {
    pub(crate) fn new(cpu: Cpu, shared: Arc<Shared>, written_code: Arc<WrittenCode>) -> Self {
        let waiting = if cpu.platform.cpu() == 0 { Waiting::No } else { Waiting::StartUp };
        Self { cpu, shared, written_code, waiting, budget: None }
    }

    /// Takes the answer to the last exit.
    fn answer(&mut self, entry: &VmEntry) -> Result<()> {
        let bad = |what: &str| Err(Error::new(ErrorCode::BadEntry, format!("{what}; the vCPU is as it was")));
        match (self.waiting, entry) {
            (Waiting::Access(access), VmEntry::Resume | VmEntry::Complete(None)) => {
                // Nobody answered a read: an empty bus reads as ones.
                self.cpu.replay.complete(if access.write {
                    0
                } else {
                    u64::MAX >> (64 - 8 * u32::from(access.width.clamp(1, 8)))
                });
            }
            (Waiting::Access(access), VmEntry::Read(data) | VmEntry::Complete(Some(data))) => {
                if access.write || data.len() != usize::from(access.width) {
                    return bad("the answer is not as long as the read, or there was none");
                }
                self.cpu.replay.complete(little_endian(data));
            }
            (Waiting::Hypercall, VmEntry::Hypercall(value)) => self.cpu.state.r[0] = *value,
            (Waiting::Hypercall, VmEntry::Resume) => self.cpu.state.r[0] = NO_SUCH_HYPERCALL,
            (_, VmEntry::Resume | VmEntry::Complete(None)) => return Ok(()),
            _ => return bad("the last exit does not wait for this answer"),
        }
        self.waiting = Waiting::No;
        Ok(())
    }

    /// The embedder has set state: a halted vCPU goes on from there.
    pub(crate) fn state_was_set(&mut self) {
        if matches!(self.waiting, Waiting::Halted | Waiting::Shutdown) {
            self.waiting = Waiting::No;
        }
    }

    /// The processor's activity. One that has not started takes a start-up message with or without INIT before it.
    pub(crate) fn current_activity(&self) -> Activity {
        match self.waiting {
            Waiting::Halted => Activity::Halted,
            Waiting::StartUp => Activity::WaitForStartUp,
            _ => Activity::Active,
        }
    }

    pub(crate) fn change_activity(&mut self, activity: Activity) -> Result<()> {
        let refuse = |what| Err(Error::new(ErrorCode::InvalidArgument, what));
        if matches!(self.waiting, Waiting::Access(_) | Waiting::Hypercall) {
            return refuse("an instruction of this vCPU is half done: complete it first");
        }
        self.waiting = match activity {
            Activity::Active => Waiting::No,
            Activity::Halted => Waiting::Halted,
            Activity::WaitForInit | Activity::WaitForStartUp if !self.cpu.platform.is_present() => {
                return refuse("without local APIC nothing can start a processor");
            }
            Activity::WaitForInit | Activity::WaitForStartUp => Waiting::StartUp,
        };
        Ok(())
    }

    /// Finishes the half-done instruction, if there is one, and nothing else.
    fn complete(&mut self) -> Result<VmExit> {
        // Accesses to the interrupt controllers are answered in between.
        for _ in 0..=replay::MOST {
            if !self.cpu.replay.is_active() {
                break;
            }
            self.grant(1);
            if let Some(exit) = self.step() {
                return Ok(exit);
            }
        }
        Ok(VmExit::Completed)
    }

    /// Gives the CPU instructions to run; what was left of the last grant counts as never given.
    fn grant(&mut self, instructions: i64) {
        self.cpu.granted = self.cpu.instructions().wrapping_add(instructions as u64);
        self.cpu.left = instructions;
    }

    /// One instruction, with the half-done one's answers if there are any.
    fn step(&mut self) -> Option<VmExit> {
        let held_off = std::mem::take(&mut self.cpu.state.shadow);
        if !self.cpu.replay.is_active() {
            let hits = if held_off == Shadow::MovSs { 0 } else { self.cpu.code_breakpoints() };
            if hits != 0 {
                return self.handle(Pause::Stop(debug::exception(hits).into()));
            }
            self.cpu.state.sys_flags &= !RFLAGS_RF;
        }
        self.cpu.replay.rewind();
        let single = self.cpu.single_stepping();
        let pause = self.cpu.step();
        if let Some(Pause::Stop(stop)) = pause {
            if stop != Stop::Exit {
                self.cpu.replay.clear();
                self.cpu.hits = 0;
            }
            return self.handle(Pause::Stop(stop));
        }
        self.cpu.replay.clear();
        if (single || debug::armed(&self.cpu.state)) && self.cpu.is_unfinished() {
            // Its breakpoint has had its turn; a trap between its elements saves RF (Intel SDM vol. 3, 18.3.1.1).
            self.cpu.state.sys_flags |= RFLAGS_RF;
        }
        let no_step = self.cpu.raised_interrupt() || self.cpu.was_system_call();
        let int1 = self.cpu.raised_debug();
        self.debug_trap(single && !no_step, int1).or_else(|| pause.and_then(|p| self.handle(p)))
    }

    /// Raises the debug exception that follows an instruction, if one does: after a `single` step, or where a breakpoint
    /// was hit (Intel SDM vol. 3, 18.3.1). One that follows INT1 has come with it.
    fn debug_trap(&mut self, single: bool, int1: bool) -> Option<VmExit> {
        if self.cpu.state.shadow == Shadow::MovSs {
            return None;
        }
        let hits = std::mem::take(&mut self.cpu.hits) | if single { debug::DR6_BS } else { 0 };
        if hits == 0 {
            return None;
        }
        if int1 {
            debug::record(&mut self.cpu.state, hits);
            return None;
        }
        // A trap wakes the processor as soon as it is halted.
        self.cpu.leave.take_if(|leave| *leave == Leave::Halt);
        self.handle(Pause::Stop(debug::exception(hits).into()))
    }

    /// What has to be done before guest code may run.
    fn before(&mut self) -> Option<VmExit> {
        if self.cpu.cache.wants_collection()
            && self.cpu.cache.collect(&self.cpu.memory, self.cpu.code_generation)
        {
            self.cpu.code_generation += 1;
        }
        let requests = self.shared.take();
        if requests & attention::CODE != 0 {
            let pages =
                std::mem::take(&mut *self.written_code.lock().unwrap_or_else(PoisonError::into_inner));
            for page in pages {
                self.cpu.code_written(page, 4096);
            }
        }
        self.tick(requests & attention::INTERRUPT != 0);
        if requests & attention::CANCEL != 0 {
            return Some(VmExit::Cancelled);
        }
        None
    }

    /// Lets timers fire, and looks for interrupts where something may have changed.
    fn tick(&mut self, changed: bool) {
        let mut look = changed;
        if let Some(deadline) = self.cpu.platform.deadline {
            let now = self.cpu.clock.now_ns();
            if now >= deadline {
                self.cpu.platform.with(|chip, _| chip.tick(now));
                look = true;
            }
        }
        if look {
            self.cpu.note_interrupts();
            self.take_signals();
        }
    }

    fn take_signals(&mut self) {
        self.cpu.signalled = false;
        while let Some(signal) = self.cpu.platform.with(Irqchip::take_signal).flatten() {
            match signal {
                Signal::Nmi => self.cpu.nmi_pending = true,
                Signal::Init => {
                    self.cpu.init();
                    // The bootstrap processor starts at the reset vector, the others when they are told to.
                    self.waiting =
                        if self.cpu.platform.is_bootstrap() { Waiting::No } else { Waiting::StartUp };
                }
                Signal::StartUp(page) if self.waiting == Waiting::StartUp => {
                    self.cpu.start_at(page);
                    self.waiting = Waiting::No;
                }
                _ => {}
            }
        }
    }

    fn interrupts_enabled(&self) -> bool {
        self.cpu.state.sys_flags & RFLAGS_IF != 0
    }

    /// Whether an interrupt could be taken now.
    fn deliverable(&self) -> bool {
        let waits = self.cpu.interrupt_pending || self.cpu.injected.is_some();
        self.cpu.nmi_pending && !self.cpu.state.nmi_masked || waits && self.interrupts_enabled()
    }

    /// Takes the most urgent event that can be taken.
    fn deliver(&mut self) -> Option<VmExit> {
        let vector = if self.cpu.nmi_pending && !self.cpu.state.nmi_masked {
            self.cpu.nmi_pending = false;
            self.cpu.state.nmi_masked = true;
            Some(2)
        } else if let Some(vector) = self.cpu.injected.take() {
            Some(vector)
        } else {
            let vector = self.cpu.platform.with(Irqchip::acknowledge).flatten();
            self.cpu.note_interrupts();
            vector
        };
        let rip = self.cpu.state.rip;
        let event = Event::external(vector?);
        self.cpu.leave = None;
        match interrupt::deliver(&mut self.cpu, event, rip) {
            Ok(()) => self.debug_trap(false, false),
            Err(stop) => self.handle(Pause::Stop(stop)),
        }
    }

    /// What a pause of guest code means: an exit, or `None` to go on.
    fn handle(&mut self, pause: Pause) -> Option<VmExit> {
        match pause {
            Pause::Quantum => None,
            Pause::Stop(Stop::Fault(exception)) => {
                if let Some(what) = self.cpu.unsupported.take() {
                    return Some(VmExit::Unsupported { what: what.to_owned(), rip: self.cpu.state.rip });
                }
                self.cpu.replay.clear();
                let rip = self.cpu.state.rip;
                match interrupt::raise(&mut self.cpu, exception, rip) {
                    Ok(()) => self.leave(),
                    Err(stop) => self.handle(Pause::Stop(stop)),
                }
            }
            Pause::Stop(Stop::Exit) => {
                if let Some(access) = self.cpu.replay.pending() {
                    if let Some(answer) = self.cpu.ask_controllers(&access) {
                        self.cpu.replay.complete(answer);
                        return None;
                    }
                    self.waiting = Waiting::Access(access);
                    return Some(exit_for(&access));
                }
                self.leave()
            }
            Pause::Leave => self.leave(),
        }
    }

    fn leave(&mut self) -> Option<VmExit> {
        match self.cpu.leave.take()? {
            Leave::Recheck => None,
            Leave::Halt => {
                self.waiting = Waiting::Halted;
                None
            }
            Leave::Hypercall => {
                if let Some(result) = self.cpu.own_hypercall() {
                    self.cpu.state.r[0] = result;
                    return None;
                }
                self.waiting = Waiting::Hypercall;
                let r = &self.cpu.state.r;
                // The order of the System V calling convention's KVM variant: RBX, RCX, RDX, RSI (Linux,
                // Documentation/virt/kvm/x86/hypercalls.rst).
                Some(VmExit::Hypercall { func: r[0], args: [r[3], r[1], r[2], r[6], 0, 0] })
            }
            Leave::TripleFault => {
                self.waiting = Waiting::Shutdown;
                Some(VmExit::TripleFault)
            }
            Leave::Unsupported(what) => {
                Some(VmExit::Unsupported { what: what.to_owned(), rip: self.cpu.state.rip })
            }
        }
    }

    /// How many instructions may run before the next look around.
    fn quantum(&self) -> i64 {
        match self.budget {
            Some(budget) => QUANTUM.min(i64::try_from(budget).unwrap_or(QUANTUM)),
            None => QUANTUM,
        }
    }

    fn spend(&mut self, before: u64) {
        if let Some(budget) = &mut self.budget {
            *budget = budget.saturating_sub(self.cpu.instructions().wrapping_sub(before));
        }
    }

    fn run_guest(&mut self) -> Result<VmExit> {
        loop {
            if let Some(exit) = self.before() {
                return Ok(exit);
            }
            if self.cpu.window_wanted
                && self.interrupts_enabled()
                && self.cpu.state.shadow == Shadow::None
                && !self.cpu.replay.is_active()
            {
                return Ok(VmExit::InterruptWindow);
            }
            match self.waiting {
                Waiting::Halted if self.deliverable() => self.waiting = Waiting::No,
                Waiting::Halted | Waiting::StartUp => return Ok(VmExit::Hlt),
                Waiting::Shutdown => return Ok(VmExit::TripleFault),
                _ => {}
            }
            if self.budget == Some(0) {
                return Ok(VmExit::BudgetSpent);
            }
            self.grant(self.quantum());
            let before = self.cpu.instructions();
            let exit = self.run_quantum();
            self.spend(before);
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    /// Guest code until the quantum is used up, or something has to be looked at.
    fn run_quantum(&mut self) -> Option<VmExit> {
        while self.cpu.left > 0 && self.waiting == Waiting::No {
            if self.cpu.signalled {
                self.take_signals();
                continue;
            }
            let half_done = self.cpu.replay.is_active();
            let held_off = self.cpu.state.shadow != Shadow::None;
            let deliverable = self.deliverable();
            let exit = if self.cpu.hits != 0 && !half_done && !held_off {
                self.debug_trap(false, false)
            } else if !half_done && !held_off && deliverable {
                self.deliver()
            } else if half_done || deliverable || self.cpu.is_debugged() {
                self.step()
            } else {
                self.cpu.state.shadow = Shadow::None;
                let pause = self.cpu.run_blocks();
                self.handle(pause)
            };
            if exit.is_some() {
                return exit;
            }
        }
        None
    }
}

/// The exit for a device access.
fn exit_for(access: &Access) -> VmExit {
    let data: ExitData =
        if access.write { access.data() } else { SmallVec::from_elem(0, usize::from(access.width.min(8))) };
    if access.port {
        VmExit::Pio { port: access.addr as u16, write: access.write, data }
    } else {
        VmExit::Mmio { addr: access.addr, write: access.write, data }
    }
}

fn little_endian(data: &[u8]) -> u64 {
    data.iter().take(8).rev().fold(0, |acc, b| acc << 8 | u64::from(*b))
}

impl Vcpu for SoftVcpu {
    fn id(&self) -> u32 {
        self.cpu.platform.cpu() as u32
    }

    fn run(&mut self, entry: VmEntry) -> Result<VmExit> {
        self.answer(&entry)?;
        if matches!(entry, VmEntry::Complete(_)) { self.complete() } else { self.run_guest() }
    }

    fn cancel_handle(&self) -> CancelHandle {
        CancelHandle::new(self.shared.clone())
    }

    fn set_budget(&mut self, instructions: Option<u64>) -> Result<()> {
        self.budget = instructions;
        Ok(())
    }

    fn instructions(&self) -> Option<u64> {
        Some(self.cpu.instructions())
    }

    fn unknown_msrs(&self) -> u64 {
        self.cpu.unknown_msrs
    }

    fn idle_deadline_ns(&self) -> Option<u64> {
        self.cpu.platform.deadline
    }

    fn is_runnable(&mut self) -> bool {
        match self.waiting {
            Waiting::Halted | Waiting::StartUp => {
                let changed = self.shared.is_requested();
                self.tick(changed);
                changed || self.deliverable()
            }
            _ => true,
        }
    }

    fn inject_interrupt(&mut self, vector: u8) -> Result<()> {
        if self.cpu.platform.is_present() {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "this VM has interrupt controllers of its own: set an interrupt line or signal an MSI",
            ));
        }
        if !self.interrupts_enabled() || self.cpu.state.shadow != Shadow::None || self.cpu.injected.is_some()
        {
            return Err(Error::new(
                ErrorCode::VcpuBusy,
                "the guest cannot take an interrupt now: request the interrupt window and inject at its exit",
            ));
        }
        self.cpu.injected = Some(vector);
        Ok(())
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.cpu.window_wanted = wanted;
    }

    fn inject_nmi(&mut self) -> Result<()> {
        self.cpu.nmi_pending = true;
        Ok(())
    }

    fn x86(&mut self) -> Result<&mut dyn X86State> {
        Ok(self)
    }
}
