//! I/O APIC with 24 pins (Intel 82093AA data sheet; the EOI register and version 0x20 as in the ICH data
//! sheets, "I/O APIC registers").
//!
//! Lines are logical: `true` is "asserted", whatever polarity the guest has programmed. The polarity bit can
//! be written and read back.

use squib_core::x86::irqchip::{IO_APIC, LINES};

use crate::bytes;
use crate::message::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

/// Where the registers are.
pub const DEFAULT_BASE: u64 = IO_APIC.start;
/// Bytes of the register window.
pub const MMIO_SIZE: u64 = 0x1000;
/// Number of interrupt inputs.
pub const PINS: u32 = LINES;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const INDEX_ID: u8 = 0;
const INDEX_VERSION: u8 = 1;
const INDEX_ARBITRATION: u8 = 2;
const INDEX_REDIRECTION: u8 = 0x10;
const INDEX_REDIRECTION_END: u8 = INDEX_REDIRECTION + 2 * PINS as u8 - 1;

/// Version 0x20 and the number of the last redirection entry.
const VERSION: u32 = 0x20 | (PINS - 1) << 16;

/// Redirection entry, low half.
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// All but delivery status and remote IRR.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// An I/O APIC. Messages go to a sink, which says whether a local APIC has accepted them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ioapic {
    id: u32,
    select: u8,
    /// Asserted lines, a bit for each pin.
    lines: u32,
    redirection: [u64; PINS as usize],
}

impl Default for Ioapic {
    fn default() -> Self {
        Self { id: 0, select: 0, lines: 0, redirection: [MASKED; PINS as usize] }
    }
}

impl Ioapic {
    /// Power-up reset. The levels of the lines, which others drive, stay.
    pub fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::default() };
    }

    /// Drives input `pin`; pins that do not exist are ignored. An edge on a masked pin is lost (82093AA,
    /// 3.2.4, bit 16).
    pub fn set_line(&mut self, pin: u32, asserted: bool, sink: &mut impl FnMut(InterruptMessage) -> bool) {
        if pin >= PINS {
            return;
        }
        let before = self.lines;
        self.lines = before & !(1 << pin) | u32::from(asserted) << pin;
        let is_level = self.redirection[pin as usize] & LEVEL != 0;
        if asserted && (is_level || before >> pin & 1 == 0) {
            self.send(pin as usize, sink);
        }
    }

    /// Whether an interrupt on `pin` would go nowhere.
    pub fn is_masked(&self, pin: u32) -> bool {
        self.redirection.get(pin as usize).is_none_or(|entry| entry & MASKED != 0)
    }

    /// A local APIC has ended the level-triggered interrupt `vector`. A line that is still asserted
    /// interrupts again.
    pub fn end_of_interrupt(&mut self, vector: u8, sink: &mut impl FnMut(InterruptMessage) -> bool) {
        for pin in 0..self.redirection.len() {
            let entry = &mut self.redirection[pin];
            if *entry & REMOTE_IRR != 0 && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.send_if_level(pin, sink);
            }
        }
    }

    fn send_if_level(&mut self, pin: usize, sink: &mut impl FnMut(InterruptMessage) -> bool) {
        if self.lines >> pin & 1 != 0 && self.redirection[pin] & LEVEL != 0 {
            self.send(pin, sink);
        }
    }

    fn send(&mut self, pin: usize, sink: &mut impl FnMut(InterruptMessage) -> bool) {
        let entry = self.redirection[pin];
        if entry & (MASKED | REMOTE_IRR) != 0 {
            return;
        }
        let Some(delivery) = DeliveryMode::from_bits((entry >> 8) as u32) else { return };
        // The other modes have no EOI, so they are edge-triggered whatever the entry says (82093AA, 3.2.4,
        // bits 10:8).
        let has_eoi = matches!(delivery, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        let trigger = TriggerMode::from_level(has_eoi && entry & LEVEL != 0);
        let accepted = sink(InterruptMessage {
            destination: Destination::from_xapic((entry >> 56) as u8, entry & LOGICAL != 0),
            delivery,
            vector: entry as u8,
            trigger,
        });
        if accepted && trigger == TriggerMode::Level {
            self.redirection[pin] |= REMOTE_IRR;
        }
    }

    /// Reads at `offset` of the register window, any width. What is no register reads as zero.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset & !3 {
            SELECT => u32::from(self.select),
            WINDOW => self.indexed(),
            _ => 0,
        };
        bytes::put(data, u64::from(value >> (offset % 4 * 8)));
    }

    /// Writes at `offset` of the register window. The selector and the EOI register take any width, the data
    /// window 32 bits or more; other writes are ignored.
    pub fn mmio_write(&mut self, offset: u64, data: &[u8], sink: &mut impl FnMut(InterruptMessage) -> bool) {
        let mut value = [0; 4];
        bytes::copy_prefix(&mut value, data);
        match offset {
            SELECT => self.select = value[0],
            WINDOW if data.len() >= 4 => self.set_indexed(u32::from_le_bytes(value), sink),
            EOI => self.end_of_interrupt(value[0], sink),
            _ => {}
        }
    }

    fn indexed(&self) -> u32 {
        match self.select {
            INDEX_ID | INDEX_ARBITRATION => self.id << 24,
            INDEX_VERSION => VERSION,
            INDEX_REDIRECTION..=INDEX_REDIRECTION_END => {
                let index = self.select - INDEX_REDIRECTION;
                (self.redirection[usize::from(index / 2)] >> (index % 2 * 32)) as u32
            }
            _ => 0,
        }
    }

    fn set_indexed(&mut self, value: u32, sink: &mut impl FnMut(InterruptMessage) -> bool) {
        match self.select {
            INDEX_ID => self.id = value >> 24 & 0xf,
            INDEX_REDIRECTION..=INDEX_REDIRECTION_END => {
                let index = self.select - INDEX_REDIRECTION;
                let (pin, shift) = (usize::from(index / 2), index % 2 * 32);
                let entry = &mut self.redirection[pin];
                let half = u64::from(u32::MAX) << shift & WRITABLE;
                *entry = *entry & !half | u64::from(value) << shift & half;
                // Operating systems make an entry edge-triggered to clear a stuck remote IRR.
                if *entry & LEVEL == 0 {
                    *entry &= !REMOTE_IRR;
                }
                self.send_if_level(pin, sink);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Rig {
        ioapic: Ioapic,
        sent: Vec<InterruptMessage>,
        refuse: bool,
    }

    impl Rig {
        fn write(&mut self, offset: u64, data: &[u8]) {
            let (sent, accepts) = (&mut self.sent, !self.refuse);
            self.ioapic.mmio_write(offset, data, &mut |message| {
                sent.push(message);
                accepts
            });
        }

        fn set(&mut self, index: u8, value: u32) {
            self.write(SELECT, &[index]);
            self.write(WINDOW, &value.to_le_bytes());
        }

        fn get(&mut self, index: u8) -> u32 {
            self.write(SELECT, &[index]);
            let mut data = [0; 4];
            self.ioapic.mmio_read(WINDOW, &mut data);
            u32::from_le_bytes(data)
        }

        fn redirect(&mut self, pin: u8, entry: u32) {
            self.set(0x10 + 2 * pin, entry);
        }

        fn line(&mut self, pin: u32, asserted: bool) {
            let (sent, accepts) = (&mut self.sent, !self.refuse);
            self.ioapic.set_line(pin, asserted, &mut |message| {
                sent.push(message);
                accepts
            });
        }

        fn eoi(&mut self, vector: u8) {
            self.write(EOI, &[vector, 0, 0, 0]);
        }

        /// Vectors sent since the last call.
        fn vectors(&mut self) -> Vec<u8> {
            std::mem::take(&mut self.sent).iter().map(|m| m.vector).collect()
        }
    }

    #[test]
    fn registers() {
        let mut rig = Rig::default();
        assert_eq!(rig.get(INDEX_VERSION), 0x0017_0020);
        rig.set(INDEX_ID, 0xff00_0000);
        assert_eq!((rig.get(INDEX_ID), rig.get(INDEX_ARBITRATION)), (0x0f00_0000, 0x0f00_0000));
        for pin in 0..24 {
            assert_eq!(rig.get(0x10 + 2 * pin), 0x1_0000);
            rig.set(0x11 + 2 * pin, u32::MAX);
            assert_eq!(rig.get(0x11 + 2 * pin), 0xff00_0000);
        }
        rig.redirect(3, u32::MAX);
        assert_eq!(rig.get(0x16), 0x1_afff, "status bits are read-only");
        for index in [3, 0xf, 0x40, 0xff] {
            rig.set(index, u32::MAX);
            assert_eq!(rig.get(index), 0);
        }
        let mut data = [9; 8];
        rig.ioapic.mmio_read(SELECT, &mut data);
        assert_eq!(data, [0xff, 0, 0, 0, 0, 0, 0, 0]);
        rig.ioapic.mmio_read(0x20, &mut data);
        assert_eq!(data, [0; 8]);
    }

    #[test]
    fn the_message_is_the_entry() {
        let mut rig = Rig::default();
        rig.set(0x11 + 2 * 5, 0x0300_0000);
        rig.redirect(5, 0x0971);
        rig.line(5, true);
        assert_eq!(
            rig.sent,
            [InterruptMessage {
                destination: Destination::Logical(3),
                delivery: DeliveryMode::LowestPriority,
                vector: 0x71,
                trigger: TriggerMode::Edge,
            }]
        );
    }

    #[test]
    fn an_edge_is_sent_once_and_lost_while_masked() {
        let mut rig = Rig::default();
        rig.line(4, true);
        rig.redirect(4, 0x41);
        assert_eq!(rig.vectors(), [], "came while masked");
        rig.line(4, true);
        assert_eq!(rig.vectors(), [], "no new edge");
        rig.line(4, false);
        rig.line(4, true);
        assert_eq!(rig.vectors(), [0x41]);
        rig.eoi(0x41);
        assert_eq!(rig.vectors(), []);
    }

    #[test]
    fn a_level_is_sent_until_it_is_served() {
        let mut rig = Rig::default();
        rig.redirect(9, 0x1_8049);
        rig.line(9, true);
        assert_eq!(rig.vectors(), []);
        rig.redirect(9, 0x8049);
        assert_eq!(rig.vectors(), [0x49], "unmasked while asserted");
        rig.line(9, true);
        assert_eq!(rig.vectors(), [], "remote IRR is set");
        rig.eoi(0x48);
        assert_eq!(rig.vectors(), []);
        rig.eoi(0x49);
        assert_eq!(rig.vectors(), [0x49]);
        rig.line(9, false);
        rig.eoi(0x49);
        assert_eq!((rig.vectors(), rig.get(0x22)), (vec![], 0x8049));
    }

    #[test]
    fn pins_that_share_a_vector_are_all_served() {
        let mut rig = Rig::default();
        for pin in [20, 21] {
            rig.redirect(pin, 0x8060);
            rig.line(pin.into(), true);
        }
        assert_eq!(rig.vectors(), [0x60, 0x60]);
        rig.line(20, false);
        rig.eoi(0x60);
        assert_eq!(rig.vectors(), [0x60]);
    }

    #[test]
    fn an_entry_that_becomes_edge_triggered_forgets_its_remote_irr() {
        let mut rig = Rig::default();
        rig.redirect(9, 0x8049);
        rig.line(9, true);
        assert_eq!(rig.get(0x22), 0xc049);
        rig.redirect(9, 0x1_0049);
        rig.redirect(9, 0x8049);
        assert_eq!(rig.vectors(), [0x49, 0x49]);
    }

    #[test]
    fn what_nobody_accepts_stays_to_be_sent() {
        let mut rig = Rig { refuse: true, ..Rig::default() };
        rig.redirect(9, 0x8049);
        rig.line(9, true);
        assert_eq!(rig.get(0x22), 0x8049);
        rig.refuse = false;
        rig.redirect(9, 0x8049);
        assert_eq!((rig.vectors(), rig.get(0x22)), (vec![0x49, 0x49], 0xc049));
    }

    #[test]
    fn a_level_nmi_has_no_remote_irr() {
        let mut rig = Rig::default();
        rig.redirect(9, 0x8400);
        rig.line(9, true);
        assert_eq!((rig.sent[0].trigger, rig.get(0x22)), (TriggerMode::Edge, 0x8400));
    }

    #[test]
    fn narrow_writes_and_missing_pins() {
        let mut rig = Rig::default();
        rig.write(SELECT, &[0x10, 0xaa]);
        rig.write(WINDOW, &[0x55, 0, 0]);
        assert_eq!(rig.get(0x10), 0x1_0000);
        rig.write(WINDOW, &[0x55, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!((rig.get(0x10), rig.get(0x11)), (0x55, 0));
        rig.write(SELECT, &[]);
        rig.line(24, true);
        rig.line(u32::MAX, true);
        assert!(rig.ioapic.is_masked(24) && !rig.ioapic.is_masked(0));
        assert_eq!(rig.vectors(), []);
    }
}
