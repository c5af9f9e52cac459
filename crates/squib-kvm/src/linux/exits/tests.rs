//! Every exit reason, from pages filled in as the kernel fills them.

use super::*;
use squib_core::ExitData;

/// Decodes a page with this exit.
fn decoded(reason: u32, fill: impl FnOnce(&mut kvm_run__bindgen_ty_1)) -> (VmExit, Pending) {
    let mut page = RunPage::blank();
    page.exit(reason, fill);
    decoded_at(&page, 0xabcd)
}

fn decoded_at(page: &RunPage, rip: u64) -> (VmExit, Pending) {
    let mut pending = Pending::Nothing;
    let exit = access(page, &mut pending);
    (exit.unwrap_or_else(|| other(page, &mut pending, || rip)), pending)
}

fn exit(reason: u32, fill: impl FnOnce(&mut kvm_run__bindgen_ty_1)) -> VmExit {
    decoded(reason, fill).0
}

fn io(write: bool, size: u8, count: u32, data_offset: u64) -> kvm_run__bindgen_ty_1__bindgen_ty_4 {
    kvm_run__bindgen_ty_1__bindgen_ty_4 { direction: write.into(), size, port: 0x3f8, count, data_offset }
}

#[test]
fn port_data_outside_of_the_page_is_refused() {
    for (size, count, offset) in [
        (1, 1, 3 * 4096),
        (4, 1, 3 * 4096 - 3),
        (4, u32::MAX, 4096),
        (1, 1, u64::MAX),
        (3, 1, 4096),
        (0, 1, 4096),
        (1, 0, 4096),
    ] {
        for write in [false, true] {
            let (exit, pending) = decoded(KVM_EXIT_IO, |u| u.io = io(write, size, count, offset));
            assert!(matches!(exit, VmExit::InternalError(_)), "{size} {count} {offset:#x}: {exit:?}");
            assert_eq!(pending, Pending::Nothing);
        }
    }
    assert!(matches!(exit(KVM_EXIT_IO, |u| u.io = io(true, 4, 1, 3 * 4096 - 4)), VmExit::Pio { .. }));
}

#[test]
fn data_may_end_with_the_page() {
    let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
    for size in 1..=8 {
        let (mut page, end) = (RunPage::blank(), 3 * 4096);
        page.set_data(end - size, &bytes[..size]);
        let expected = bytes[..size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        assert_eq!(page.data(end - size, size), expected);
        assert_eq!(page.data(end - size - 1, 1), 0, "what is before is as it was");
        assert_eq!(page.data(end - size + 1, size), 0, "it would be longer than the page");
    }
}

#[test]
fn a_string_write_is_taken_apart() {
    let mut page = RunPage::blank();
    page.exit(KVM_EXIT_IO, |u| u.io = io(true, 2, 3, 4096));
    page.set_data(4096, &[1, 2, 3, 4, 5, 6]);
    let (mut exit, mut pending) = decoded_at(&page, 0);
    for element in [[1, 2], [3, 4], [5, 6]] {
        let VmExit::Pio { port: 0x3f8, write: true, data } = exit else { panic!("{exit:?}") };
        assert_eq!(data[..], element);
        pending.answer(&mut page, VmEntry::Resume).unwrap();
        exit = pending.next_element(&page).unwrap_or(VmExit::Completed);
    }
    assert!(matches!(exit, VmExit::Completed));
}

#[test]
fn a_string_read_collects_its_answers() {
    let mut page = RunPage::blank();
    page.exit(KVM_EXIT_IO, |u| u.io = io(false, 1, 3, 4096));
    let (_, mut pending) = decoded_at(&page, 0);
    let answers = [
        VmEntry::Read(ExitData::from_slice(&[7])),
        VmEntry::Resume,
        VmEntry::Complete(Some(ExitData::from_slice(&[9]))),
    ];
    for (n, entry) in answers.iter().enumerate() {
        let long = VmEntry::Read(ExitData::from_slice(&[1, 2]));
        assert_eq!(pending.answer(&mut page, long).unwrap_err().code(), ErrorCode::BadEntry);
        pending.answer(&mut page, entry.clone()).unwrap();
        assert_eq!(pending.next_element(&page).is_some(), n < 2);
    }
    assert_eq!(page.data(4096, 4), 0x0009_ff07);
}

#[test]
fn memory_mapped_accesses() {
    let mmio = |is_write, len| kvm_run__bindgen_ty_1__bindgen_ty_6 {
        phys_addr: 0xd000_0000,
        data: [1, 2, 3, 4, 5, 6, 7, 8],
        len,
        is_write,
    };
    for len in 1..=8 {
        let width = len as usize;
        let mut page = RunPage::blank();
        page.exit(KVM_EXIT_MMIO, |u| u.mmio = mmio(1, len));
        let (exit, pending) = decoded_at(&page, 0);
        let VmExit::Mmio { addr: 0xd000_0000, write: true, data } = exit else { panic!("{exit:?}") };
        assert_eq!(data[..], [1, 2, 3, 4, 5, 6, 7, 8][..width]);
        let answer = VmEntry::Read(exit_data(0x1817_1615_1413_1211, width));
        assert_eq!(pending.answer(&mut page, answer.clone()).unwrap_err().code(), ErrorCode::BadEntry);
        pending.answer(&mut page, VmEntry::Resume).unwrap();
        assert_eq!(page.mmio().data, [1, 2, 3, 4, 5, 6, 7, 8], "a write is not answered");

        page.exit(KVM_EXIT_MMIO, |u| u.mmio = mmio(0, len));
        let (exit, pending) = decoded_at(&page, 0);
        let VmExit::Mmio { write: false, data, .. } = exit else { panic!("{exit:?}") };
        assert_eq!(data[..], [0; 8][..width]);
        pending.answer(&mut page, answer.clone()).unwrap();
        let expected = [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18];
        assert_eq!(page.mmio().data[..width], expected[..width]);
        assert_eq!(page.mmio().data[width..], [1, 2, 3, 4, 5, 6, 7, 8][width..]);
        let wrong = VmEntry::Read(exit_data(0, 9 - width));
        assert_eq!(pending.answer(&mut page, wrong.clone()).unwrap_err().code(), ErrorCode::BadEntry);
        pending.answer(&mut page, VmEntry::Complete(None)).unwrap();
        assert_eq!(page.mmio().data[..width], [0xff; 8][..width]);
    }
    for len in [0, 9, u32::MAX] {
        let exit = exit(KVM_EXIT_MMIO, |u| u.mmio = mmio(0, len));
        assert!(matches!(exit, VmExit::InternalError(_)), "{len}: {exit:?}");
    }
}

#[test]
fn hypercalls() {
    let call =
        |nr| kvm_run__bindgen_ty_1__bindgen_ty_8 { nr, args: [1, 2, 3, 4, 5, 6], ..Default::default() };
    for (nr, expected) in [(12, [1, 2, 3, 0, 0, 0]), (99, [1, 2, 3, 4, 5, 6])] {
        let mut page = RunPage::blank();
        page.exit(KVM_EXIT_HYPERCALL, |u| u.hypercall = call(nr));
        let (exit, pending) = decoded_at(&page, 0);
        let VmExit::Hypercall { func, args } = exit else { panic!("{exit:?}") };
        assert_eq!((func, args), (nr, expected));
        pending.answer(&mut page, VmEntry::Hypercall(7)).unwrap();
        assert_eq!(page.hypercall().ret, 7);
        pending.answer(&mut page, VmEntry::Resume).unwrap();
        assert_eq!(page.hypercall().ret, NO_SUCH_HYPERCALL);
        let wrong = VmEntry::Read(ExitData::from_slice(&[0; 8]));
        assert_eq!(pending.answer(&mut page, wrong.clone()).unwrap_err().code(), ErrorCode::BadEntry);
    }
}

#[test]
fn model_specific_registers() {
    let msr = |reason| kvm_run__bindgen_ty_1__bindgen_ty_23 {
        error: 0,
        pad: [0; 7],
        reason,
        index: 0x1234,
        data: 0x5678,
    };
    let reasons = [
        (KVM_MSR_EXIT_REASON_UNKNOWN, MsrReason::Unknown),
        (KVM_MSR_EXIT_REASON_INVAL, MsrReason::Invalid),
        (KVM_MSR_EXIT_REASON_FILTER, MsrReason::Filter),
    ];
    for (native, portable) in reasons {
        let exit = exit(KVM_EXIT_X86_WRMSR, |u| u.msr = msr(native));
        assert!(
            matches!(exit, VmExit::MsrWrite { index: 0x1234, value: 0x5678, reason } if reason == portable),
            "{exit:?}"
        );
        let mut page = RunPage::blank();
        page.exit(KVM_EXIT_X86_RDMSR, |u| u.msr = msr(native));
        let (exit, pending) = decoded_at(&page, 0);
        assert!(matches!(exit, VmExit::MsrRead { index: 0x1234, reason } if reason == portable), "{exit:?}");
        pending.answer(&mut page, VmEntry::MsrFault).unwrap();
        assert_eq!(page.msr().error, 1);
        pending.answer(&mut page, VmEntry::Msr(3)).unwrap();
        assert_eq!((page.msr().error, page.msr().data), (0, 3));
    }
}

#[test]
fn system_events_keep_their_data() {
    let event = |kind: u32, ndata: u32| {
        exit(KVM_EXIT_SYSTEM_EVENT, |u| {
            u.system_event.type_ = kind;
            u.system_event.ndata = ndata;
            u.system_event.__bindgen_anon_1.data = std::array::from_fn(|n| n as u64);
        })
    };
    let kinds = [
        (1, SystemEventKind::Shutdown),
        (2, SystemEventKind::Reset),
        (3, SystemEventKind::Crash),
        (4, SystemEventKind::Wakeup),
        (5, SystemEventKind::Suspend),
        (6, SystemEventKind::Other(6)),
    ];
    for (native, portable) in kinds {
        let exit = event(native, 2);
        let VmExit::SystemEvent { kind, data } = exit else { panic!("{exit:?}") };
        assert_eq!((kind, &data[..]), (portable, &[0, 1][..]));
    }
    let exit = event(1, u32::MAX);
    assert!(matches!(exit, VmExit::SystemEvent { data, .. } if data.len() == 16));
}

#[test]
fn debug_exits_carry_the_address_and_the_cause() {
    #[cfg(target_arch = "x86_64")]
    let (arch, syndrome) = (
        kvm_debug_exit_arch { exception: 1, pc: 0xabcd, dr6: 0x4000, ..Default::default() },
        1 << 32 | 0x4000,
    );
    #[cfg(target_arch = "aarch64")]
    let (arch, syndrome) =
        (kvm_debug_exit_arch { hsr: 0xf200_0000, hsr_high: 1, far: 2 }, 1 << 32 | 0xf200_0000);
    let exit = exit(KVM_EXIT_DEBUG, |u| u.debug.arch = arch);
    let VmExit::Debug(info) = exit else { panic!("{exit:?}") };
    assert_eq!((info.pc, info.syndrome), (0xabcd, syndrome));
}

#[test]
fn internal_errors_say_everything_that_kvm_does() {
    let text = |suberror: u32, words: &[u64]| {
        let exit = exit(KVM_EXIT_INTERNAL_ERROR, |u| {
            let mut data = [0; 16];
            data[..words.len().min(16)].copy_from_slice(&words[..words.len().min(16)]);
            u.internal = Internal { suberror, ndata: words.len() as u32, data };
        });
        let VmExit::InternalError(text) = exit else { panic!("{exit:?}") };
        text
    };
    assert_eq!(
        text(2, &[0x80000b0e, 0x31]),
        "KVM internal error, suberror 2: an exception arose while another was delivered, at rip 0xabcd, \
         data [80000b0e, 31]"
    );
    // Flag 1: three bytes of an instruction follow, their number first.
    let bytes = text(1, &[1, 0x0058_44ae_0f03, 0]);
    assert!(bytes.contains("suberror 1") && bytes.contains("instruction bytes [0f, ae, 44]"), "{bytes}");
    assert!(text(1, &[1, u64::MAX, u64::MAX]).contains("ff, ff"), "a wild length is cut off");
    assert!(!text(1, &[0, 3, 0]).contains("bytes"));
    assert!(!text(1, &[]).contains("data"));
    assert!(text(77, &[5; 30]).contains("suberror 77"), "a wild count is cut off");
}

#[test]
fn the_plain_ones() {
    assert!(matches!(exit(KVM_EXIT_HLT, |_| {}), VmExit::Hlt));
    assert!(matches!(exit(KVM_EXIT_IRQ_WINDOW_OPEN, |_| {}), VmExit::InterruptWindow));
    assert!(matches!(exit(KVM_EXIT_SHUTDOWN, |_| {}), VmExit::TripleFault));
    assert!(matches!(exit(KVM_EXIT_DIRTY_RING_FULL, |_| {}), VmExit::DirtyRingFull));
    assert!(matches!(exit(KVM_EXIT_IOAPIC_EOI, |u| u.eoi.vector = 0x41), VmExit::Eoi { vector: 0x41 }));
    let fail = exit(KVM_EXIT_FAIL_ENTRY, |u| {
        u.fail_entry =
            kvm_run__bindgen_ty_1__bindgen_ty_2 { hardware_entry_failure_reason: 0x8000_0021, cpu: 3 };
    });
    assert!(matches!(fail, VmExit::FailedEntry { reason: 0x8000_0021, cpu: 3 }), "{fail:?}");
    let fault = exit(KVM_EXIT_MEMORY_FAULT, |u| {
        u.memory_fault = kvm_run__bindgen_ty_1__bindgen_ty_27 { flags: 8, gpa: 0x1000, size: 0x2000 };
    });
    assert!(matches!(fault, VmExit::MemoryFault { addr: 0x1000, size: 0x2000, flags: 8 }), "{fault:?}");
    let undescribed = exit(KVM_EXIT_ARM_NISV, |u| {
        u.arm_nisv = kvm_run__bindgen_ty_1__bindgen_ty_22 { esr_iss: 0x47, fault_ipa: 0x1000 };
    });
    // A write, a translation fault at level 3, and a data abort by an instruction of 32 bits.
    assert!(
        matches!(undescribed, VmExit::MemoryFault { addr: 0x1000, size: 0, flags: 0x9200_0047 }),
        "{undescribed:?}"
    );
    let hardware = exit(KVM_EXIT_UNKNOWN, |u| u.hw.hardware_exit_reason = 0x55);
    let VmExit::Unsupported { what, rip: 0xabcd } = hardware else { panic!("{hardware:?}") };
    assert!(what.contains("0x55"), "{what}");
}

#[test]
fn what_is_not_known_keeps_its_number() {
    // The vCPU deals with these before: they are no exits.
    const NOBODYS: [u32; 2] = [KVM_EXIT_INTR, KVM_EXIT_SET_TPR];
    const KNOWN: [u32; 17] = [
        KVM_EXIT_UNKNOWN,
        KVM_EXIT_IO,
        KVM_EXIT_HYPERCALL,
        KVM_EXIT_DEBUG,
        KVM_EXIT_HLT,
        KVM_EXIT_MMIO,
        KVM_EXIT_IRQ_WINDOW_OPEN,
        KVM_EXIT_SHUTDOWN,
        KVM_EXIT_FAIL_ENTRY,
        KVM_EXIT_INTERNAL_ERROR,
        KVM_EXIT_SYSTEM_EVENT,
        KVM_EXIT_IOAPIC_EOI,
        KVM_EXIT_X86_RDMSR,
        KVM_EXIT_X86_WRMSR,
        KVM_EXIT_DIRTY_RING_FULL,
        KVM_EXIT_MEMORY_FAULT,
        KVM_EXIT_ARM_NISV,
    ];
    for reason in (0..1000).chain([u32::MAX]).filter(|n| !KNOWN.contains(n) && !NOBODYS.contains(n)) {
        let (exit, pending) = decoded(reason, |_| {});
        assert!(matches!(exit, VmExit::Unknown { reason: number } if number == reason), "{exit:?}");
        assert_eq!(pending, Pending::Nothing);
    }
}
