//! Registers in and out.

use iced_x86::code_asm::*;
use squib_core::x86::{Activity, PendingEvents, Registers, Segment, SystemRegisters, X86State, bits};
use squib_core::{ErrorCode, IrqchipKind, VmEntry, VmExit};

use crate::harness::*;

const STAR: u32 = 0xc000_0081;
const NO_SUCH_MSR: u32 = 0x4b00_1234;

/// A guest whose vCPU is in its reset state, for `check`.
fn with_state(check: impl FnOnce(&mut dyn X86State)) {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::Full);
    check(guest.vcpu.x86().unwrap());
}

#[test]
fn the_reset_state_is_the_manuals() {
    with_state(|x86| {
        let registers = x86.registers().unwrap();
        assert_eq!((registers.rip, registers.rflags), (0xfff0, bits::RFLAGS_FIXED));
        let system = x86.system_registers().unwrap();
        assert_eq!((system.cs.selector, system.cs.base, system.cs.limit), (0xf000, 0xffff_0000, 0xffff));
        assert_eq!(system.cr0 & (bits::CR0_PE | bits::CR0_PG), 0);
        assert_eq!(system.apic_base, 0xfee0_0900, "enabled, of the first processor");
    });
}

#[test]
fn general_registers_round_trip() {
    with_state(|x86| {
        let values: Vec<u64> = (1..=16).map(|n| n * 0x0101_0101_0101_0101).collect();
        let written =
            Registers::from_gprs(values.try_into().unwrap(), 0x1234, bits::RFLAGS_FIXED | bits::RFLAGS_CF);
        x86.set_registers(&written).unwrap();
        assert_eq!(x86.registers().unwrap(), written);
    });
}

#[test]
fn system_registers_round_trip_and_nonsense_is_refused() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, CodeAssembler::hlt);
    let x86 = guest.vcpu.x86().unwrap();
    let mut system = x86.system_registers().unwrap();
    system.cr2 = 0x1234_5678;
    system.cr8 = 5;
    system.fs = Segment { base: 0x7fff_1234_5678, ..Segment::flat_data(16) };
    system.gdt.limit = 0x77;
    x86.set_system_registers(&system).unwrap();
    assert_eq!(x86.system_registers().unwrap(), system);
    let mut nonsense = system;
    // 64-bit mode with paging needs PAE.
    nonsense.cr4 &= !bits::CR4_PAE;
    assert_eq!(x86.set_system_registers(&nonsense).unwrap_err().code(), ErrorCode::InvalidArgument);
    nonsense = SystemRegisters { cr8: 16, ..system };
    assert_eq!(x86.set_system_registers(&nonsense).unwrap_err().code(), ErrorCode::InvalidArgument);
    assert_eq!(x86.system_registers().unwrap(), system);
    assert_hlt(&guest.resume());
    assert_eq!(guest.vcpu.x86().unwrap().system_registers().unwrap().cr8, 5, "entering the guest keeps CR8");
}

#[test]
fn debug_registers_round_trip() {
    with_state(|x86| {
        let mut debug = x86.debug_registers().unwrap();
        debug.db = [0x1000, 0x2000, 0x3000, 0x4000];
        debug.dr7 |= 1;
        x86.set_debug_registers(&debug).unwrap();
        assert_eq!(x86.debug_registers().unwrap(), debug);
        debug.dr7 = 1 << 40;
        assert_eq!(x86.set_debug_registers(&debug).unwrap_err().code(), ErrorCode::InvalidArgument);
    });
}

#[test]
fn model_specific_registers_round_trip() {
    with_state(|x86| {
        x86.set_msr(STAR, 0x0010_0008_0000_0000).unwrap();
        assert_eq!(x86.msr(STAR).unwrap(), 0x0010_0008_0000_0000);
        assert_eq!(x86.msr(NO_SUCH_MSR).unwrap_err().code(), ErrorCode::Register);
        assert_eq!(x86.set_msr(NO_SUCH_MSR, 1).unwrap_err().code(), ErrorCode::Register);
        let indices = x86.msr_indices().unwrap();
        assert!(indices.contains(&STAR));
        for index in indices {
            x86.msr(index).unwrap_or_else(|e| panic!("{index:#x}: {e}"));
        }
    });
}

#[test]
fn extended_state_round_trips() {
    with_state(|x86| {
        let mut area = x86.xsave().unwrap();
        assert!(area.len() >= 576);
        // XMM3's low half, and the header's bit that SSE state is there.
        area[160 + 3 * 16..][..8].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
        area[512] |= 2;
        x86.set_xsave(&area).unwrap();
        assert_eq!(x86.xsave().unwrap()[160 + 3 * 16..][..8], area[160 + 3 * 16..][..8]);
        // The shortest area leaves what it does not hold in its initial state.
        x86.set_xsave(&area[..576]).unwrap();
        assert_eq!(x86.xsave().unwrap()[160 + 3 * 16..][..8], area[160 + 3 * 16..][..8]);
        for wrong in [0, 1, 575, 1 << 20] {
            assert_eq!(
                x86.set_xsave(&vec![0; wrong]).unwrap_err().code(),
                ErrorCode::InvalidArgument,
                "{wrong}"
            );
        }
        assert_eq!(x86.xcr0().unwrap() & 1, 1);
        let xcr0 = x86.xcr0().unwrap();
        x86.set_xcr0(xcr0).unwrap();
        assert_eq!(
            x86.set_xcr0(0).unwrap_err().code(),
            ErrorCode::InvalidArgument,
            "x87 state is always there"
        );
        assert_eq!(x86.xcr0().unwrap(), xcr0);
    });
}

#[test]
fn pending_events_round_trip() {
    with_state(|x86| {
        assert_eq!(x86.pending_events().unwrap(), PendingEvents::default());
        let page_fault = PendingEvents { exception: Some((14, Some(2))), ..Default::default() };
        x86.set_pending_events(&page_fault).unwrap();
        assert_eq!(x86.pending_events().unwrap(), page_fault);
        let nmi = PendingEvents { nmi_pending: true, nmi_masked: true, ..Default::default() };
        x86.set_pending_events(&nmi).unwrap();
        assert_eq!(x86.pending_events().unwrap(), nmi);
        let interrupt = PendingEvents { interrupt: Some(0x41), interrupt_shadow: true, ..Default::default() };
        x86.set_pending_events(&interrupt).unwrap();
        assert_eq!(x86.pending_events().unwrap().interrupt, Some(0x41));
        let nonsense = PendingEvents { exception: Some((32, None)), ..Default::default() };
        assert_eq!(x86.set_pending_events(&nonsense).unwrap_err().code(), ErrorCode::InvalidArgument);
    });
}

#[test]
fn an_exception_that_is_pending_is_delivered() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, CodeAssembler::hlt);
    guest.handler(14, |a| {
        a.pop(rbx)?;
        a.hlt()
    });
    let fault = PendingEvents { exception: Some((14, Some(6))), ..Default::default() };
    guest.vcpu.x86().unwrap().set_pending_events(&fault).unwrap();
    assert_hlt(&guest.resume());
    let registers = guest.registers();
    assert_eq!((registers.rip, registers.rbx), (handler_of(14) + 3 - 1, 6));
}

#[test]
fn the_guest_reads_the_cpuid_that_we_do() {
    let Some(kvm) = backend() else { return };
    for leaf in [0_u32, 1, 7, 0xb, 0x4000_0000, 0x8000_0001] {
        let mut guest = Guest::long(&kvm, |a| {
            a.mov(eax, leaf)?;
            a.xor(ecx, ecx)?;
            a.cpuid()?;
            a.hlt()
        });
        assert_hlt(&guest.resume());
        let told = guest.vcpu.x86().unwrap().cpuid(leaf, 0).unwrap();
        let r = guest.registers();
        let read = [r.rax, r.rbx, r.rcx, r.rdx].map(|value| value as u32);
        assert_eq!(read, [told.eax, told.ebx, told.ecx, told.edx], "leaf {leaf:#x}");
    }
}

#[test]
fn each_vcpu_knows_its_number() {
    let Some(kvm) = backend() else { return };
    let guest = Guest::new(&kvm, IrqchipKind::Split);
    let mut third = guest.vm.create_vcpu(3).unwrap();
    let x86 = third.x86().unwrap();
    assert_eq!(x86.cpuid(1, 0).unwrap().ebx >> 24, 3);
    if x86.cpuid(0, 0).unwrap().eax >= 0xb {
        assert_eq!(x86.cpuid(0xb, 0).unwrap().edx, 3);
    }
    assert_eq!(x86.system_registers().unwrap().apic_base & 1 << 8, 0, "not the first processor");
}

/// A guest that halts, and says so when it goes on.
fn halts(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dx, PORT)?;
    a.hlt()?;
    a.out(dx, al)
}

fn activity(guest: &mut Guest) -> Activity {
    guest.vcpu.x86().unwrap().activity().unwrap()
}

fn set_activity(guest: &mut Guest, activity: Activity) {
    guest.vcpu.x86().unwrap().set_activity(activity).unwrap();
}

#[test]
fn a_halt_without_local_apic_is_state() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, halts);
    assert_eq!(activity(&mut guest), Activity::Active);
    assert_hlt(&guest.resume());
    assert_eq!(activity(&mut guest), Activity::Halted);
    set_activity(&mut guest, Activity::Active);
    assert_out(&guest.resume(), &[0]);
    let mut other = Guest::long(&kvm, halts);
    set_activity(&mut other, Activity::Halted);
    let start = other.registers().rip;
    assert_hlt(&other.resume());
    assert_eq!(other.registers().rip, start, "a halted vCPU executes nothing");
    let refused = other.vcpu.x86().unwrap().set_activity(Activity::WaitForStartUp).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidArgument);
    assert_eq!(activity(&mut other), Activity::Halted);
}

#[test]
fn a_halt_in_the_kernel_is_state() {
    let Some(kvm) = backend() else { return };
    let cancelled = |guest: &mut Guest| {
        std::thread::scope(|scope| {
            let cancel = guest.vcpu.cancel_handle();
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(100));
                cancel.cancel();
            });
            let exit = guest.vcpu.run(VmEntry::Resume).unwrap();
            assert!(matches!(exit, VmExit::Cancelled), "{exit:?}");
        });
    };
    let mut guest = Guest::long_with(&kvm, IrqchipKind::Split, halts);
    cancelled(&mut guest);
    assert_eq!(activity(&mut guest), Activity::Halted);
    set_activity(&mut guest, Activity::Active);
    assert_out(&guest.resume(), &[0]);
    let mut other = Guest::long_with(&kvm, IrqchipKind::Split, halts);
    set_activity(&mut other, Activity::Halted);
    let start = other.registers().rip;
    cancelled(&mut other);
    assert_eq!(other.registers().rip, start, "a halted vCPU executes nothing");
}

#[test]
fn a_secondary_vcpu_can_be_made_to_run_without_a_message() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::Split);
    guest.vcpu = guest.vm.create_vcpu(1).unwrap();
    assert_eq!(activity(&mut guest), Activity::WaitForInit);
    set_activity(&mut guest, Activity::WaitForStartUp);
    assert_eq!(activity(&mut guest), Activity::WaitForStartUp);
    // MOV DX, PORT; OUT DX, AL.
    guest.vm.memory().write(0x6000, &[0xba, PORT as u8, (PORT >> 8) as u8, 0xee]).unwrap();
    let x86 = guest.vcpu.x86().unwrap();
    let mut system = x86.system_registers().unwrap();
    (system.cs.base, system.cs.selector) = (0x6000, 0x600);
    x86.set_system_registers(&system).unwrap();
    let registers = x86.registers().unwrap();
    x86.set_registers(&Registers { rip: 0, rax: 0x42, ..registers }).unwrap();
    set_activity(&mut guest, Activity::Active);
    assert_out(&guest.resume(), &[0x42]);
}
