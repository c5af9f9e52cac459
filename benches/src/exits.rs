//! What one exit to a device in Rust costs, on each backend: the guest's instructions, the backend, the bus.

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

const ENTRY: u64 = 0x1000;
const PORT: u64 = 0x510;
/// Behind RAM: DS is 0x2000 in the guest.
const MMIO: u64 = 0x2_0000;

/// Real-mode loops of CX accesses, then a write to a port where nothing is.
const GUESTS: [(&str, &[u8]); 4] = [
    // out dx, al; loop back; out 0x80, al
    ("port write", &[0xee, 0xe2, 0xfd, 0xe6, 0x80]),
    // in al, dx; loop back; out 0x80, al
    ("port read", &[0xec, 0xe2, 0xfd, 0xe6, 0x80]),
    // mov [bx], al; loop back; out 0x80, al
    ("MMIO write", &[0x88, 0x07, 0xe2, 0xfc, 0xe6, 0x80]),
    // mov al, [bx]; loop back; out 0x80, al
    ("MMIO read", &[0x8a, 0x07, 0xe2, 0xfc, 0xe6, 0x80]),
];

pub(crate) fn run(rounds: usize) -> Result<()> {
    println!("exit to a Rust device   ns on soft    ns on kvm");
    let soft = SoftBackend::default();
    let kvm = KvmBackend::open().inspect_err(|e| println!("SKIPPED: exits on kvm, because {e}")).ok();
    for (name, code) in GUESTS {
        let cost = |backend: &dyn HypervisorBackend, count| -> Result<f64> {
            let mut guest = Guest::new(backend, code)?;
            let times: Result<_> = (0..rounds).map(|_| guest.round(count)).collect();
            Ok(median(times?))
        };
        print!("{name:<22} {:>11.0}", cost(&soft, 60_000)?);
        match &kvm {
            Some(kvm) => println!(" {:>12.0}", cost(kvm, 1_000)?),
            None => println!(" {:>12}", "–"),
        }
    }
    Ok(())
}

/// The first argument of the process that runs rounds of the port-read guest when it is asked to, so that another
/// runtime can have them between its own.
pub(crate) const ON_REQUEST: &str = "--exits-on-request";

/// Answers each line of standard input, a backend and a number of exits, with the nanoseconds of one of them.
pub(crate) fn on_request() -> Result<()> {
    let [_, (_, port_read), ..] = GUESTS;
    let mut soft = Guest::new(&SoftBackend::default(), port_read)?;
    let mut kvm = KvmBackend::open().ok().map(|kvm| Guest::new(&kvm, port_read)).transpose()?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let (backend, count) = line.split_once(' ').ok_or("a request is a backend and a number")?;
        let guest = if backend == "kvm" { kvm.as_mut().ok_or("there is no kvm")? } else { &mut soft };
        println!("{}", guest.round(count.parse()?)?);
    }
    Ok(())
}

/// A guest on a backend, and the device that it uses.
struct Guest {
    run: VcpuLoop,
    device: Arc<Counter>,
    host: ThreadHost,
}

impl Guest {
    fn new(backend: &dyn HypervisorBackend, code: &[u8]) -> Result<Self> {
        let (clock, waker) = (StdClock::new(), ThreadWaker::new());
        let memory = GuestMemory::new(0x1_0000)?;
        memory.write(ENTRY, code)?;
        let config =
            VmConfig { memory, irqchip: IrqchipKind::None, clock: clock.clone(), waker: waker.clone() };
        let vm = backend.create_vm(&config)?;
        let (ports, mmio) = (Bus::ports(), Bus::memory());
        let device = Arc::new(Counter::default());
        ports.map("counter", PORT, 4, Target::Device(device.clone()))?;
        mmio.map("counter", MMIO, 4, Target::Device(device.clone()))?;
        let run = VcpuLoop::new(vm.create_vcpu(0)?, &ports, &mmio, Unclaimed::Return);
        Ok(Self { run, device, host: ThreadHost::new(clock, waker) })
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
        if !matches!(stop, Stop::Exit(VmExit::Pio { port: 0x80, .. })) || made != u64::from(count) {
            return Err(format!("the guest ended with {stop:?} after {made} of {count} accesses").into());
        }
        self.run.vcpu().run(VmEntry::Complete(None))?;
        Ok(elapsed.as_secs_f64() * 1e9 / f64::from(count))
    }
}
