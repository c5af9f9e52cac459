//! An access allocates nothing on its way from the vCPU to a device and back.
#![allow(unsafe_code, reason = "an allocator that counts")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use squib_core::{CancelHandle, ExitKind, Result, Vcpu, VmEntry, VmExit};
use squib_vmm::{Action, Bus, Device, Host, Idle, Stop, Target, Unclaimed, VcpuLoop};
use support::*;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

struct Nothing;

impl Device for Nothing {
    fn read(&self, offset: u64, _: u8) -> Result<u64> {
        Ok(offset)
    }

    fn write(&self, _: u64, _: u8, _: u64) -> Result<Action> {
        Ok(Action::Continue)
    }
}

impl Host for Nothing {
    fn read(&mut self, _: u32, offset: u64, _: u8) -> Result<u64> {
        Ok(offset)
    }

    fn write(&mut self, _: u32, _: u64, _: u8, _: u64) -> Result<Action> {
        Ok(Action::Continue)
    }

    fn idle(&mut self, _: Option<u64>) -> Idle {
        Idle::Resume
    }
}

/// Makes every kind of access in turn.
struct Rounds(usize);

impl Vcpu for Rounds {
    fn id(&self) -> u32 {
        0
    }

    fn run(&mut self, _: VmEntry) -> Result<VmExit> {
        self.0 += 1;
        Ok(match self.0 % 8 {
            _ if self.0 == 8000 => VmExit::Shutdown,
            0 => port_in(0x10, 4),
            1 => port_out(0x20, &[1]),
            2 => load(0x1000, 8),
            3 => store(0x1000, &[2; 8]),
            4 => load(0x2000, 1),
            5 => store(0x2000, &[3; 4]),
            6 => load(0x3000, 8),
            _ => VmExit::Hlt,
        })
    }

    fn cancel_handle(&self) -> CancelHandle {
        script().cancel_handle()
    }

    fn is_runnable(&mut self) -> bool {
        false
    }
}

#[test]
fn devices_are_reached_without_allocation() {
    let (ports, memory) = (Bus::ports(), Bus::memory());
    ports.map("Rust", 0x10, 4, Target::Device(Arc::new(Nothing))).unwrap();
    ports.map("external", 0x20, 4, Target::External(1)).unwrap();
    memory.map("Rust", 0x1000, 8, Target::Device(Arc::new(Nothing))).unwrap();
    memory.map("external", 0x2000, 8, Target::External(2)).unwrap();
    let mut vcpu = VcpuLoop::new(Box::new(Rounds(0)), &ports, &memory, Unclaimed::Platform);
    let before = ALLOCATIONS.get();
    let stop = vcpu.run(VmEntry::Resume, &mut Nothing);
    let allocations = ALLOCATIONS.get() - before;
    assert!(matches!(stop, Ok(Stop::Exit(VmExit::Shutdown))));
    assert_eq!(allocations, 0);
    assert_eq!(vcpu.counts().get(ExitKind::Mmio), 5000);
}
