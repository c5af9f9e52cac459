//! VMs: what cannot be made, several vCPUs, dirty pages.

use std::sync::Arc;

use iced_x86::code_asm::*;
use squib_core::memory::{HIGH_RAM_START, PAGE_SIZE};
use squib_core::{
    BackendKind, DirtyTracking, ErrorCode, ExitKind, GuestMemory, HypervisorBackend, IrqchipKind, VmEntry,
};

use crate::harness::*;

#[test]
fn capabilities_say_what_the_other_tests_see() {
    let Some(kvm) = backend() else { return };
    assert_eq!(kvm.kind(), BackendKind::Kvm);
    let capabilities = kvm.capabilities();
    for kind in [ExitKind::Pio, ExitKind::Mmio, ExitKind::Hlt, ExitKind::Cancelled, ExitKind::TripleFault] {
        assert!(capabilities.exits.contains(kind));
    }
    assert!(
        !capabilities.exits.contains(ExitKind::Wfi) && !capabilities.exits.contains(ExitKind::BudgetSpent)
    );
    assert!(capabilities.exposes_exits && !capabilities.instruction_budget);
    let rings = matches!(capabilities.dirty_tracking, DirtyTracking::BitmapOrRing { max_entries: 1024.. });
    assert!(rings || capabilities.dirty_tracking == DirtyTracking::Bitmap);
    assert_eq!(capabilities.exits.contains(ExitKind::DirtyRingFull), rings);
    assert!((1..=255).contains(&capabilities.max_vcpus));
    assert!(capabilities.tsc_khz.is_none_or(|khz| khz > 100_000));
}

#[test]
fn vcpu_numbers_are_checked() {
    let Some(kvm) = backend() else { return };
    let guest = Guest::new(&kvm, IrqchipKind::None);
    let refused = |id| guest.vm.create_vcpu(id).err().expect("an error").code();
    assert_eq!(refused(0), ErrorCode::VcpuCount, "there is one already");
    assert_eq!(refused(kvm.capabilities().max_vcpus), ErrorCode::VcpuCount);
    assert_eq!(refused(u32::MAX), ErrorCode::VcpuCount);
    let last = kvm.capabilities().max_vcpus - 1;
    assert_eq!(guest.vm.create_vcpu(last).unwrap().id(), last);
}

#[test]
fn memory_where_kvm_has_something_is_refused() {
    let Some(kvm) = backend() else { return };
    let create = |irqchip, at| {
        let memory = GuestMemory::with_rom(&[(0, 0x1000)], &[(at, 0x1000)]).unwrap();
        kvm.create_vm(&config(memory, irqchip, Arc::default())).err().map(|e| e.code())
    };
    let overlap = Some(ErrorCode::MemoryOverlap);
    for (at, none, full) in [
        (0xfebf_f000, None, None),
        (0xfec0_0000, None, overlap),
        (0xfee0_0000, None, overlap),
        (0xfeff_c000, overlap, overlap),
        (0xfeff_f000, overlap, overlap),
        // The largest ROM.
        (0xff00_0000, None, None),
        (0xfffb_d000, None, None),
    ] {
        assert_eq!(create(IrqchipKind::None, at), none, "{at:#x}");
        if kvm.capabilities().irqchips.contains(&IrqchipKind::Full) {
            assert_eq!(create(IrqchipKind::Full, at), full, "{at:#x}");
        }
    }
}

#[test]
fn a_memory_belongs_to_one_vm() {
    let Some(kvm) = backend() else { return };
    let memory = GuestMemory::new(1 << 20).unwrap();
    let config = config(memory, IrqchipKind::None, Arc::default());
    let vm = kvm.create_vm(&config).unwrap();
    assert_eq!(kvm.create_vm(&config).err().expect("an error").code(), ErrorCode::InvalidArgument);
    drop(vm);
}

#[test]
fn a_vcpu_keeps_its_vm_and_memory_alive() {
    let Some(kvm) = backend() else { return };
    let Guest { vm, mut vcpu, .. } = Guest::real(&kvm, |a| {
        a.mov(dx, PORT)?;
        a.out(dx, al)
    });
    drop((vm, kvm));
    assert_out(&vcpu.run(VmEntry::Resume).unwrap(), &[0]);
}

#[test]
fn two_vcpus_run_at_once() {
    let Some(kvm) = backend() else { return };
    // Each waits for the other's byte.
    let mut first = Guest::real(&kvm, |a| {
        let mut again = a.create_label();
        a.xor(bx, bx)?;
        a.mov(es, bx)?;
        a.mov(bx, ax)?;
        a.mov(byte_ptr(bx + 0x500).es(), 1)?;
        a.xor(bx, 1)?;
        a.set_label(&mut again)?;
        a.cmp(byte_ptr(bx + 0x500).es(), 1)?;
        a.jne(again)?;
        a.hlt()
    });
    let mut second =
        Guest { vcpu: first.vm.create_vcpu(1).unwrap(), vm: first.vm.clone(), wakes: Arc::default() };
    let system = first.vcpu.x86().unwrap().system_registers().unwrap();
    second.vcpu.x86().unwrap().set_system_registers(&system).unwrap();
    let mut registers = first.registers();
    registers.rax = 1;
    second.vcpu.x86().unwrap().set_registers(&registers).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_hlt(&second.resume()));
        assert_hlt(&first.resume());
    });
}

#[test]
fn memory_above_4_gib_is_there() {
    let Some(kvm) = backend() else { return };
    let memory = GuestMemory::with_regions(&[(0, 1 << 20), (HIGH_RAM_START, 2 << 20)]).unwrap();
    let vm = kvm.create_vm(&config(memory, IrqchipKind::None, Arc::default())).unwrap();
    let mut guest = Guest::long_in(vm, |a| {
        // Page 1023 of the third directory becomes a window on the memory above 4 GiB.
        a.mov(rax, HIGH_RAM_START | 0x83)?;
        a.mov(rbx, 0x4000_u64 + 511 * 8)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.mov(rcx, 511_u64 << 21)?;
        a.mov(dword_ptr(rcx + 0x1234), 0x1234_5678)?;
        a.hlt()
    });
    assert_hlt(&guest.resume());
    assert_eq!(guest.read(HIGH_RAM_START + 0x1234), 0x1234_5678_u32.to_le_bytes());
}

#[test]
fn dirty_pages_are_those_written_since() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        let mut touch = a.create_label();
        a.mov(dx, PORT)?;
        a.mov(rbx, DATA)?;
        // KVM may count a page's first access as a write: make that before the log starts.
        a.mov(rsi, rbx)?;
        a.mov(ecx, 12)?;
        a.set_label(&mut touch)?;
        a.mov(byte_ptr(rsi), 1)?;
        a.add(rsi, 0x1000)?;
        a.dec(ecx)?;
        a.jnz(touch)?;
        a.out(dx, al)?;
        a.mov(byte_ptr(rbx), 1)?;
        a.mov(byte_ptr(rbx + 0x3000), 1)?;
        a.out(dx, al)?;
        a.mov(byte_ptr(rbx + 0x5fff), 1)?;
        a.mov(cl, byte_ptr(rbx + 0x9000))?;
        a.out(dx, al)?;
        a.mov(byte_ptr(rbx + 0xa000), 1)?;
        a.hlt()
    });
    assert_eq!(guest.vm.take_dirty_pages().unwrap_err().code(), ErrorCode::InvalidArgument);
    assert_out(&guest.resume(), &[0]);
    guest.vm.set_dirty_log(true).unwrap();
    guest.vm.set_dirty_log(true).unwrap();
    // The accessed and dirty bits that the processor sets in page tables make those dirty too.
    let take = |guest: &Guest| -> Vec<u64> {
        let pages = guest.vm.take_dirty_pages().unwrap();
        assert!(pages.is_sorted() && pages.iter().all(|page| page.is_multiple_of(PAGE_SIZE)));
        pages.into_iter().filter(|page| *page >= DATA).collect()
    };
    assert_out(&guest.resume(), &[0]);
    assert_eq!(take(&guest), [DATA, DATA + 0x3000]);
    assert_out(&guest.resume(), &[0]);
    assert_eq!(take(&guest), [DATA + 0x5000]);
    assert_eq!(take(&guest), []);
    // Devices and the embedder write without KVM.
    guest.vm.memory().write(DATA + 0x8ffe, &[1, 2, 3]).unwrap();
    guest.vm.memory().fill(0xf_f000, 1, PAGE_SIZE).unwrap();
    assert_eq!(take(&guest), [DATA + 0x8000, DATA + 0x9000, 0xf_f000]);
    guest.vm.set_dirty_log(false).unwrap();
    assert_hlt(&guest.resume());
    guest.vm.memory().write(DATA, &[1]).unwrap();
    guest.vm.set_dirty_log(true).unwrap();
    assert_eq!(take(&guest), [], "nothing was recorded while the log was off");
}
