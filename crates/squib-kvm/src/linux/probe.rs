//! What this machine's KVM is worth, found out with a few small guests.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use kvm_bindings::*;
use kvm_ioctls::Kvm;
use squib_core::x86::{Registers, Segment, SystemRegisters, bits};
use squib_core::{
    Clock, Error, ErrorCode, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vcpu, VmConfig, VmEntry,
    VmExit, Waker,
};

use super::KvmBackend;
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

const CODE: u64 = 0x1000;
const PAGE_TABLES: [u64; 3] = [0x2000, 0x3000, 0x4000];
const MEMORY: u64 = 0x8000;
const PORT: u8 = 0x80;
/// What the guests write to [`PORT`].
const SIGN: u8 = 0x2a;

/// `mov al, SIGN; out PORT, al`, the same in real and 64-bit mode.
const WRITE_SIGN: [u8; 4] = [0xb0, SIGN, 0xe6, PORT];
/// `pxor xmm0, xmm0`, and then the sign.
const SSE: [u8; 8] = [0x66, 0x0f, 0xef, 0xc0, 0xb0, SIGN, 0xe6, PORT];
/// `inc rax; jmp` back to it.
const COUNT: [u8; 5] = [0x48, 0xff, 0xc0, 0xeb, 0xfb];
const COUNT_INSTRUCTIONS: u64 = 2;

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
    report.real_mode = step(guest.signs(Mode::Real, &WRITE_SIGN));
    if report.real_mode.works() {
        report.long_mode = step(guest.signs(Mode::Long, &WRITE_SIGN));
    }
    if report.long_mode.works() {
        report.ring0_mips = guest.speed().ok();
        report.sse = step(guest.signs(Mode::Long, &SSE));
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
    const KNOWN: [(&str, u32); 25] = [
        ("COALESCED_MMIO", KVM_CAP_COALESCED_MMIO),
        ("COALESCED_PIO", KVM_CAP_COALESCED_PIO),
        ("DIRTY_LOG_RING", KVM_CAP_DIRTY_LOG_RING),
        ("EXIT_HYPERCALL", KVM_CAP_EXIT_HYPERCALL),
        ("GET_TSC_KHZ", KVM_CAP_GET_TSC_KHZ),
        ("IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT),
        ("IOEVENTFD", KVM_CAP_IOEVENTFD),
        ("IRQCHIP", KVM_CAP_IRQCHIP),
        ("IRQFD", KVM_CAP_IRQFD),
        ("MAX_VCPUS", KVM_CAP_MAX_VCPUS),
        ("MEMORY_FAULT_INFO", KVM_CAP_MEMORY_FAULT_INFO),
        ("MP_STATE", KVM_CAP_MP_STATE),
        ("NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS),
        ("PIT2", KVM_CAP_PIT2),
        ("SET_GUEST_DEBUG", KVM_CAP_SET_GUEST_DEBUG),
        ("SIGNAL_MSI", KVM_CAP_SIGNAL_MSI),
        ("SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP),
        ("SYNC_REGS", KVM_CAP_SYNC_REGS),
        ("TSC_CONTROL", KVM_CAP_TSC_CONTROL),
        ("TSC_DEADLINE_TIMER", KVM_CAP_TSC_DEADLINE_TIMER),
        ("X2APIC_API", KVM_CAP_X2APIC_API),
        ("X86_MSR_FILTER", KVM_CAP_X86_MSR_FILTER),
        ("X86_USER_SPACE_MSR", KVM_CAP_X86_USER_SPACE_MSR),
        ("XCRS", KVM_CAP_XCRS),
        ("XSAVE2", KVM_CAP_XSAVE2),
    ];
    KNOWN.iter().map(|&(name, number)| (name, kvm.check_extension_raw(number.into()))).collect()
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

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Real,
    Long,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Real => "real-mode",
            Self::Long => "64-bit",
        }
    }
}

/// One vCPU, for one small program after the other.
struct Guest {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
}

impl Guest {
    fn new(backend: &KvmBackend) -> Result<Self> {
        let memory = GuestMemory::new(MEMORY)?;
        let [pml4, pdpt, directory] = PAGE_TABLES;
        // Present and writable; the last maps 2 MiB one to one.
        for (at, entry) in [(pml4, pdpt | 3), (pdpt, directory | 3), (directory, 0x83)] {
            memory.write(at, &entry.to_le_bytes())?;
        }
        let config = VmConfig {
            memory: memory.clone(),
            irqchip: IrqchipKind::None,
            clock: Arc::new(Nothing),
            waker: Arc::new(Nothing),
        };
        let vcpu = backend.create_vm(&config)?.create_vcpu(0)?;
        Ok(Self { memory, vcpu })
    }

    /// Runs `code`, which is to write the sign.
    fn signs(&mut self, mode: Mode, code: &[u8]) -> Result<()> {
        match self.run(mode, code, LIMIT)? {
            VmExit::Pio { port, write: true, data } if port == u16::from(PORT) && data[..] == [SIGN] => {
                Ok(())
            }
            VmExit::Cancelled => Err(failed(format!("a {} guest was not done after {LIMIT:?}", mode.name()))),
            other => Err(failed(format!("a {} guest ended in {other:?}", mode.name()))),
        }
    }

    /// Instructions of a ring-0 loop in 64-bit mode, in millions a second.
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
        match self.run(Mode::Long, &COUNT, time)? {
            VmExit::Cancelled => {
                let seconds = start.elapsed().as_secs_f64();
                let loops = self.vcpu.x86()?.registers()?.rax;
                Ok((loops * COUNT_INSTRUCTIONS) as f64 / seconds / 1e6)
            }
            other => Err(failed(format!("an endless loop ended in {other:?}"))),
        }
    }

    /// Runs `code` from the start, in this mode.
    fn run(&mut self, mode: Mode, code: &[u8], limit: Duration) -> Result<VmExit> {
        self.memory.write(CODE, code)?;
        self.vcpu.run(VmEntry::Complete(None))?;
        let x86 = self.vcpu.x86()?;
        let mut system = x86.system_registers()?;
        match mode {
            Mode::Real => system.cs = Segment::real_mode(0),
            Mode::Long => enter_long_mode(&mut system, PAGE_TABLES[0]),
        }
        x86.set_system_registers(&system)?;
        x86.set_registers(&Registers { rip: CODE, rflags: bits::RFLAGS_FIXED, ..Registers::default() })?;
        run_for(&mut *self.vcpu, limit)
    }
}

fn enter_long_mode(system: &mut SystemRegisters, page_table: u64) {
    system.cs = Segment::flat_code(8, true);
    for segment in [&mut system.ds, &mut system.es, &mut system.fs, &mut system.gs, &mut system.ss] {
        *segment = Segment::flat_data(16);
    }
    system.cr0 = bits::CR0_PE | bits::CR0_MP | bits::CR0_ET | bits::CR0_NE | bits::CR0_PG;
    system.cr3 = page_table;
    system.cr4 = bits::CR4_PAE | bits::CR4_OSFXSR | bits::CR4_OSXMMEXCPT;
    system.efer = bits::EFER_LME | bits::EFER_LMA;
}

/// The probe's guests neither wait nor tell the time.
struct Nothing;

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
