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
        print!("{name:<22} {:>11.0}", exit_cost(&soft, code, 60_000, rounds)?);
        match &kvm {
            Some(kvm) => println!(" {:>12.0}", exit_cost(kvm, code, 1_000, rounds)?),
            None => println!(" {:>12}", "–"),
        }
    }
    Ok(())
}

/// Median nanoseconds of an exit.
fn exit_cost(backend: &dyn HypervisorBackend, code: &[u8], count: u16, rounds: usize) -> Result<f64> {
    let clock = StdClock::new();
    let waker = ThreadWaker::new();
    let memory = GuestMemory::new(0x1_0000)?;
    memory.write(ENTRY, code)?;
    let config = VmConfig { memory, irqchip: IrqchipKind::None, clock: clock.clone(), waker: waker.clone() };
    let vm = backend.create_vm(&config)?;
    let (ports, mmio) = (Bus::ports(), Bus::memory());
    let device = Arc::new(Counter::default());
    ports.map("counter", PORT, 4, Target::Device(device.clone()))?;
    mmio.map("counter", MMIO, 4, Target::Device(device.clone()))?;
    let mut run = VcpuLoop::new(vm.create_vcpu(0)?, &ports, &mmio, Unclaimed::Return);
    let mut times = Vec::new();
    for _ in 0..rounds {
        let x86 = run.vcpu().x86()?;
        let mut system = x86.system_registers()?;
        (system.cs.base, system.cs.selector, system.ds.base) = (0, 0, MMIO);
        x86.set_system_registers(&system)?;
        let mut registers = x86.registers()?;
        (registers.rip, registers.rcx, registers.rdx, registers.rbx) = (ENTRY, count.into(), PORT, 0);
        x86.set_registers(&registers)?;
        let before = device.0.load(Ordering::Relaxed);
        let start = Instant::now();
        let stop = run.run(VmEntry::Resume, &mut ThreadHost::new(clock.clone(), waker.clone()))?;
        let elapsed = start.elapsed();
        let made = device.0.load(Ordering::Relaxed) - before;
        if !matches!(stop, Stop::Exit(VmExit::Pio { port: 0x80, .. })) || made != u64::from(count) {
            return Err(format!("the guest ended with {stop:?} after {made} of {count} accesses").into());
        }
        run.vcpu().run(VmEntry::Complete(None))?;
        times.push(elapsed.as_secs_f64() * 1e9 / f64::from(count));
    }
    Ok(median(times))
}
