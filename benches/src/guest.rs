//! The guests of the exits bench: loops of accesses to a device in Rust. The bench's program runs them, and so does Node,
//! through [`addon`](crate), so that devices in both languages are measured in one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use squib_core::{
    CoalescedWrites, Doorbell, GuestMemory, HypervisorBackend, IrqchipKind, Vm, VmConfig, VmEntry, VmExit,
};
use squib_vmm::host::{StdClock, ThreadHost, ThreadWaker};
use squib_vmm::{Action, Bus, Device, DoorbellMapping, Stop, Target, Unclaimed, VcpuLoop};

use crate::Result;

/// A device that only counts.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Device for Counter {
    fn read(&self, _offset: u64, _width: u8) -> squib_core::Result<u64> {
        Ok(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn write(&self, _offset: u64, _width: u8, _value: u64) -> squib_core::Result<Action> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Action::Continue)
    }
}

impl CoalescedWrites for Counter {
    fn write(&self, _addr: u64, _width: u8, _value: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Doorbell for Counter {
    fn ring(&self, times: u64) {
        self.0.fetch_add(times, Ordering::Relaxed);
    }
}

pub(crate) const ENTRY: u64 = 0x1000;
pub(crate) const PORT: u64 = 0x510;
/// Behind RAM, and the base of DS in the guest.
pub(crate) const MMIO: u64 = 0x2_0000;
/// The port that ends a round; nothing is there.
pub(crate) const END: u16 = 0x80;

/// A real-mode loop of CX accesses, then a write to [`END`].
pub(crate) struct Access(pub(crate) &'static [u8]);

pub(crate) const ACCESSES: [(&str, Access); 4] = [
    // out dx, al; loop back; out 0x80, al
    ("port write", Access(&[0xee, 0xe2, 0xfd, 0xe6, 0x80])),
    // in al, dx
    ("port read", Access(&[0xec, 0xe2, 0xfd, 0xe6, 0x80])),
    // mov [bx], al
    ("MMIO write", Access(&[0x88, 0x07, 0xe2, 0xfc, 0xe6, 0x80])),
    // mov al, [bx]
    ("MMIO read", Access(&[0x8a, 0x07, 0xe2, 0xfc, 0xe6, 0x80])),
];

/// A vCPU that makes the accesses, with the device at both places.
pub(crate) struct Guest {
    pub(crate) run: VcpuLoop,
    host: ThreadHost,
    device: Arc<Counter>,
    _vm: Arc<dyn Vm>,
    _doorbell: Option<DoorbellMapping>,
}

impl Guest {
    /// `change` may do something else about the port of the device.
    pub(crate) fn new(
        backend: &dyn HypervisorBackend,
        access: &Access,
        change: impl FnOnce(&Arc<Bus>, Arc<Counter>) -> squib_core::Result<Option<DoorbellMapping>>,
    ) -> Result<Self> {
        let clock = StdClock::new();
        let waker = ThreadWaker::new();
        let memory = GuestMemory::new(MMIO / 2)?;
        memory.write(ENTRY, access.0)?;
        let config = VmConfig {
            memory,
            irqchip: IrqchipKind::None,
            clock: clock.clone(),
            waker: waker.clone(),
            dirty_ring: None,
        };
        let vm = backend.create_vm(&config)?;
        let (ports, mmio) = (Bus::ports(), Bus::memory());
        let device = Arc::new(Counter::default());
        ports.map("counter", PORT, 4, Target::Device(device.clone()))?;
        mmio.map("counter", MMIO, 4, Target::Device(device.clone()))?;
        let run = VcpuLoop::new(vm.create_vcpu(0)?, &ports, &mmio, Unclaimed::Return);
        ports.belongs_to(&vm);
        let _doorbell = change(&ports, device.clone())?;
        Ok(Self { run, host: ThreadHost::new(clock, waker), device, _vm: vm, _doorbell })
    }

    /// Puts the vCPU at the start of `count` accesses.
    pub(crate) fn start(&mut self, count: u16) -> Result<()> {
        let x86 = self.run.vcpu().x86()?;
        let mut system = x86.system_registers()?;
        (system.cs.base, system.cs.selector, system.ds.base) = (0, 0, MMIO);
        x86.set_system_registers(&system)?;
        let mut registers = x86.registers()?;
        (registers.rip, registers.rcx, registers.rdx, registers.rbx) = (ENTRY, count.into(), PORT, 0);
        Ok(x86.set_registers(&registers)?)
    }

    /// Nanoseconds of one of `count` exits.
    pub(crate) fn round(&mut self, count: u16) -> Result<f64> {
        self.start(count)?;
        let before = self.device.0.load(Ordering::Relaxed);
        let start = Instant::now();
        let stop = self.run.run(VmEntry::Resume, &mut self.host)?;
        let elapsed = start.elapsed();
        let made = || self.device.0.load(Ordering::Relaxed) - before;
        // Rings may be told of later.
        while made() < count.into() && start.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let made = made();
        if !matches!(stop, Stop::Exit(VmExit::Pio { port: END, .. })) || made != u64::from(count) {
            return Err(format!("the guest ended with {stop:?} after {made} of {count} accesses").into());
        }
        self.run.vcpu().run(VmEntry::Complete(None))?;
        Ok(elapsed.as_secs_f64() * 1e9 / f64::from(count))
    }
}
