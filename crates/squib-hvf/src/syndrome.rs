//! Fields of an exception syndrome, ESR_EL2 (Arm ARM DDI 0487, D24.2.40).

/// An exception syndrome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Syndrome(pub(crate) u64);

/// Exception classes, bits 31:26.
pub(crate) mod class {
    pub(crate) const WFX: u8 = 0x01;
    pub(crate) const HVC64: u8 = 0x16;
    pub(crate) const SMC64: u8 = 0x17;
    pub(crate) const SYSTEM: u8 = 0x18;
    pub(crate) const INSTRUCTION_ABORT: u8 = 0x20;
    pub(crate) const DATA_ABORT: u8 = 0x24;
    pub(crate) const BREAKPOINT: u8 = 0x30;
    pub(crate) const STEP: u8 = 0x32;
    pub(crate) const WATCHPOINT: u8 = 0x34;
    pub(crate) const BRK64: u8 = 0x3c;
}

impl Syndrome {
    fn bits(self, low: u32, count: u32) -> u64 {
        self.0 >> low & ((1 << count) - 1)
    }

    fn bit(self, number: u32) -> bool {
        self.bits(number, 1) != 0
    }

    /// EC: what kind of exception it is.
    pub(crate) fn class(self) -> u8 {
        self.bits(26, 6) as u8
    }

    /// IL: bytes of the instruction.
    pub(crate) fn instruction_len(self) -> u64 {
        if self.bit(25) { 4 } else { 2 }
    }

    /// WFx, TI: whether it waits for an event and not for an interrupt, with a time limit or without.
    pub(crate) fn waits_for_event(self) -> bool {
        self.bit(0)
    }
}

/// A data abort from a lower exception level.
impl Syndrome {
    /// ISV: whether the fields that describe the access are there.
    pub(crate) fn is_valid(self) -> bool {
        self.bit(24)
    }

    /// SAS: bytes of the access, 1 to 8.
    pub(crate) fn access_len(self) -> usize {
        1 << self.bits(22, 2)
    }

    /// SSE: whether what is read is sign-extended.
    pub(crate) fn sign_extends(self) -> bool {
        self.bit(21)
    }

    /// SRT: the register, 31 for the zero register.
    pub(crate) fn access_register(self) -> u8 {
        self.bits(16, 5) as u8
    }

    /// SF: whether the register is 64 bits wide.
    pub(crate) fn is_64_bit(self) -> bool {
        self.bit(15)
    }

    /// CM: a cache maintenance or address translation instruction, not an access.
    pub(crate) fn is_maintenance(self) -> bool {
        self.bit(8)
    }

    /// S1PTW: the fault is of the walk of the guest's own page tables.
    pub(crate) fn is_table_walk(self) -> bool {
        self.bit(7)
    }

    /// WnR.
    pub(crate) fn is_write(self) -> bool {
        self.bit(6)
    }

    /// DFSC: whether nothing is mapped there, or not for this: a translation, access flag or permission fault, at any
    /// level.
    pub(crate) fn is_mapping_fault(self) -> bool {
        matches!(self.bits(2, 4), 0b0001..=0b0011)
    }
}

/// A trapped MSR, MRS or system instruction.
impl Syndrome {
    /// The register as the instruction encodes it in its bits 20:5: op0, op1, CRn, CRm, op2 from the top.
    pub(crate) fn system_register(self) -> u32 {
        let [op0, op2, op1, crn, crm] =
            [(20, 2), (17, 3), (14, 3), (10, 4), (1, 4)].map(|(low, count)| self.bits(low, count) as u32);
        op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
    }

    /// Rt, 31 for the zero register.
    pub(crate) fn system_operand(self) -> u8 {
        self.bits(5, 5) as u8
    }

    /// Direction: whether it reads, as MRS.
    pub(crate) fn is_system_read(self) -> bool {
        self.bit(0)
    }
}
