//! The bus against a model that keeps every address in a plain list.

mod support;

use std::sync::Arc;

use proptest::prelude::*;
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

#[derive(Debug, Clone)]
enum Step {
    Map(u64, u64),
    Unmap(usize),
    Find(u64, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Close together and at both ends of the address space, so that steps meet.
    let addr = || prop_oneof![0..64_u64, (u64::MAX - 32)..=u64::MAX, any::<u64>()];
    let step = prop_oneof![
        (addr(), prop_oneof![0..20_u64, any::<u64>()]).prop_map(|(base, len)| Step::Map(base, len)),
        (0..8_usize).prop_map(Step::Unmap),
        (addr(), 0..=9_u8).prop_map(|(addr, width)| Step::Find(addr, width)),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn agrees_with_a_plain_list(steps in steps()) {
        let bus = Bus::memory();
        let mut lookup = bus.lookup();
        // Ranges as (base, one past the end), wide enough not to overflow.
        let mut model: Vec<(u128, u128, u32)> = vec![];
        for (id, step) in (0..).zip(steps) {
            match step {
                Step::Map(base, len) => {
                    let (start, end) = (u128::from(base), u128::from(base) + u128::from(len));
                    let fits = len != 0 && end <= 1 << 64 && model.iter().all(|m| end <= m.0 || start >= m.1);
                    prop_assert_eq!(bus.map("x", base, len, external(id)).is_ok(), fits);
                    if fits {
                        model.push((start, end, id));
                    }
                }
                Step::Unmap(n) if n < model.len() => {
                    let (start, ..) = model.swap_remove(n);
                    bus.unmap(start as u64).unwrap();
                }
                Step::Unmap(_) => {}
                Step::Find(addr, width) => {
                    let (start, end) = (u128::from(addr), u128::from(addr) + u128::from(width));
                    let owner = model.iter().find(|m| width != 0 && start >= m.0 && end <= m.1);
                    let expected = owner.map(|m| (m.2, (start - m.0) as u64));
                    let found = lookup.find(addr, width).map(|(m, at)| match m.target() {
                        Target::External(id) => (*id, at),
                        _ => unreachable!("only external devices are mapped here"),
                    });
                    prop_assert_eq!(found, expected);
                }
            }
            let mappings = bus.mappings();
            prop_assert!(mappings.windows(2).all(|w| w[0].last() < w[1].base()));
            prop_assert_eq!(mappings.len(), model.len());
        }
    }
}
