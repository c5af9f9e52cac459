//! What the kernel does without an exit, or tells later: doorbells, gathered writes, triggers of lines, dirty pages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use squib_core::{
    AddressSpace, CoalescedWrites, DirtyTracking, Doorbell, DoorbellRegister, GuestMemory, HypervisorBackend,
    InterruptSource, IrqchipKind, VmExit,
};

use crate::asm::*;
use crate::harness::*;
use crate::interrupts::{FIRST_LINE, backend_with_gic, edge_triggered, set_up, take};

/// `str w2, [x1, #4]`.
const STORE_BEHIND: u32 = 0xb900_0422;

fn assert_behind(exit: &VmExit) {
    assert!(matches!(exit, VmExit::Mmio { addr, write: true, .. } if *addr == DEVICE + 4), "{exit:x?}");
}

#[test]
fn a_doorbell_is_no_exit() {
    let Some(kvm) = backend() else { return };
    let code = [vec![store(2, 1); 3], vec![STORE_BEHIND, store(2, 1)]].concat();
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &code);
    let rings = Arc::new(AtomicU64::new(0));
    let heard = rings.clone();
    let doorbell: Arc<dyn Doorbell> = Arc::new(move |times| _ = heard.fetch_add(times, Ordering::SeqCst));
    let register = DoorbellRegister::new(AddressSpace::Memory, DEVICE, 4, None).unwrap();
    let attached = guest.vm.attach_doorbell(&register, &doorbell).unwrap();
    assert!(attached.is_some(), "KVM takes it");
    assert_behind(&guest.resume());
    let patience = Instant::now();
    while rings.load(Ordering::SeqCst) < 3 && patience.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    assert_eq!(rings.load(Ordering::SeqCst), 3);
    drop(attached);
    assert_write(&guest.resume(), &[0; 4]);
}

/// Keeps what it is given.
#[derive(Default)]
struct Kept(Mutex<Vec<(u64, u8, u64)>>);

impl CoalescedWrites for Kept {
    fn write(&self, addr: u64, width: u8, value: u64) {
        self.0.lock().unwrap().push((addr, width, value));
    }
}

#[test]
fn gathered_writes_come_before_the_next_exit() {
    let Some(kvm) = backend() else { return };
    let code = [store(2, 1), increment(2), at(STORES[0], 2, 1), STORE_BEHIND];
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &code);
    let kept = Arc::new(Kept::default());
    let writes: Arc<dyn CoalescedWrites> = kept.clone();
    let attached = guest.vm.coalesce_writes(AddressSpace::Memory, (DEVICE, 4), &writes).unwrap();
    assert!(attached.is_some(), "KVM gathers them");
    assert_behind(&guest.resume());
    assert_eq!(*kept.0.lock().unwrap(), [(DEVICE, 4, 0), (DEVICE, 1, 1)]);
}

#[test]
fn triggers_raise_lines_from_any_thread() {
    let Some((kvm, gic)) = backend_with_gic() else { return };
    let line = 5;
    let code = [
        edge_triggered(line),
        set_up(gic, line),
        vec![store(31, 1)],
        take(gic),
        take(gic),
        vec![store(31, 1)],
    ]
    .concat();
    let mut guest = Guest::new(&kvm, IrqchipKind::Full, &code);
    let trigger = guest.vm.interrupt_trigger(InterruptSource::Line(line)).unwrap();
    assert_write(&guest.resume(), &[0; 4]);
    for _ in 0..2 {
        let trigger = trigger.clone();
        std::thread::spawn(move || trigger.trigger()).join().unwrap();
        assert_write(&guest.resume(), &(FIRST_LINE + line).to_le_bytes());
    }
    drop(guest);
    trigger.trigger();
}

#[test]
fn pages_that_are_written_are_told() {
    let Some(kvm) = backend() else { return };
    let rings = matches!(kvm.capabilities().dirty_tracking, DirtyTracking::BitmapOrRing { .. });
    for ring in [None, Some(1024)].into_iter().take(1 + usize::from(rings)) {
        let vm = create_vm_with_ring(&kvm, ring).unwrap();
        // A store to the page in X3, then to the device.
        let mut guest = Guest::in_vm(vm, &[set(3, CODE + 0x5000), vec![store(2, 3), store(2, 1)]].concat());
        guest.vm.set_dirty_log(true).unwrap();
        assert_write(&guest.resume(), &[0; 4]);
        let pages = guest.vm.take_dirty_pages().unwrap();
        assert!(pages.contains(&(CODE + 0x5000)) && !pages.contains(&(CODE + 0x6000)), "{pages:x?}");
        assert_eq!(guest.vm.take_dirty_pages().unwrap(), [0; 0]);
    }
}

/// Each VM is dropped with a load half done, and before what came from it.
#[test]
fn vms_leave_their_memory() {
    let Some(kvm) = backend() else { return };
    let mut memories = Vec::new();
    for irqchip in kvm.capabilities().irqchips.iter().cycle().take(50) {
        let mut guest = Guest::new(&kvm, *irqchip, &[at(LOADS[2], 2, 1), SPIN]);
        let memory: &Arc<GuestMemory> = guest.vm.memory();
        memories.push(Arc::downgrade(memory));
        let cancel = guest.vcpu.cancel_handle();
        assert_read(&guest.resume(), 4);
        drop(guest);
        cancel.cancel();
    }
    let patience = Instant::now();
    let alive = || memories.iter().filter(|memory| memory.strong_count() > 0).count();
    while alive() > 0 && patience.elapsed() < Duration::from_secs(5) {
        std::thread::yield_now();
    }
    assert_eq!(alive(), 0, "VMs whose memory is still there");
}
