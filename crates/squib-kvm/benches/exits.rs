//! What an exit costs, against a loop on bare kvm-ioctls: the same guests, interleaved, medians.
//!
//! `cargo bench -p squib-kvm`
#![allow(clippy::print_stdout, reason = "the table is the result")]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "../tests/kvm/harness.rs"]
mod harness;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("SKIPPED: exits because the kvm backend runs on x86-64 Linux");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() {
    let Some(kvm) = harness::backend() else { return };
    println!("{:<12} {:>12} {:>12} {:>8}", "exit", "bare ns", "squib ns", "ratio");
    for access in [bench::PORT_WRITE, bench::PORT_READ, bench::MMIO_WRITE, bench::MMIO_READ] {
        let (bare, squib, ratio) = bench::compare(&kvm, &access);
        println!("{:<12} {bare:>12.0} {squib:>12.0} {ratio:>8.3}", access.name);
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod bench {
    #![allow(unsafe_code, reason = "the bare loop hands its memory to KVM itself")]

    use std::time::Instant;

    use kvm_bindings::kvm_userspace_memory_region;
    use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
    use squib_core::{ExitData, GuestMemory, IrqchipKind, VmEntry, VmExit};
    use squib_kvm::KvmBackend;

    use crate::harness::Guest;

    const ROUNDS: usize = 200;
    const EXITS: u32 = 250;
    const CODE: u64 = 0x1000;

    /// An access that a real-mode guest repeats for ever.
    pub(crate) struct Access {
        pub(crate) name: &'static str,
        code: &'static [u8],
    }

    /// `out 0x80, al; jmp` back.
    pub(crate) const PORT_WRITE: Access = Access { name: "port write", code: &[0xe6, 0x80, 0xeb, 0xfc] };
    /// `in al, 0x80; jmp` back.
    pub(crate) const PORT_READ: Access = Access { name: "port read", code: &[0xe4, 0x80, 0xeb, 0xfc] };
    /// `mov [bx], al; jmp` back, with DS at 1 MiB.
    pub(crate) const MMIO_WRITE: Access = Access { name: "MMIO write", code: &[0x88, 0x07, 0xeb, 0xfc] };
    /// `mov al, [bx]; jmp` back.
    pub(crate) const MMIO_READ: Access = Access { name: "MMIO read", code: &[0x8a, 0x07, 0xeb, 0xfc] };

    /// Medians: nanoseconds of a bare exit and of squib's, and their ratio within a round.
    pub(crate) fn compare(kvm: &KvmBackend, access: &Access) -> (f64, f64, f64) {
        let (mut bare, mut guest) = (Bare::new(access), squib_guest(kvm, access));
        let (mut bares, mut squibs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // Whoever goes first in one round goes second in the next.
            let (a, b) = if round % 2 == 0 {
                let a = time(|| bare.run());
                (a, time(|| squib_run(&mut guest)))
            } else {
                let b = time(|| squib_run(&mut guest));
                (time(|| bare.run()), b)
            };
            bares.push(a);
            squibs.push(b);
            ratios.push(b / a);
        }
        (median(bares), median(squibs), median(ratios))
    }

    /// Nanoseconds of one of `run`'s exits.
    fn time(run: impl FnOnce()) -> f64 {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64() * 1e9 / f64::from(EXITS)
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn squib_guest(kvm: &KvmBackend, access: &Access) -> Guest {
        let mut guest = Guest::new(kvm, IrqchipKind::None);
        guest.vm.memory().write(CODE, access.code).unwrap();
        let x86 = guest.vcpu.x86().unwrap();
        let mut system = x86.system_registers().unwrap();
        (system.cs.base, system.cs.selector, system.ds.base) = (0, 0, 1 << 20);
        x86.set_system_registers(&system).unwrap();
        guest.change_registers(|r| r.rip = CODE);
        guest
    }

    fn squib_run(guest: &mut Guest) {
        // The last read of the round before gets all ones, which the guest does not mind.
        let mut entry = VmEntry::Resume;
        for _ in 0..EXITS {
            entry = match guest.vcpu.run(entry).unwrap() {
                VmExit::Pio { write, data, .. } | VmExit::Mmio { write, data, .. } => {
                    if write {
                        std::hint::black_box(data);
                        VmEntry::Resume
                    } else {
                        VmEntry::Read(ExitData::from_elem(0x5a, data.len()))
                    }
                }
                other => panic!("unexpected {other:?}"),
            };
        }
    }

    /// The least that a monitor on kvm-ioctls does.
    struct Bare {
        vcpu: VcpuFd,
        _vm: VmFd,
        _memory: std::sync::Arc<GuestMemory>,
    }

    impl Bare {
        fn new(access: &Access) -> Self {
            let memory = GuestMemory::new(1 << 20).unwrap();
            memory.write(CODE, access.code).unwrap();
            let vm = Kvm::new().unwrap().create_vm().unwrap();
            let region = &memory.regions()[0];
            let slot = kvm_userspace_memory_region {
                slot: 0,
                flags: 0,
                guest_phys_addr: 0,
                memory_size: region.len(),
                userspace_addr: region.host_ptr() as u64,
            };
            // SAFETY: the memory lives as long as the VM, and nobody borrows it.
            unsafe { vm.set_user_memory_region(slot) }.unwrap();
            let vcpu = vm.create_vcpu(0).unwrap();
            let mut sregs = vcpu.get_sregs().unwrap();
            (sregs.cs.base, sregs.cs.selector, sregs.ds.base) = (0, 0, 1 << 20);
            vcpu.set_sregs(&sregs).unwrap();
            let mut regs = vcpu.get_regs().unwrap();
            regs.rip = CODE;
            vcpu.set_regs(&regs).unwrap();
            Self { vcpu, _vm: vm, _memory: memory }
        }

        fn run(&mut self) {
            for _ in 0..EXITS {
                match self.vcpu.run().unwrap() {
                    VcpuExit::IoOut(_, data) | VcpuExit::MmioWrite(_, data) => {
                        std::hint::black_box(data);
                    }
                    VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data) => data.fill(0x5a),
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
    }
}
