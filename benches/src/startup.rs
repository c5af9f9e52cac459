//! How long a VM takes from nothing to its first exit, and what it costs in memory besides the guest's RAM.

use std::sync::Arc;
use std::time::Instant;

use squib_core::{GuestMemory, HypervisorBackend, IrqchipKind, Vcpu, Vm, VmConfig, VmEntry, VmExit};
use squib_guests::{Mode, port_io};
use squib_kvm::KvmBackend;
use squib_soft::SoftBackend;
use squib_vmm::host::{StdClock, ThreadWaker};

use crate::Result;
use crate::measure::{median, resident_beyond};

const MEMORY: u64 = 256 << 20;

pub(crate) fn run(rounds: usize) -> Result<()> {
    println!("creating a VM with {} MiB, up to its first exit", MEMORY >> 20);
    report("soft", &SoftBackend::default(), rounds)?;
    match KvmBackend::open() {
        Ok(kvm) => report("kvm", &kvm, rounds.min(21))?,
        Err(e) => println!("SKIPPED: start on kvm, because {e}"),
    }
    Ok(())
}

fn report(name: &str, backend: &dyn HypervisorBackend, rounds: usize) -> Result<()> {
    // First of all, while the allocator has nothing of an earlier VM to give again.
    let before = resident_beyond(None)?;
    let (vm, vcpu) = first_exit(backend)?;
    let added = resident_beyond(Some(vm.memory()))?.saturating_sub(before);
    drop((vcpu, vm));
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let vm = first_exit(backend)?;
        times.push(start.elapsed().as_secs_f64());
        drop(vm);
    }
    println!(
        "{name:<5} {:>8.3} ms {:>8.2} MiB beyond RAM",
        median(times) * 1e3,
        added as f64 / f64::from(1 << 20)
    );
    Ok(())
}

fn first_exit(backend: &dyn HypervisorBackend) -> Result<(Arc<dyn Vm>, Box<dyn Vcpu>)> {
    let config = VmConfig {
        memory: GuestMemory::new(MEMORY)?,
        irqchip: IrqchipKind::None,
        clock: StdClock::new(),
        waker: ThreadWaker::new(),
        dirty_ring: None,
    };
    let vm = backend.create_vm(&config)?;
    let mut vcpu = vm.create_vcpu(0)?;
    port_io(Mode::Long64).start(vm.memory(), &mut *vcpu)?;
    match vcpu.run(VmEntry::Resume)? {
        VmExit::Pio { .. } => Ok((vm, vcpu)),
        other => Err(format!("the guest's first exit is {other:?}").into()),
    }
}
