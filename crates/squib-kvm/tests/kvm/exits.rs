//! The other exits: halt, triple fault, model-specific registers, hypercall, internal error.

use std::time::Duration;

use iced_x86::code_asm::*;
use squib_core::{ErrorCode, ExitKind, HypervisorBackend, MsrReason, VmEntry, VmExit};

use crate::harness::*;

/// A model-specific register that no processor and no hypervisor has.
const NO_SUCH_MSR: u32 = 0x4b00_1234;

#[test]
fn hlt_in_both_modes_and_it_stays_halted() {
    let Some(kvm) = backend() else { return };
    for mut guest in [Guest::real(&kvm, CodeAssembler::hlt), Guest::long(&kvm, CodeAssembler::hlt)] {
        assert!(guest.vcpu.is_runnable());
        assert_hlt(&guest.resume());
        assert!(!guest.vcpu.is_runnable());
        let rip = guest.registers().rip;
        assert_hlt(&guest.resume());
        assert!(matches!(guest.run(VmEntry::Complete(None)), VmExit::Completed));
        assert_eq!(guest.registers().rip, rip, "only an interrupt ends HLT");
        assert_eq!(guest.vcpu.run(answer(&[1])).unwrap_err().code(), ErrorCode::BadEntry);
    }
}

#[test]
fn a_fault_without_handlers_is_a_triple_fault() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, CodeAssembler::ud2);
    let x86 = guest.vcpu.x86().unwrap();
    let mut system = x86.system_registers().unwrap();
    system.idt.limit = 0;
    x86.set_system_registers(&system).unwrap();
    let exit = guest.resume();
    assert!(matches!(exit, VmExit::TripleFault), "{exit:?}");
}

#[test]
fn faults_reach_the_guests_handlers() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, CodeAssembler::ud2);
    guest.handler(6, |a| {
        a.pop(rbx)?;
        a.hlt()
    });
    assert_hlt(&guest.resume());
    assert_eq!(guest.registers().rbx, CODE, "UD2 faults at itself");
}

/// Without a local APIC in the kernel a lower CR8 leaves it (`KVM_EXIT_SET_TPR`), and is nobody's business.
#[test]
fn a_lower_task_priority_goes_unnoticed() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        for priority in [9_u32, 3, 1] {
            a.mov(eax, priority)?;
            a.mov(cr8, rax)?;
        }
        a.mov(rbx, cr8)?;
        a.hlt()
    });
    assert_hlt(&guest.resume());
    assert_eq!(guest.registers().rbx, 1);
}

fn msr_guest(kvm: &squib_kvm::KvmBackend) -> Option<Guest> {
    if !kvm.capabilities().exits.contains(ExitKind::MsrRead) {
        skip("exits for model-specific registers", "this KVM has no X86_USER_SPACE_MSR");
        return None;
    }
    let guest = Guest::long(kvm, |a| {
        a.mov(ecx, NO_SUCH_MSR)?;
        a.rdmsr()?;
        a.mov(ebx, eax)?;
        a.mov(esi, edx)?;
        a.mov(eax, 0x89ab_cdef_u32)?;
        a.mov(edx, 0x0123_4567)?;
        a.wrmsr()?;
        a.hlt()
    });
    guest.handler(13, |a| {
        a.mov(edi, 13)?;
        a.hlt()
    });
    Some(guest)
}

fn assert_msr_read(exit: &VmExit) {
    assert!(
        matches!(exit, VmExit::MsrRead { index: NO_SUCH_MSR, reason: MsrReason::Unknown }),
        "expected RDMSR, got {exit:?}"
    );
}

#[test]
fn unknown_msrs_are_the_users_to_answer() {
    let Some(kvm) = backend() else { return };
    let Some(mut guest) = msr_guest(&kvm) else { return };
    assert_msr_read(&guest.resume());
    for wrong in [answer(&[0; 8]), VmEntry::Hypercall(0)] {
        assert_eq!(guest.vcpu.run(wrong).unwrap_err().code(), ErrorCode::BadEntry);
    }
    let exit = guest.run(VmEntry::Msr(0x1122_3344_5566_7788));
    let VmExit::MsrWrite { index, value, reason } = exit else { panic!("expected WRMSR, got {exit:?}") };
    assert_eq!((index, value, reason), (NO_SUCH_MSR, 0x0123_4567_89ab_cdef, MsrReason::Unknown));
    assert_eq!(guest.vcpu.run(VmEntry::Msr(1)).unwrap_err().code(), ErrorCode::BadEntry);
    assert_hlt(&guest.resume());
    let r = guest.registers();
    assert_eq!((r.rsi, r.rbx, r.rdi), (0x1122_3344, 0x5566_7788, 0));
}

#[test]
fn an_msr_fault_is_a_general_protection_exception() {
    let Some(kvm) = backend() else { return };
    for refuse_read in [VmEntry::MsrFault, VmEntry::Resume] {
        let Some(mut guest) = msr_guest(&kvm) else { return };
        assert_msr_read(&guest.resume());
        assert_hlt(&guest.run(refuse_read));
        assert_eq!(guest.registers().rdi, 13);
    }
    let Some(mut guest) = msr_guest(&kvm) else { return };
    assert_msr_read(&guest.resume());
    assert!(matches!(guest.run(VmEntry::Msr(0)), VmExit::MsrWrite { .. }));
    assert_hlt(&guest.run(VmEntry::MsrFault));
    assert_eq!(guest.registers().rdi, 13);
}

#[test]
fn hypercalls_carry_their_arguments_and_return_a_value() {
    let Some(kvm) = backend() else { return };
    if !kvm.capabilities().exits.contains(ExitKind::Hypercall) {
        return skip("hypercalls", "this KVM has no EXIT_HYPERCALL");
    }
    // KVM_HC_MAP_GPA_RANGE is the one hypercall that KVM passes on: address, pages, attributes.
    let mut guest = Guest::long(&kvm, |a| {
        a.mov(eax, 12)?;
        a.mov(ebx, 0x5000)?;
        a.mov(ecx, 3)?;
        a.mov(edx, 0x10)?;
        a.mov(esi, 0x77)?;
        a.vmcall()?;
        a.mov(edi, eax)?;
        a.mov(eax, 12)?;
        a.vmcall()?;
        a.hlt()
    });
    let exit = guest.run_for(Duration::from_millis(200), VmEntry::Resume);
    if matches!(exit, VmExit::Cancelled) && guest.registers().rdi == 0 {
        return skip("hypercalls", "this KVM emulates ring 0 and executes VMCALL again and again");
    }
    let VmExit::Hypercall { func, args } = exit else { panic!("expected a hypercall, got {exit:?}") };
    assert_eq!((func, args), (12, [0x5000, 3, 0x10, 0, 0, 0]));
    assert_eq!(guest.vcpu.run(VmEntry::Msr(1)).unwrap_err().code(), ErrorCode::BadEntry);
    assert!(matches!(guest.run(VmEntry::Hypercall(0x1234)), VmExit::Hypercall { .. }));
    assert_eq!(guest.registers().rdi, 0x1234);
    assert_hlt(&guest.resume());
    assert_eq!(guest.registers().rax as i64, -1000, "an unanswered one does not exist");
}

#[test]
fn an_internal_error_says_what_and_where() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.nop()?;
        a.pxor(xmm0, xmm0)?;
        a.hlt()
    });
    match guest.resume() {
        VmExit::InternalError(text) => {
            assert!(text.contains("suberror 1") && text.contains("rip 0x10001"), "{text}");
            assert!(text.contains("66, 0f, ef, c0"), "{text}");
        }
        VmExit::Hlt => skip("the internal error", "this KVM runs SSE instructions"),
        other => panic!("expected an internal error, got {other:?}"),
    }
}
