//! An exit and its answer allocate nothing.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use iced_x86::code_asm::*;
use squib_core::{VmEntry, VmExit};

#[path = "kvm/harness.rs"]
mod harness;
use harness::*;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn exits_and_answers_allocate_nothing() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        let mut again = a.create_label();
        a.mov(dx, PORT)?;
        a.mov(rbx, MMIO)?;
        a.set_label(&mut again)?;
        a.out(dx, eax)?;
        a.in_(al, dx)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rdi, DATA)?;
        a.mov(ecx, 4)?;
        a.rep().insb()?;
        a.jmp(again)
    });
    let mut entry = VmEntry::Resume;
    let mut exit = |times| {
        let mut reads = 0;
        for _ in 0..times {
            let exit = guest.vcpu.run(std::mem::replace(&mut entry, VmEntry::Resume)).unwrap();
            if let VmExit::Pio { write: false, data, .. } | VmExit::Mmio { write: false, data, .. } = exit {
                entry = VmEntry::Read(data);
                reads += 1;
            }
        }
        reads
    };
    exit(10);
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    assert!(exit(400) >= 200, "the guest reads");
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), before);
}
