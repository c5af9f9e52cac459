//! I/O APIC with 24 pins (Intel 82093AA data sheet; the EOI register and version 0x20 as in the ICH data sheets,
//! "I/O APIC registers").
//!
//! Lines are logical: `true` is "asserted", whatever polarity the guest has programmed. The polarity bit can be written and read back.

use crate::bytes;
use crate::message::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

/// Where the registers are, by convention (MP specification 1.4, 3.6.5).
pub const DEFAULT_BASE: u64 = 0xfec0_0000;
/// Bytes of the register window.
pub const MMIO_SIZE: u64 = 0x1000;
/// Number of interrupt inputs.
pub const PINS: u32 = 24;

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

    /// Drives input `pin`; pins that do not exist are ignored. An edge on a masked pin is lost (82093AA, 3.2.4, bit 16).
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

    /// A local APIC has ended the level-triggered interrupt `vector`. A line that is still asserted interrupts again.
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
        // The other modes have no EOI, so they are edge-triggered whatever the entry says (82093AA, 3.2.4, bits 10:8).
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

    /// Writes at `offset` of the register window. The selector and the EOI register take any width, the data window
    /// 32 bits or more; other writes are ignored.
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
