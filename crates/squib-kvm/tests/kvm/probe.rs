//! The probe, and its verdict.

use std::time::{Duration, Instant};

use squib_kvm::{Step, probe};

use crate::harness::backend;

#[test]
fn the_probe_is_quick_and_gives_its_reason() {
    let usable = backend().is_some();
    let start = Instant::now();
    let report = probe();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(report.opens.works(), usable);
    assert!(!report.reason.is_empty());
    if !usable {
        assert!(!report.runs_guests_at_speed);
        return;
    }
    assert_eq!(report.api_version, Some(12));
    assert!(report.capabilities.iter().any(|(name, value)| *name == "IMMEDIATE_EXIT" && *value != 0));
    assert!(report.capabilities.is_sorted(), "as `doctor` shows them: {:?}", report.capabilities);
    for told in [
        "COALESCED_MMIO",
        "COALESCED_PIO",
        "DEBUGREGS",
        "DIRTY_LOG_RING",
        "IOEVENTFD",
        "IRQFD",
        "MEMORY_FAULT_INFO",
        "MP_STATE",
        "SET_GUEST_DEBUG",
        "SYNC_REGS",
        "SYSTEM_EVENT_DATA",
        "USER_NMI",
        "X86_USER_SPACE_MSR",
    ] {
        assert!(report.capabilities.iter().any(|(name, _)| *name == told), "{told}");
    }
    assert_eq!(report.creates_vm, Step::Works);
    let [(_, real_mode), (_, long_mode), (_, sse)] = &report.programs[..] else { panic!("{report:?}") };
    assert_eq!([real_mode, long_mode], [&Step::Works; 2]);
    let mips = report.kernel_mips.expect("a speed");
    assert!(mips > 0.01, "{mips}");
    // A KVM without hardware under it interprets ring 0 and knows no SSE; one with hardware does neither.
    assert_eq!(report.runs_guests_at_speed, sse.works() && mips >= 25.0, "{report:?}");
}
