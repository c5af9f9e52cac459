//! squib's own guests on the soft CPU.

use std::sync::Arc;

use squib_core::{
    Clock, ExitData, GuestMemory, HypervisorBackend, IrqchipKind, Vcpu, VmConfig, VmEntry, VmExit, Waker,
};
use squib_guests::Guest;
use squib_soft::SoftBackend;

struct TestClock(std::time::Instant);

impl Clock for TestClock {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }

    fn unix_ns(&self) -> u64 {
        1_700_000_000_000_000_000
    }
}

struct NoWaker;

impl Waker for NoWaker {
    fn wake(&self) {}
}

fn vcpu_for(guest: &Guest) -> Box<dyn Vcpu> {
    let memory = GuestMemory::new(16 << 20).unwrap();
    let config = VmConfig {
        memory: memory.clone(),
        irqchip: IrqchipKind::Full,
        clock: Arc::new(TestClock(std::time::Instant::now())),
        waker: Arc::new(NoWaker),
    };
    let vm = SoftBackend::default().create_vm(&config).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    guest.start(&memory, &mut *vcpu).unwrap();
    vcpu
}

#[test]
fn every_guest_of_the_catalogue_runs() {
    for guest in squib_guests::all() {
        if guest.mode == squib_guests::Mode::Multiboot || guest.name.starts_with("spin") {
            continue;
        }
        let mut vcpu = vcpu_for(&guest);
        let mut entry = VmEntry::Resume;
        let mut log = Vec::new();
        for _ in 0..400 {
            vcpu.set_budget(Some(10_000_000)).unwrap();
            let exit = vcpu.run(entry).unwrap();
            log.push(format!("{exit:?}"));
            entry = match &exit {
                VmExit::Pio { write: false, data, .. } | VmExit::Mmio { write: false, data, .. } => {
                    VmEntry::Read(ExitData::from_elem(0x5a, data.len()))
                }
                VmExit::MsrRead { .. } => VmEntry::MsrFault,
                VmExit::Hypercall { .. } => VmEntry::Hypercall(7),
                VmExit::Pio { .. } | VmExit::Mmio { .. } => VmEntry::Resume,
                VmExit::Hlt if vcpu.is_runnable() || vcpu.idle_deadline_ns().is_some() => VmEntry::Resume,
                _ => break,
            };
        }
        log.dedup();
        println!("{}: {log:#?}", guest.name);
    }
}
