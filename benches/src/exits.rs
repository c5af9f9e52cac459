//! What one exit to a device in Rust costs, on each backend: the guest's instructions, the backend, the bus. On KVM beside
//! a loop on bare kvm-ioctls that runs the same guest, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use squib_core::{GuestMemory, HypervisorBackend, IrqchipKind, VmConfig, VmEntry, VmExit};
use squib_kvm::KvmBackend;
use squib_soft::SoftBackend;
use squib_vmm::host::{StdClock, ThreadHost, ThreadWaker};
use squib_vmm::{Action, Bus, Device, Stop, Target, Unclaimed, VcpuLoop};

use crate::Result;
use crate::measure::median;

/// A device that only counts.
#[derive(Default)]
struct Counter(AtomicU64);

impl Device for Counter {
    fn read(&self, _offset: u64, _width: u8) -> squib_core::Result<u64> {
        Ok(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn write(&self, _offset: u64, _width: u8, _value: u64) -> squib_core::Result<Action> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Action::Continue)
    }
}

pub(crate) const ENTRY: u64 = 0x1000;
pub(crate) const PORT: u64 = 0x510;
/// Behind RAM, and the base of DS in the guest.
pub(crate) const MMIO: u64 = 0x2_0000;
/// The port that ends a round; nothing is there.
pub(crate) const END: u16 = 0x80;

/// A real-mode loop of CX accesses, then a write to [`END`].
pub(crate) struct Access {
    name: &'static str,
    pub(crate) code: &'static [u8],
}

const ACCESSES: [Access; 4] = [
    // out dx, al; loop back; out 0x80, al
    Access { name: "port write", code: &[0xee, 0xe2, 0xfd, 0xe6, 0x80] },
    // in al, dx; loop back; out 0x80, al
    Access { name: "port read", code: &[0xec, 0xe2, 0xfd, 0xe6, 0x80] },
    // mov [bx], al; loop back; out 0x80, al
    Access { name: "MMIO write", code: &[0x88, 0x07, 0xe2, 0xfc, 0xe6, 0x80] },
    // mov al, [bx]; loop back; out 0x80, al
    Access { name: "MMIO read", code: &[0x8a, 0x07, 0xe2, 0xfc, 0xe6, 0x80] },
];

const SOFT_EXITS: u16 = 60_000;
const KVM_EXITS: u16 = 500;
/// Rounds on KVM for each on the soft backend: they are shorter, and their difference is small.
const KVM_ROUNDS: usize = 20;

pub(crate) fn run(rounds: usize) -> Result<()> {
    println!("exit to a Rust device   ns on soft    ns on kvm    bare loop     ratio");
    let soft = SoftBackend::default();
    let kvm = KvmBackend::open().inspect_err(|e| println!("SKIPPED: exits on kvm, because {e}")).ok();
    for access in ACCESSES {
        let mut guest = Guest::new(&soft, &access)?;
        let times = (0..rounds).map(|_| guest.round(SOFT_EXITS)).collect::<Result<Vec<_>>>()?;
        print!("{:<22} {:>11.0}", access.name, median(times));
        match &kvm {
            Some(kvm) => {
                let [squib, bare, ratio] = against_bare(kvm, &access, rounds * KVM_ROUNDS)?;
                println!(" {squib:>12.0} {bare:>12.0} {ratio:>9.3}");
            }
            None => println!(" {:>12} {:>12} {:>9}", "–", "–", "–"),
        }
    }
    Ok(())
}

/// Medians: nanoseconds of squib's exit, of the bare loop's, and their ratio within a round.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn against_bare(kvm: &KvmBackend, access: &Access, rounds: usize) -> Result<[f64; 3]> {
    let (mut guest, mut bare) = (Guest::new(kvm, access)?, crate::bare_kvm::Bare::new(access)?);
    let mut columns = [(); 3].map(|()| Vec::with_capacity(rounds));
    for round in 0..rounds {
        // Whoever goes first in one round goes second in the next.
        let (a, b) = if round % 2 == 0 {
            let a = guest.round(KVM_EXITS)?;
            (a, bare.round(KVM_EXITS)?)
        } else {
            let b = bare.round(KVM_EXITS)?;
            (guest.round(KVM_EXITS)?, b)
        };
        for (column, value) in columns.iter_mut().zip([a, b, a / b]) {
            column.push(value);
        }
    }
    Ok(columns.map(median))
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn against_bare(_: &KvmBackend, _: &Access, _: usize) -> Result<[f64; 3]> {
    Err("the kvm backend runs on x86-64 Linux".into())
}

/// The first argument of the process that runs rounds of the port-read guest when it is asked to, so that another
/// runtime can have them between its own.
pub(crate) const ON_REQUEST: &str = "--exits-on-request";

/// Answers each line of standard input, a backend and a number of exits, with the nanoseconds of one of them.
pub(crate) fn on_request() -> Result<()> {
    let [_, port_read, ..] = ACCESSES;
    let mut soft = Guest::new(&SoftBackend::default(), &port_read)?;
    let mut kvm = KvmBackend::open().ok().map(|kvm| Guest::new(&kvm, &port_read)).transpose()?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let (backend, count) = line.split_once(' ').ok_or("a request is a backend and a number")?;
        let guest = if backend == "kvm" { kvm.as_mut().ok_or("there is no kvm")? } else { &mut soft };
        println!("{}", guest.round(count.parse()?)?);
    }
    Ok(())
}

/// A vCPU that makes the accesses, with the device at both places.
struct Guest {
    run: VcpuLoop,
    host: ThreadHost,
    device: Arc<Counter>,
}

impl Guest {
    fn new(backend: &dyn HypervisorBackend, access: &Access) -> Result<Self> {
        let clock = StdClock::new();
        let waker = ThreadWaker::new();
        let memory = GuestMemory::new(MMIO / 2)?;
        memory.write(ENTRY, access.code)?;
        let config =
            VmConfig { memory, irqchip: IrqchipKind::None, clock: clock.clone(), waker: waker.clone() };
        let vm = backend.create_vm(&config)?;
        let (ports, mmio) = (Bus::ports(), Bus::memory());
        let device = Arc::new(Counter::default());
        ports.map("counter", PORT, 4, Target::Device(device.clone()))?;
        mmio.map("counter", MMIO, 4, Target::Device(device.clone()))?;
        let run = VcpuLoop::new(vm.create_vcpu(0)?, &ports, &mmio, Unclaimed::Return);
        Ok(Self { run, host: ThreadHost::new(clock, waker), device })
    }

    /// Nanoseconds of one of `count` exits.
    fn round(&mut self, count: u16) -> Result<f64> {
        let x86 = self.run.vcpu().x86()?;
        let mut system = x86.system_registers()?;
        (system.cs.base, system.cs.selector, system.ds.base) = (0, 0, MMIO);
        x86.set_system_registers(&system)?;
        let mut registers = x86.registers()?;
        (registers.rip, registers.rcx, registers.rdx, registers.rbx) = (ENTRY, count.into(), PORT, 0);
        x86.set_registers(&registers)?;
        let before = self.device.0.load(Ordering::Relaxed);
        let start = Instant::now();
        let stop = self.run.run(VmEntry::Resume, &mut self.host)?;
        let elapsed = start.elapsed();
        let made = self.device.0.load(Ordering::Relaxed) - before;
        if !matches!(stop, Stop::Exit(VmExit::Pio { port: END, .. })) || made != u64::from(count) {
            return Err(format!("the guest ended with {stop:?} after {made} of {count} accesses").into());
        }
        self.run.vcpu().run(VmEntry::Complete(None))?;
        Ok(elapsed.as_secs_f64() * 1e9 / f64::from(count))
    }
}
