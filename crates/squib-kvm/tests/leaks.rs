//! What VMs, runs and cancellations leave behind: nothing. One test, so that nobody else in the process opens and maps
//! meanwhile.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(unsafe_code, reason = "limits of a process are set by calls of the C library")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use squib_core::{
    AddressSpace, Doorbell, DoorbellRegister, GuestMemory, HypervisorBackend, InterruptSource, IrqchipKind,
    VmConfig, VmEntry, VmExit,
};
use squib_kvm::KvmBackend;

#[path = "kvm/harness.rs"]
mod harness;
use harness::*;

/// Open descriptors, mappings and threads of this process.
fn resources() -> [usize; 3] {
    let count = |folder| std::fs::read_dir(folder).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    // Adjacent anonymous memory of the allocator merges and splits as it likes; what a VM maps is not that.
    let shared = maps.lines().filter(|line| line.contains("kvm") || line.contains(" rw-s ")).count();
    [count("/proc/self/fd"), shared, count("/proc/self/task")]
}

/// Makes a VM, and drops it in an awkward moment. What is left is whether its memory lives.
fn one_vm(kvm: &KvmBackend, irqchip: IrqchipKind, dirty_ring: Option<u32>) -> Weak<GuestMemory> {
    let memory = GuestMemory::new(1 << 20).unwrap();
    let ram = Arc::downgrade(&memory);
    let config = VmConfig { dirty_ring, ..config(memory, irqchip, Arc::default()) };
    let mut guest = Guest::long_in(kvm.create_vm(&config).unwrap(), |a| {
        a.mov(dx, PORT)?;
        a.out(dx, al)?;
        a.in_(al, dx)
    });
    let second = guest.vm.create_vcpu(1).unwrap();
    let doorbell: Arc<dyn Doorbell> = Arc::new(|_| ());
    let register = |addr| DoorbellRegister::new(AddressSpace::Ports, addr, 1, None).unwrap();
    let attach = |addr| guest.vm.attach_doorbell(&register(addr), &doorbell).unwrap();
    // One goes before the VM, one after it.
    let late = (
        attach(0x20),
        guest.vm.interrupt_trigger(InterruptSource::Message { address: 0xfee0_0000, data: 0x41 }),
    );
    drop(attach(0x21));
    let cancel = second.cancel_handle();
    guest.vm.set_dirty_log(dirty_ring.is_some()).unwrap();
    assert_out(&guest.resume(), &[0]);
    // Dropped with a read half done, and with a handle that outlives it.
    assert_in(&guest.resume(), 1);
    drop((second, guest));
    drop(late);
    cancel.cancel();
    ram
}

/// Makes exits all the time.
fn reads(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(dx, PORT)?;
    a.set_label(&mut again)?;
    a.in_(al, dx)?;
    a.jmp(again)
}

/// Makes none: a cancellation that does not interrupt it is never reported.
fn spins(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.jmp(again)
}

/// A guest, and four threads that cancel all the time: each request is reported once, if no other came before that.
#[expect(clippy::print_stderr, reason = "the process ends without a test's failure")]
fn storm(kvm: &KvmBackend, length: Duration, code: fn(&mut CodeAssembler) -> Result<(), IcedError>) -> u64 {
    let mut guest = Guest::real(kvm, code);
    let (reported, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let handles = [(); 4].map(|()| guest.vcpu.cancel_handle());
    let start = Instant::now();
    std::thread::scope(|scope| {
        let (reported, stop) = (&reported, &stop);
        for cancel in handles {
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let before = reported.load(Ordering::SeqCst);
                    cancel.cancel();
                    let patience = Instant::now();
                    while reported.load(Ordering::SeqCst) == before && !stop.load(Ordering::SeqCst) {
                        if patience.elapsed() > Duration::from_secs(10) {
                            eprintln!("a cancel was lost");
                            // Nothing else gets the guest's thread out of a guest that spins.
                            std::process::abort();
                        }
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut entry = VmEntry::Resume;
        while start.elapsed() < length {
            entry = match guest.vcpu.run(entry).unwrap() {
                VmExit::Pio { write: false, .. } => answer(&[0]),
                VmExit::Cancelled => {
                    reported.fetch_add(1, Ordering::SeqCst);
                    VmEntry::Resume
                }
                other => panic!("unexpected {other:?}"),
            };
        }
        stop.store(true, Ordering::SeqCst);
    });
    // The waker hears of each request that found none before it.
    let (reported, requested) = (reported.into_inner(), guest.wakes.0.load(Ordering::SeqCst) as u64);
    let left = requested - reported;
    assert!(left <= 1, "{requested} cancellations were requested, and {reported} reported");
    if left == 1 {
        assert!(matches!(guest.resume(), VmExit::Cancelled), "the last one is reported by the next run");
    }
    requested
}

/// Doorbells ring by exits when the process has no descriptor left for them.
fn doorbells_without_descriptors(kvm: &KvmBackend) {
    let guest = Guest::real(kvm, reads);
    let doorbell: Arc<dyn Doorbell> = Arc::new(|_| ());
    let attach = |addr| {
        let register = DoorbellRegister::new(AddressSpace::Ports, addr, 1, None).unwrap();
        guest.vm.attach_doorbell(&register, &doorbell).unwrap()
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is written.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    let first = attach(0x20);
    let room = resources()[0] as u64 + 5;
    // SAFETY: the structure is read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: room, ..limit }) }, 0);
    let all: Vec<_> = (0x21..0x41).map(attach).collect();
    // SAFETY: the structure is read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let taken = all.iter().filter(|attachment| attachment.is_some()).count();
    assert!(first.is_some() && (1..32).contains(&taken), "{taken} of 32 found room");
}

/// With `SQUIB_TEST_LONG` set the storm lasts a minute, else a second.
#[test]
#[expect(clippy::print_stderr, reason = "how many there were is worth knowing")]
fn vms_and_cancels_leave_nothing_behind() {
    let Some(kvm) = backend() else { return };
    let seconds = if std::env::var_os("SQUIB_TEST_LONG").is_some() { 60 } else { 1 };
    let ring = smallest_ring(&kvm);
    let round = |n: usize| -> Vec<_> {
        let irqchips = [IrqchipKind::None, IrqchipKind::Split, IrqchipKind::Full];
        let vms = irqchips.into_iter().cycle().take(n).enumerate();
        vms.map(|(number, irqchip)| one_vm(&kvm, irqchip, ring.filter(|_| number % 2 == 0))).collect()
    };
    round(3);
    storm(&kvm, Duration::from_millis(10), reads);
    let before = resources();
    let rams = round(200);
    let storms = [reads, spins].map(|code| storm(&kvm, Duration::from_secs(seconds), code));
    // The kernel clears away what has been closed and joined when it gets round to it.
    let alive = || rams.iter().filter(|ram| ram.strong_count() > 0).count();
    let patience = Instant::now();
    while (resources(), alive()) != (before, 0) && patience.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(resources(), before, "descriptors, mappings, threads");
    assert_eq!(alive(), 0, "VMs whose memory is still there");
    eprintln!("{storms:?} cancellations in {seconds} s each, none lost");
    assert!(storms.into_iter().all(|cancels| cancels > 0));
    doorbells_without_descriptors(&kvm);
}
