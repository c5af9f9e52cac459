//! The bus: what it refuses, and what is seen of a change. A model checks the rest, in `fuzzing`.

mod support;

use std::sync::Arc;

use squib_core::ErrorCode;
use squib_vmm::{Action, Bus, Target};

fn external(id: u32) -> Target {
    Target::External(id)
}

#[test]
fn ranges_that_are_none_are_refused() {
    let (ports, memory) = (Bus::ports(), Bus::memory());
    for (bus, base, len) in [
        (&ports, 0, 0),
        (&ports, 0xffff, 2),
        (&ports, 0x1_0000, 1),
        (&ports, 0, u64::MAX),
        (&memory, 2, u64::MAX),
        (&memory, u64::MAX, 2),
        (&memory, u64::MAX, 0),
    ] {
        assert_eq!(bus.map("x", base, len, external(0)).unwrap_err().code(), ErrorCode::DeviceOverlap);
    }
    ports.map("last", 0xffff, 1, external(0)).unwrap();
    memory.map("last", u64::MAX, 1, external(0)).unwrap();
    assert!(memory.lookup().find(u64::MAX, 1).is_some());
    assert!(memory.lookup().find(u64::MAX, 2).is_none());
    assert!(memory.lookup().find(u64::MAX - 1, 2).is_none());
}

#[test]
fn overlap_names_both_and_changes_nothing() {
    let bus = Bus::ports();
    bus.map("uart", 0x3f8, 8, external(0)).unwrap();
    for (base, len) in [(0x3f8, 8), (0x3f0, 9), (0x3ff, 1), (0x3fa, 2), (0, 0x1_0000)] {
        let error = bus.map("mine", base, len, external(1)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeviceOverlap);
        assert!(error.message().contains("mine") && error.message().contains("uart"), "{error}");
    }
    assert_eq!(bus.mappings().len(), 1);
    bus.map("below", 0x3f0, 8, external(1)).unwrap();
    bus.map("above", 0x400, 1, external(2)).unwrap();
}

#[test]
fn reserved_ranges_take_no_device_and_stay() {
    let bus = Bus::memory();
    bus.map("RAM", 0, 0x1000, Target::Reserved).unwrap();
    assert_eq!(bus.map("mine", 0xfff, 2, external(0)).unwrap_err().code(), ErrorCode::DeviceOverlap);
    assert_eq!(bus.unmap(0).unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[test]
fn a_change_is_seen_by_the_next_access_and_the_old_device_goes_then() {
    let bus = Bus::memory();
    let device = support::Recorder::new(|| Ok(0), || Ok(Action::Continue));
    bus.map("device", 0, 8, Target::Device(device.clone())).unwrap();
    let mut lookup = bus.lookup();
    assert!(lookup.find(0, 8).is_some());
    bus.unmap(0).unwrap();
    assert_eq!(Arc::strong_count(&device), 2, "a vCPU may still be in it");
    assert!(lookup.find(0, 8).is_none());
    assert_eq!(Arc::strong_count(&device), 1);
    bus.map("other", 4, 4, external(1)).unwrap();
    assert!(lookup.find(4, 4).is_some());
    assert_eq!(bus.unmap(5).unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[test]
fn changes_and_accesses_on_several_threads_agree() {
    let bus = Bus::memory();
    bus.map("fixed", 0, 8, external(7)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                bus.map("coming and going", 16, 8, external(1)).unwrap();
                bus.unmap(16).unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut lookup = bus.lookup();
                for _ in 0..2000 {
                    assert!(lookup.find(0, 8).is_some_and(|(m, at)| m.name() == "fixed" && at == 0));
                    assert!(lookup.find(16, 8).is_none_or(|(m, _)| m.name() == "coming and going"));
                }
            });
        }
    });
    assert!(bus.lookup().find(16, 1).is_none());
}
