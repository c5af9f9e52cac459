//! Tests of the local APIC.

use super::*;
use proptest::prelude::*;

const TPR: u64 = 0x80;
const EOI: u64 = 0xb0;
const SVR: u64 = 0xf0;
const ESR: u64 = 0x280;
const ICR_LOW: u64 = 0x300;
const LVT_TIMER_OFFSET: u64 = 0x320;
const LVT_LINT0_OFFSET: u64 = 0x350;
const LVT_ERROR_OFFSET: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;

fn enabled() -> LocalApic {
    let mut a = LocalApic::new(3, false);
    write(&mut a, SVR, 0x1ff);
    a
}

fn x2apic() -> LocalApic {
    let mut a = LocalApic::new(0x25, false);
    a.set_base(DEFAULT_BASE | BASE_ENABLE | BASE_X2APIC).unwrap();
    a.msr_write(0x80f, 0x1ff, 0).unwrap();
    a
}

fn write(a: &mut LocalApic, offset: u64, value: u32) -> Option<Effect> {
    a.mmio_write(offset, &value.to_le_bytes(), 0)
}

fn read_at(a: &mut LocalApic, offset: u64, now_ns: u64) -> u32 {
    let mut data = [0; 4];
    a.mmio_read(offset, &mut data, now_ns);
    u32::from_le_bytes(data)
}

fn read(a: &mut LocalApic, offset: u64) -> u32 {
    read_at(a, offset, 0)
}

fn edge(a: &mut LocalApic, vector: u8) -> bool {
    a.deliver(DeliveryMode::Fixed, vector, TriggerMode::Edge)
}

#[test]
fn reset_state() {
    let mut a = LocalApic::new(3, true);
    assert_eq!(a.base(), 0xfee0_0900);
    let expected = [
        (0x20, 0x0300_0000),
        (0x30, 0x0105_0014),
        (0x80, 0),
        (0xd0, 0),
        (0xe0, u32::MAX),
        (0xf0, 0xff),
        (0x280, 0),
        (0x320, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (0x350, 0x1_0000),
        (0x360, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x3e0, 0),
    ];
    for (offset, value) in expected {
        assert_eq!(read(&mut a, offset), value, "{offset:#x}");
    }
    assert_eq!(a.acknowledge(), 0xff, "nothing is pending: the spurious vector");
}

#[test]
fn priorities() {
    let mut a = enabled();
    assert!(edge(&mut a, 0x51));
    assert!(edge(&mut a, 0x62));
    assert_eq!(a.pending_vector(), Some(0x62));
    assert_eq!(a.acknowledge(), 0x62);
    assert_eq!(read(&mut a, 0xa0), 0x60, "PPR");
    assert_eq!(a.pending_vector(), None);
    edge(&mut a, 0x6f);
    assert_eq!(a.pending_vector(), None, "the same class waits");
    edge(&mut a, 0x70);
    assert_eq!(a.acknowledge(), 0x70);
    assert_eq!(
        (read(&mut a, 0x130), read(&mut a, 0x220)),
        (1 << 2 | 1 << 16, 1 << 17),
        "ISR 0x62 and 0x70, IRR 0x51"
    );
    assert_eq!(write(&mut a, EOI, 0), None);
    write(&mut a, EOI, 0);
    write(&mut a, TPR, 0x65);
    assert_eq!((a.pending_vector(), a.cr8()), (None, 6));
    a.set_cr8(5);
    assert_eq!((a.pending_vector(), read(&mut a, TPR)), (Some(0x6f), 0x50));
    a.acknowledge();
    write(&mut a, EOI, 0);
    assert_eq!(a.pending_vector(), None, "0x51 is not above class 5");
    a.set_cr8(4);
    assert_eq!(a.pending_vector(), Some(0x51));
}

#[test]
fn a_level_interrupt_reports_its_end() {
    let mut a = enabled();
    a.deliver(DeliveryMode::Fixed, 0x80, TriggerMode::Level);
    assert_eq!(read(&mut a, 0x1c0), 1, "TMR");
    a.acknowledge();
    assert_eq!(write(&mut a, EOI, 0), Some(Effect::Eoi(0x80)));
    assert_eq!(write(&mut a, EOI, 0), None);
    edge(&mut a, 0x80);
    assert_eq!(read(&mut a, 0x1c0), 0);
    write(&mut a, SVR, 0x11ff);
    a.deliver(DeliveryMode::Fixed, 0x90, TriggerMode::Level);
    a.acknowledge();
    assert_eq!(write(&mut a, EOI, 0), None, "directed EOI: software tells the I/O APIC");
}

#[test]
fn software_disable_masks_and_refuses_but_keeps_nmi_and_start_up() {
    let mut a = enabled();
    write(&mut a, LVT_LINT0_OFFSET, 0x700);
    edge(&mut a, 0x40);
    write(&mut a, SVR, 0xff);
    assert_eq!(read(&mut a, LVT_LINT0_OFFSET), 0x1_0700);
    write(&mut a, LVT_LINT0_OFFSET, 0x700);
    assert_eq!(read(&mut a, LVT_LINT0_OFFSET), 0x1_0700, "stays masked");
    assert!(!edge(&mut a, 0x41));
    assert_eq!(a.pending_vector(), Some(0x40), "what was pending is held");
    assert!(a.deliver(DeliveryMode::Nmi, 0, TriggerMode::Edge));
    assert!(a.deliver(DeliveryMode::StartUp, 8, TriggerMode::Edge));
    assert_eq!(a.take_signal(), Some(Signal::StartUp(8)));
    assert_eq!(a.take_signal(), Some(Signal::Nmi));
    assert_eq!(a.arbitration_priority(), None);
}

#[test]
fn errors_accumulate_until_the_status_register_is_written() {
    let mut a = enabled();
    write(&mut a, LVT_ERROR_OFFSET, 0xfe);
    assert!(!edge(&mut a, 0x0f));
    assert_eq!(a.acknowledge(), 0xfe);
    write(&mut a, EOI, 0);
    assert_eq!(write(&mut a, ICR_LOW, 0x0004_4005), None, "send illegal vector");
    assert_eq!(a.acknowledge(), 0xfe);
    write(&mut a, EOI, 0);
    read(&mut a, 0x40);
    assert_eq!(read(&mut a, ESR), 0);
    write(&mut a, ESR, 0);
    assert_eq!(read(&mut a, ESR), 0xe0);
    write(&mut a, ESR, 0);
    assert_eq!(read(&mut a, ESR), 0);
    write(&mut a, LVT_ERROR_OFFSET, 5);
    edge(&mut a, 1);
    write(&mut a, ESR, 0);
    assert_eq!(read(&mut a, ESR), 0x40, "an illegal vector for errors does not recurse");
}

#[test]
fn logical_destinations() {
    let mut a = enabled();
    let hits = |a: &LocalApic, id| a.is_addressed_by(Destination::from_xapic(id, true));
    write(&mut a, 0xd0, 0x2400_0000);
    assert!(hits(&a, 0x04) && hits(&a, 0x20) && hits(&a, 0xff) && !hits(&a, 0x08));
    write(&mut a, 0xe0, 0);
    assert_eq!(read(&mut a, 0xe0), 0x0fff_ffff);
    assert!(hits(&a, 0x24) && hits(&a, 0xf4) && hits(&a, 0xff));
    assert!(!hits(&a, 0x34) && !hits(&a, 0x28) && !hits(&a, 0xf8));
    assert!(a.is_addressed_by(Destination::from_xapic(3, false)));
    assert!(!a.is_addressed_by(Destination::from_xapic(4, false)));
    let x = x2apic();
    let hits = |id| x.is_addressed_by(Destination::from_x2apic(id, true));
    assert!(hits(0x0002_0020) && hits(u32::MAX) && !hits(0x0002_0010) && !hits(0x0001_0020));
}

#[test]
fn ipi_messages() {
    let mut a = enabled();
    let fixed = |destination, except_self| {
        let message = InterruptMessage {
            destination,
            delivery: DeliveryMode::Fixed,
            vector: 0x99,
            trigger: TriggerMode::Edge,
        };
        Some(Effect::Send { message, except_self })
    };
    write(&mut a, 0x310, 0x0500_0000);
    assert_eq!(write(&mut a, ICR_LOW, 0xc099), fixed(Destination::Physical(5), false));
    assert_eq!(write(&mut a, ICR_LOW, 0x4899), fixed(Destination::Logical(5), false));
    assert_eq!(write(&mut a, ICR_LOW, 0x8_4099), fixed(Destination::All, false));
    assert_eq!(write(&mut a, ICR_LOW, 0xc_4099), fixed(Destination::All, true));
    assert_eq!(write(&mut a, ICR_LOW, 0x4_4099), None);
    assert_eq!(a.acknowledge(), 0x99);
    assert_eq!(read(&mut a, ICR_LOW), 0x4_4099);
    assert_eq!(write(&mut a, ICR_LOW, 0x4399), None, "reserved delivery mode");
    assert_eq!(write(&mut a, ICR_LOW, 0x8500), None, "INIT level de-assert");
}

#[test]
fn base_transitions() {
    const X2: u64 = DEFAULT_BASE | BASE_ENABLE | BASE_X2APIC;
    const X: u64 = DEFAULT_BASE | BASE_ENABLE;
    let mut a = enabled();
    write(&mut a, TPR, 0x30);
    assert_eq!(a.set_base(DEFAULT_BASE | BASE_X2APIC), Err(GeneralProtection));
    assert_eq!(a.set_base(X | 1), Err(GeneralProtection));
    assert_eq!(a.set_base(X | 1 << 52), Err(GeneralProtection));
    assert_eq!(a.set_base(X2), Ok(()));
    assert_eq!((a.msr_read(0x808, 0), a.mmio_base()), (Ok(0x30), None));
    assert_eq!(a.set_base(X), Err(GeneralProtection));
    assert_eq!(a.set_base(DEFAULT_BASE), Ok(()));
    assert!(!edge(&mut a, 0x40), "disabled");
    assert_eq!(read(&mut a, 0x20), u32::MAX);
    assert_eq!(a.set_base(X2), Err(GeneralProtection));
    assert_eq!(a.set_base(0x1234_5000 | BASE_ENABLE), Ok(()));
    assert_eq!((a.mmio_base(), read(&mut a, TPR)), (Some(0x1234_5000), 0), "reset on the way");
}

#[test]
fn x2apic_registers() {
    let mut a = x2apic();
    assert_eq!((a.msr_read(0x802, 0), a.msr_read(0x80d, 0)), (Ok(0x25), Ok(0x0002_0020)));
    for index in [0x800, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x840, 0x8ff] {
        assert_eq!(a.msr_read(index, 0), Err(GeneralProtection), "{index:#x}");
    }
    for index in [0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x831, 0x839, 0x840] {
        assert_eq!(a.msr_write(index, 0, 0), Err(GeneralProtection), "{index:#x}");
    }
    for (index, value) in
        [(0x808, 0x100), (0x80b, 1), (0x828, 1), (0x80f, 0x1_0000), (0x838, 1 << 32), (0x83e, 4)]
    {
        assert_eq!(a.msr_write(index, value, 0), Err(GeneralProtection), "{index:#x}");
    }
    assert_eq!(a.msr_write(0x83f, 0x77, 0), Ok(None));
    assert_eq!(a.acknowledge(), 0x77);
    let icr = 0x0003_0001_0000_4899;
    let sent = a.msr_write(0x830, icr, 0).unwrap();
    assert!(
        matches!(sent, Some(Effect::Send { message, .. }) if message.destination == Destination::Logical(0x3_0001))
    );
    assert_eq!(a.msr_read(0x830, 0), Ok(icr));
    assert_eq!(enabled().msr_read(0x802, 0), Err(GeneralProtection));
}

#[test]
fn local_pins() {
    let mut a = enabled();
    write(&mut a, LVT_LINT0_OFFSET, 0x8047);
    a.set_lint(Lint::Lint0, true);
    assert_eq!(read(&mut a, LVT_LINT0_OFFSET), 0xc047, "remote IRR");
    assert_eq!(a.acknowledge(), 0x47);
    write(&mut a, EOI, 0);
    assert_eq!(a.acknowledge(), 0x47, "still asserted");
    a.set_lint(Lint::Lint0, false);
    write(&mut a, EOI, 0);
    assert_eq!((a.pending_vector(), read(&mut a, LVT_LINT0_OFFSET)), (None, 0x8047));
    write(&mut a, LVT_LINT0_OFFSET, 0x0048);
    a.set_lint(Lint::Lint0, true);
    a.set_lint(Lint::Lint0, true);
    assert_eq!(a.acknowledge(), 0x48);
    write(&mut a, EOI, 0);
    assert_eq!(a.pending_vector(), None, "one edge");
    write(&mut a, 0x360, 0x400);
    a.set_lint(Lint::Lint1, true);
    assert_eq!(a.take_signal(), Some(Signal::Nmi));
    write(&mut a, LVT_LINT0_OFFSET, 0x700);
    assert!(a.ext_int_pending());
    a.set_lint(Lint::Lint0, false);
    assert!(!a.ext_int_pending());
    a.deliver(DeliveryMode::ExtInt, 0, TriggerMode::Edge);
    assert!(a.ext_int_pending());
    a.acknowledge_ext_int();
    assert!(!a.ext_int_pending());
}

#[test]
fn without_an_apic_the_pins_are_intr_and_nmi() {
    let mut a = LocalApic::new(0, true);
    a.set_base(DEFAULT_BASE).unwrap();
    a.set_lint(Lint::Lint0, true);
    assert!(a.ext_int_pending());
    a.set_lint(Lint::Lint1, true);
    assert_eq!(a.take_signal(), Some(Signal::Nmi));
}

#[test]
fn timer_interrupts_unless_masked() {
    let mut a = enabled();
    write(&mut a, 0x3e0, 0xb);
    write(&mut a, LVT_TIMER_OFFSET, 0x2_0040);
    write(&mut a, INITIAL_COUNT, 1000);
    assert_eq!((read_at(&mut a, 0x390, 250), a.next_deadline()), (750, Some(1000)));
    assert!(a.advance(1000));
    assert_eq!(a.acknowledge(), 0x40);
    write(&mut a, LVT_TIMER_OFFSET, 0x3_0040);
    assert_eq!(a.next_deadline(), None, "nobody would hear it");
    assert!(!a.advance(5500));
    a.mmio_write(LVT_TIMER_OFFSET, &0x2_0040_u32.to_le_bytes(), 5500);
    assert_eq!(a.next_deadline(), Some(6000), "the phase is kept");
}

#[test]
fn widths_and_offsets() {
    let mut a = enabled();
    let mut data = [9; 16];
    a.mmio_read(0x30, &mut data, 0);
    assert_eq!(data, [0x14, 0, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    a.mmio_read(0x32, &mut data[..4], 0);
    assert_eq!(data[..4], [5, 1, 0, 0]);
    for (offset, bytes) in [(0x81, &[1_u8; 4][..]), (0x80, &[1]), (0x80, &[1; 8]), (0x80, &[])] {
        assert_eq!(a.mmio_write(offset, bytes, 0), None);
    }
    assert_eq!(read(&mut a, TPR), 0);
}

#[test]
fn init_keeps_the_base_and_what_came_after_it() {
    let mut a = x2apic();
    a.deliver(DeliveryMode::Nmi, 0, TriggerMode::Edge);
    a.deliver(DeliveryMode::Init, 0, TriggerMode::Edge);
    a.deliver(DeliveryMode::StartUp, 0x9a, TriggerMode::Edge);
    assert_eq!(a.take_signal(), Some(Signal::Init));
    a.init();
    assert_eq!((a.msr_read(0x80f, 0), a.base() & BASE_X2APIC), (Ok(0xff), BASE_X2APIC));
    assert_eq!((a.take_signal(), a.take_signal()), (Some(Signal::StartUp(0x9a)), None));
}

proptest! {
    /// Whatever is delivered comes out once, highest class first, and the priority rule always holds.
    #[test]
    fn every_interrupt_is_taken_once(vectors in prop::collection::vec(16..=255_u8, 0..60), tpr in 0..16_u8) {
        let mut a = enabled();
        a.set_cr8(tpr);
        for vector in &vectors {
            prop_assert!(edge(&mut a, *vector));
        }
        let mut expected: Vec<u8> = vectors;
        expected.sort_unstable();
        expected.dedup();
        let (held, mut taken): (Vec<u8>, Vec<u8>) = expected.iter().partition(|v| **v >> 4 <= tpr);
        taken.reverse();
        for vector in taken {
            prop_assert_eq!(a.pending_vector(), Some(vector));
            prop_assert_eq!(a.acknowledge(), vector);
            prop_assert!(a.pending_vector().is_none());
            write(&mut a, EOI, 0);
        }
        prop_assert_eq!(a.pending_vector(), None);
        a.set_cr8(0);
        prop_assert_eq!(a.pending_vector(), held.iter().max().copied());
    }
}
