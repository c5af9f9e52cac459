//! Dirty rings: what they tell is what a bitmap tells, however often they overflow.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use squib_core::memory::PAGE_SIZE;
use squib_core::{
    DirtyTracking, ErrorCode, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vm, VmConfig, VmEntry,
    VmExit,
};
use squib_kvm::KvmBackend;

#[path = "kvm/harness.rs"]
mod harness;
use harness::*;

/// Pages that guests here write to: [`DATA`] and what follows, more than a small ring has entries.
const PAGES: u64 = 3000;
const MEMORY: u64 = 16 << 20;

fn vm_with(kvm: &KvmBackend, dirty_ring: Option<u32>) -> Result<Arc<dyn Vm>> {
    let memory = GuestMemory::new(MEMORY)?;
    kvm.create_vm(&VmConfig { dirty_ring, ..config(memory, IrqchipKind::None, Arc::default()) })
}

/// The log's pages from [`DATA`] on. The accessed and dirty bits that the processor sets in page tables make those dirty too.
fn take(vm: &dyn Vm) -> Vec<u64> {
    let pages = vm.take_dirty_pages().unwrap();
    assert!(pages.is_sorted_by(|a, b| a < b), "ascending, each once");
    pages.into_iter().filter(|page| *page >= DATA).collect()
}

/// Writes RAX to RCX pages from RBX on, RSI apart, and says so; again and again.
fn write_pages(a: &mut CodeAssembler) -> std::result::Result<(), IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.mov(qword_ptr(rbx), rax)?;
    a.add(rbx, rsi)?;
    a.dec(rcx)?;
    a.jnz(again)?;
    a.mov(rdx, MMIO)?;
    a.mov(byte_ptr(rdx), al)?;
    a.jmp(again)
}

/// A guest of [`write_pages`] in ring 3: a KVM that interprets ring 0 does not look after each instruction whether a ring is full.
fn writer(kvm: &KvmBackend, dirty_ring: Option<u32>) -> Guest {
    let mut guest = Guest::long_in(vm_with(kvm, dirty_ring).unwrap(), write_pages);
    guest.enter_ring3();
    guest
}

impl Guest {
    fn writes(&mut self, value: u64, first: u64, count: u64, apart: u64) {
        self.change_registers(|r| {
            (r.rax, r.rbx, r.rcx, r.rsi) = (value, DATA + first * PAGE_SIZE, count, apart * PAGE_SIZE);
        });
        let exit = self.run_for(Duration::from_secs(60), VmEntry::Resume);
        assert!(matches!(exit, VmExit::Mmio { addr: MMIO, write: true, .. }), "{exit:?}");
        assert!(matches!(self.run(VmEntry::Complete(None)), VmExit::Completed));
    }
}

fn page(n: u64) -> u64 {
    DATA + n * PAGE_SIZE
}

#[test]
fn a_length_that_no_ring_has_is_refused() {
    let Some(kvm) = backend() else { return };
    let refused = |entries| vm_with(&kvm, Some(entries)).err().expect("an error").code();
    let DirtyTracking::BitmapOrRing { max_entries } = kvm.capabilities().dirty_tracking else {
        assert_eq!(refused(1024), ErrorCode::Unsupported);
        return skip("a dirty ring", "this KVM has none");
    };
    for entries in [0, 1, 512, 1023, 1025, max_entries * 2, 1 << 31, u32::MAX] {
        assert_eq!(refused(entries), ErrorCode::InvalidArgument, "{entries}");
    }
    for entries in [1024, max_entries] {
        vm_with(&kvm, Some(entries)).unwrap().create_vcpu(0).unwrap();
    }
}

#[test]
fn a_ring_tells_what_a_bitmap_tells() {
    let Some(kvm) = backend() else { return };
    let Some(entries) = smallest_ring(&kvm) else { return };
    let mut guests = [Some(entries), None].map(|ring| writer(&kvm, ring));
    for guest in &mut guests {
        // KVM may count a page's first access as a write.
        guest.writes(1, 0, PAGES, 1);
        guest.vm.set_dirty_log(true).unwrap();
    }
    let rounds: [(u64, u64, u64); 6] =
        [(0, 1, 1), (5, 900, 3), (0, PAGES, 1), (PAGES - 1, PAGES, 0), (1, PAGES / 2, 2), (7, 64, 40)];
    for (first, count, apart) in rounds {
        let [ring, bitmap] = guests.each_mut().map(|guest| {
            guest.writes(first, first, count, apart);
            // Devices and the embedder write without KVM.
            guest.vm.memory().write(page(PAGES + 10 + first % 8) - 1, &[1, 2]).unwrap();
            take(&*guest.vm)
        });
        let written: BTreeSet<_> = (0..count)
            .map(|n| first + n * apart)
            .chain([PAGES + 9 + first % 8, PAGES + 10 + first % 8])
            .map(page)
            .collect();
        assert_eq!(ring, Vec::from_iter(written));
        assert_eq!(ring, bitmap);
        assert_eq!(take(&*guests[0].vm), []);
    }
    for guest in &mut guests {
        guest.vm.set_dirty_log(false).unwrap();
        guest.writes(1, 0, PAGES, 1);
        assert_eq!(guest.vm.take_dirty_pages().unwrap_err().code(), ErrorCode::InvalidArgument);
        guest.vm.set_dirty_log(true).unwrap();
        assert_eq!(take(&*guest.vm), [], "nothing was recorded while the log was off");
        guest.writes(1, 3, 1, 1);
        assert_eq!(take(&*guest.vm), [page(3)]);
    }
}

#[test]
fn what_was_in_a_ring_when_its_log_stopped_is_not_in_the_next() {
    let Some(kvm) = backend() else { return };
    let Some(entries) = smallest_ring(&kvm) else { return };
    let mut guest = writer(&kvm, Some(entries));
    guest.writes(1, 0, 100, 1);
    for _ in 0..3 {
        guest.vm.set_dirty_log(true).unwrap();
        guest.writes(1, 0, 100, 1);
        guest.vm.set_dirty_log(false).unwrap();
    }
    guest.vm.set_dirty_log(true).unwrap();
    assert_eq!(take(&*guest.vm), []);
}

#[test]
fn what_a_vcpu_wrote_is_told_after_it_has_gone() {
    let Some(kvm) = backend() else { return };
    let Some(entries) = smallest_ring(&kvm) else { return };
    let mut guest = writer(&kvm, Some(entries));
    guest.writes(1, 0, 100, 1);
    guest.vm.set_dirty_log(true).unwrap();
    guest.writes(1, 0, 50, 2);
    let Guest { vm, vcpu, .. } = guest;
    drop(vcpu);
    assert_eq!(take(&*vm), (0..50).map(|n| page(2 * n)).collect::<Vec<_>>());
}

/// Two vCPUs write all the time, in more pages than their rings have entries. Who copies what the log tells, again and again,
/// has the same memory in the end.
#[test]
fn a_copy_by_the_log_is_exact_when_the_guest_has_stopped() {
    let Some(kvm) = backend() else { return };
    let Some(entries) = smallest_ring(&kvm) else { return };
    for ring in [Some(entries), None] {
        let mut first = writer(&kvm, ring);
        let vm = first.vm.clone();
        let mut second = Guest { vcpu: vm.create_vcpu(1).unwrap(), vm: vm.clone(), wakes: Arc::default() };
        let system = first.vcpu.x86().unwrap().system_registers().unwrap();
        second.vcpu.x86().unwrap().set_system_registers(&system).unwrap();
        let registers = first.registers();
        second.vcpu.x86().unwrap().set_registers(&registers).unwrap();

        vm.set_dirty_log(true).unwrap();
        let memory = vm.memory();
        let mut copy = vec![0; MEMORY as usize];
        memory.read(0, &mut copy).unwrap();
        let mut copied = 0;
        let mut bring_up_to_date = || {
            for page in vm.take_dirty_pages().unwrap() {
                memory.read(page, &mut copy[page as usize..][..PAGE_SIZE as usize]).unwrap();
                copied += 1;
            }
        };
        std::thread::scope(|scope| {
            let vcpus = [&mut first, &mut second].map(|guest| {
                scope.spawn(|| {
                    let id = u64::from(guest.vcpu.id());
                    for round in 1..5 {
                        guest.writes(round << 8 | id, id, PAGES / 2, 2);
                        guest.writes(round << 16 | id, id * PAGES / 2, PAGES / 2, 1);
                    }
                })
            });
            while !vcpus.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                bring_up_to_date();
                // Each look watches the pages anew: without a pause the guests would come no further than from fault to fault.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        bring_up_to_date();
        let mut now = vec![0; MEMORY as usize];
        memory.read(0, &mut now).unwrap();
        let differs =
            copy.chunks(PAGE_SIZE as usize).zip(now.chunks(PAGE_SIZE as usize)).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the page that differs, with {ring:?}");
        assert!(copied >= PAGES, "{copied} pages were copied");
    }
}

#[test]
fn a_guest_that_overflows_its_ring_for_ever_is_cancelled() {
    let Some(kvm) = backend() else { return };
    let Some(entries) = smallest_ring(&kvm) else { return };
    let mut guest = Guest::long_in(vm_with(&kvm, Some(entries)).unwrap(), |a| {
        let (mut start, mut again) = (a.create_label(), a.create_label());
        a.set_label(&mut start)?;
        a.mov(rbx, DATA)?;
        a.mov(ecx, PAGES as u32)?;
        a.set_label(&mut again)?;
        a.inc(qword_ptr(rbx))?;
        a.add(rbx, PAGE_SIZE as i32)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.jmp(start)
    });
    guest.enter_ring3();
    guest.vm.set_dirty_log(true).unwrap();
    let mut runs = 0;
    let memory = guest.vm.memory().clone();
    let has_written = |page| {
        let mut byte = [0];
        memory.read(page, &mut byte).unwrap();
        byte != [0]
    };
    // An emulated machine takes its time for them.
    while runs < 3 || runs < 300 && !has_written(page(u64::from(entries) + 1)) {
        let exit = guest.run_for(Duration::from_millis(200), VmEntry::Resume);
        assert!(matches!(exit, VmExit::Cancelled), "{exit:?}");
        runs += 1;
    }
    assert!(take(&*guest.vm).len() > entries as usize, "it overflowed");
}

/// A KVM that interprets ring 0 looks whether a ring is full when it has made more entries than are kept free.
#[test]
fn an_overrun_loses_nothing() {
    let Some(kvm) = backend() else { return };
    let Some(entries) = smallest_ring(&kvm) else { return };
    let mut guest = Guest::long_in(vm_with(&kvm, Some(entries)).unwrap(), write_pages);
    guest.vm.set_dirty_log(true).unwrap();
    for round in 0..20 {
        let (first, count) = (round * 7, PAGES - round * 10);
        guest.writes(round, first, count, 1);
        let told = BTreeSet::from_iter(take(&*guest.vm));
        assert!((first..first + count).map(page).all(|page| told.contains(&page)), "round {round}");
    }
}
