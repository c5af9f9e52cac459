//! End-of-interrupt exits for an I/O APIC outside of the kernel.
//!
//! With a split irqchip KVM exits at the end of an interrupt only for vectors that it finds as
//! level-triggered in its routing table (KVM API, 7.5 `KVM_CAP_SPLIT_IRQCHIP`). An I/O APIC sends its
//! interrupts as messages, so the level-triggered ones that pass by are what belongs into that table.

/// Pins of the I/O APIC, the routes that KVM scans.
pub(super) const IOAPIC_PINS: usize = 24;

/// Message data, bit 15: level-triggered (Intel SDM vol. 3, 11.11.2).
const LEVEL_TRIGGERED: u32 = 1 << 15;

/// The messages whose ends KVM reports: the [`IOAPIC_PINS`] different ones that were sent last.
#[derive(Default)]
pub(super) struct LevelMessages {
    /// In the order in which they were last sent.
    messages: Vec<(u64, u32)>,
}

/// Whether the end of this message's interrupt must be reported.
pub(super) fn is_level_triggered(data: u32) -> bool {
    data & LEVEL_TRIGGERED != 0
}

impl LevelMessages {
    /// Adds a message, and says whether it is new.
    pub(super) fn add(&mut self, message: (u64, u32)) -> bool {
        let known = self.messages.iter().position(|known| *known == message);
        if known.is_some() || self.messages.len() == IOAPIC_PINS {
            self.messages.remove(known.unwrap_or(0));
        }
        self.messages.push(message);
        known.is_none()
    }

    /// The messages. Nobody asks for one by its number in KVM's table, so their order there may be an old one.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, (u64, u32)> {
        self.messages.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_keeps_the_newest_messages() {
        let mut table = LevelMessages::default();
        assert!((0..30).all(|n| table.add((0xfee0_0000, n))));
        assert!(!table.add((0xfee0_0000, 29)));
        assert!(table.add((0xfee0_0000, 0)), "the oldest was forgotten");
        assert_eq!(table.messages.len(), IOAPIC_PINS);
    }

    #[test]
    fn a_message_that_is_sent_again_stays() {
        let mut table = LevelMessages::default();
        let message = |n| (0xfee0_0000, n);
        for n in 0..100 {
            assert_eq!(table.add(message(1000)), n == 0, "after {n} others");
            assert!(table.add(message(n)));
        }
    }

    #[test]
    fn trigger_mode_is_bit_15() {
        assert!(is_level_triggered(0x8041) && !is_level_triggered(0x4041));
    }
}
