//! What travels between interrupt controllers: I/O APIC, MSI writers and local APICs speak this.

/// How a local APIC handles a message (Intel SDM vol. 3, 11.6.1, field "Delivery Mode").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DeliveryMode {
    /// The vector goes to every processor that the destination names.
    Fixed = 0,
    /// The vector goes to the one with the lowest priority among them.
    LowestPriority = 1,
    /// System management interrupt.
    Smi = 2,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// INIT: reset of the processor, which then waits for a start-up message.
    Init = 5,
    /// Start-up: the vector is the page number of the entry point.
    StartUp = 6,
    /// The 8259 supplies the vector.
    ExtInt = 7,
}

impl DeliveryMode {
    /// The mode encoded in the low three bits, as in the ICR, LVT, I/O APIC and MSI data; `None` for the
    /// reserved 3.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::StartUp),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }
}

/// Whether the end of an interrupt must be reported back to its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TriggerMode {
    /// No.
    Edge,
    /// Yes: the local APIC broadcasts the EOI.
    Level,
}

impl TriggerMode {
    /// [`TriggerMode::Level`] when `level`.
    pub const fn from_level(level: bool) -> Self {
        if level { Self::Level } else { Self::Edge }
    }
}

/// Which processors a message is for (Intel SDM vol. 3, 11.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination {
    /// All of them.
    All,
    /// The one with this APIC ID.
    Physical(u32),
    /// Those whose logical destination register matches.
    Logical(u32),
}

impl Destination {
    /// An 8-bit destination field, as in the I/O APIC, MSI address and xAPIC ICR: 0xff is everybody.
    pub const fn from_xapic(id: u8, logical: bool) -> Self {
        match (id, logical) {
            (0xff, _) => Self::All,
            (id, true) => Self::Logical(id as u32),
            (id, false) => Self::Physical(id as u32),
        }
    }

    /// A 32-bit destination field, as in the x2APIC ICR: 0xffff_ffff is everybody.
    pub const fn from_x2apic(id: u32, logical: bool) -> Self {
        match (id, logical) {
            (u32::MAX, _) => Self::All,
            (id, true) => Self::Logical(id),
            (id, false) => Self::Physical(id),
        }
    }
}

/// One interrupt message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InterruptMessage {
    /// Who gets it.
    pub destination: Destination,
    /// What it does there.
    pub delivery: DeliveryMode,
    /// Interrupt vector; its meaning depends on `delivery`.
    pub vector: u8,
    /// Trigger mode.
    pub trigger: TriggerMode,
}

/// Bits 63:20 of the addresses that are messages and not memory.
const MSI_ADDRESS_PREFIX: u64 = 0xfee;

impl InterruptMessage {
    /// The message that a write of `data` to `address` is (Intel SDM vol. 3, 11.11). `None` when the address
    /// is not in 0xfee0_0000–0xfeef_ffff or the delivery mode is reserved.
    ///
    /// The redirection hint makes a fixed message a lowest-priority one. The level bit of the data is
    /// ignored: a message always asserts.
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != MSI_ADDRESS_PREFIX {
            return None;
        }
        let redirect = address & 1 << 3 != 0;
        let delivery = match DeliveryMode::from_bits(data >> 8) {
            Some(DeliveryMode::Fixed) if redirect => DeliveryMode::LowestPriority,
            Some(mode) => mode,
            None => return None,
        };
        Some(Self {
            destination: Destination::from_xapic((address >> 12) as u8, address & 1 << 2 != 0),
            delivery,
            vector: data as u8,
            trigger: TriggerMode::from_level(data & 1 << 15 != 0),
        })
    }

    /// The address and the data that are this message (Intel SDM vol. 3, 11.11). Destinations of more than
    /// 8 bits, which only an x2APIC sends, are cut off.
    pub const fn to_msi(self) -> (u64, u32) {
        let (id, logical) = match self.destination {
            // All bits set is everybody for either kind; as a physical one it is no place for lowest priority.
            Destination::All => (0xff, true),
            Destination::Physical(id) => (id as u8, false),
            Destination::Logical(id) => (id as u8, true),
        };
        let level = matches!(self.trigger, TriggerMode::Level) as u32;
        let address = MSI_ADDRESS_PREFIX << 20 | (id as u64) << 12 | (logical as u64) << 2;
        (address, level << 15 | level << 14 | (self.delivery as u32) << 8 | self.vector as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields() {
        let m = InterruptMessage::from_msi(0xfee0_3004, 0x8041).unwrap();
        assert_eq!(m.destination, Destination::Logical(3));
        assert_eq!((m.delivery, m.vector, m.trigger), (DeliveryMode::Fixed, 0x41, TriggerMode::Level));
        let m = InterruptMessage::from_msi(0xfeef_f008, 0x0041).unwrap();
        assert_eq!((m.destination, m.delivery), (Destination::All, DeliveryMode::LowestPriority));
        let m = InterruptMessage::from_msi(0xfee0_1000, 0x0400).unwrap();
        assert_eq!((m.destination, m.delivery), (Destination::Physical(1), DeliveryMode::Nmi));
    }

    #[test]
    fn a_message_and_its_write_are_the_same() {
        let destinations =
            [Destination::All, Destination::Physical(0), Destination::Physical(254), Destination::Logical(3)];
        for destination in destinations {
            for delivery in (0..8).filter_map(DeliveryMode::from_bits) {
                for trigger in [TriggerMode::Edge, TriggerMode::Level] {
                    let message = InterruptMessage { destination, delivery, vector: 0x41, trigger };
                    let (address, data) = message.to_msi();
                    assert_eq!(InterruptMessage::from_msi(address, data), Some(message));
                }
            }
        }
    }

    #[test]
    fn what_is_no_message() {
        assert_eq!(InterruptMessage::from_msi(0xfed0_0000, 0x41), None);
        assert_eq!(InterruptMessage::from_msi(0x1_fee0_0000, 0x41), None);
        assert_eq!(InterruptMessage::from_msi(0xfee0_0000, 0x341), None);
    }
}
