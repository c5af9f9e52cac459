//! What this machine's KVM is worth, found out with a few small guests.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use squib_core::{
    Clock, Error, ErrorCode, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vcpu, VmConfig, VmEntry,
    VmExit, Waker,
};

use super::KvmBackend;
use super::arch::guests::{self, Program};
use crate::report::{AT_SPEED_MIPS, ProbeReport, Step};

/// The longest that a guest of the probe may take: each is done at once, unless the host is very busy.
const LIMIT: Duration = Duration::from_secs(1);
/// How long the speed of a guest is measured: at first, and again while it seems slow, because a busy host may
/// have had no time for it, and an emulated one translates code when it first runs.
const SPEED_TIMES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
];

/// Finds out what this machine's KVM can do and how fast, in a fraction of a second.
pub fn probe() -> ProbeReport {
    let mut report = ProbeReport::default();
    let backend = match KvmBackend::open() {
        Ok(backend) => backend,
        Err(error) => {
            report.opens = Step::Failed(error.to_string());
            return report.judged();
        }
    };
    report.opens = Step::Works;
    report.api_version = Some(backend.kvm.get_api_version());
    report.tsc_khz = backend.capabilities().tsc_khz;
    report.capabilities = capabilities(&backend.kvm);
    let mut guest = match Guest::new(&backend) {
        Ok(guest) => guest,
        Err(error) => {
            report.creates_vm = Step::Failed(error.to_string());
            return report.judged();
        }
    };
    report.creates_vm = Step::Works;
    let mut going = true;
    for program in &guests::PROGRAMS {
        if going && program.at_speed {
            report.kernel_mips = guest.speed().ok();
        }
        let step = if going { step(guest.signs(program)) } else { Step::Untried };
        going = step.works();
        report.programs.push((program.name, step));
    }
    report.judged()
}

fn step(result: Result<()>) -> Step {
    match result {
        Ok(()) => Step::Works,
        Err(error) => Step::Failed(error.to_string()),
    }
}

fn capabilities(kvm: &Kvm) -> Vec<(&'static str, i32)> {
    guests::CAPABILITIES
        .iter()
        .map(|&(name, number)| (name, kvm.check_extension_raw(number.into())))
        .collect()
}

fn failed(what: String) -> Error {
    Error::new(ErrorCode::BackendUnusable, what)
}

/// Runs the guest, and stops it when it takes longer than `limit`.
fn run_for(vcpu: &mut dyn Vcpu, limit: Duration) -> Result<VmExit> {
    let cancel = vcpu.cancel_handle();
    let (done, wait) = channel::<()>();
    std::thread::scope(|scope| {
        let watch = move || {
            if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                cancel.cancel();
            }
        };
        std::thread::Builder::new().spawn_scoped(scope, watch).map_err(|e| {
            Error::with_source(ErrorCode::Hypervisor, "no thread for the probe's time limit", e)
        })?;
        let exit = vcpu.run(VmEntry::Resume);
        drop(done);
        exit
    })
}

/// One vCPU, for one small program after the other.
struct Guest {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
}

impl Guest {
    fn new(backend: &KvmBackend) -> Result<Self> {
        let memory = guests::memory()?;
        let config = VmConfig {
            memory: memory.clone(),
            irqchip: IrqchipKind::None,
            clock: Arc::new(Nothing),
            waker: Arc::new(Nothing),
            dirty_ring: None,
        };
        let vcpu = backend.create_vm(&config)?.create_vcpu(0)?;
        Ok(Self { memory, vcpu })
    }

    /// Runs `program`, which is to write the sign.
    fn signs(&mut self, program: &Program) -> Result<()> {
        match self.run(program, LIMIT)? {
            exit if guests::is_sign(&exit) => Ok(()),
            VmExit::Cancelled => Err(failed(format!("{} was not done after {LIMIT:?}", program.guest))),
            other => Err(failed(format!("{} ended in {other:?}", program.guest))),
        }
    }

    /// Instructions of a loop in kernel mode, in millions a second.
    fn speed(&mut self) -> Result<f64> {
        let mut best = 0.0;
        for time in SPEED_TIMES {
            best = self.speed_in(time)?.max(best);
            if best >= AT_SPEED_MIPS {
                break;
            }
        }
        Ok(best)
    }

    /// The same, measured for this long.
    fn speed_in(&mut self, time: Duration) -> Result<f64> {
        let start = Instant::now();
        match self.run(&guests::COUNT, time)? {
            VmExit::Cancelled => {
                let seconds = start.elapsed().as_secs_f64();
                Ok(guests::counted(&mut *self.vcpu)? as f64 / seconds / 1e6)
            }
            other => Err(failed(format!("an endless loop ended in {other:?}"))),
        }
    }

    /// Runs `program` from its start.
    fn run(&mut self, program: &Program, limit: Duration) -> Result<VmExit> {
        self.vcpu.run(VmEntry::Complete(None))?;
        guests::enter(&self.memory, &mut *self.vcpu, program)?;
        run_for(&mut *self.vcpu, limit)
    }
}

/// The probe's guests neither wait nor tell the time.
pub(super) struct Nothing;

impl Clock for Nothing {
    fn now_ns(&self) -> u64 {
        0
    }

    fn unix_ns(&self) -> u64 {
        0
    }
}

impl Waker for Nothing {
    fn wake(&self) {}
}
