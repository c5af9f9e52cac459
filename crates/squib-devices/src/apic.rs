//! Local APIC: xAPIC and x2APIC (Intel SDM vol. 3, chapter 11 "Advanced Programmable Interrupt Controller").
//!
//! The model is that of a processor with 6 LVT entries, directed EOI and x2APIC. The APIC ID is read-only,
//! and there is no bus arbitration: a message is delivered when it is sent.

#[cfg(test)]
mod tests;
mod timer;
mod vectors;

use squib_core::x86::irqchip::LOCAL_APIC;

use crate::bytes;
use crate::message::{DeliveryMode, Destination, InterruptMessage, TriggerMode};
use timer::{Mode, Timer};
use vectors::Vectors;

/// Frequency of the bus clock that the timer's divider takes, as CPUID leaf 0x15 should report it.
pub const TIMER_FREQUENCY_HZ: u64 = 1_000_000_000;
/// Where the xAPIC registers are after reset.
pub const DEFAULT_BASE: u64 = LOCAL_APIC.start;
/// Bytes of the xAPIC register page.
pub const MMIO_SIZE: u64 = 0x1000;
/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// The x2APIC registers: 0x800 and the xAPIC offset divided by 16.
pub const MSR_X2APIC_FIRST: u32 = 0x800;
/// The last of the MSRs reserved for the x2APIC.
pub const MSR_X2APIC_LAST: u32 = 0x8ff;

/// IA32_APIC_BASE: this processor is the bootstrap processor.
pub const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the APIC is enabled.
pub const BASE_ENABLE: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Register numbers: xAPIC offset / 16, x2APIC MSR − 0x800.
mod reg {
    pub(super) const ID: u32 = 0x02;
    pub(super) const VERSION: u32 = 0x03;
    pub(super) const TPR: u32 = 0x08;
    pub(super) const APR: u32 = 0x09;
    pub(super) const PPR: u32 = 0x0a;
    pub(super) const EOI: u32 = 0x0b;
    pub(super) const REMOTE_READ: u32 = 0x0c;
    pub(super) const LDR: u32 = 0x0d;
    pub(super) const DFR: u32 = 0x0e;
    pub(super) const SVR: u32 = 0x0f;
    pub(super) const ISR: u32 = 0x10;
    pub(super) const ISR_END: u32 = 0x17;
    pub(super) const TMR: u32 = 0x18;
    pub(super) const TMR_END: u32 = 0x1f;
    pub(super) const IRR: u32 = 0x20;
    pub(super) const IRR_END: u32 = 0x27;
    pub(super) const ESR: u32 = 0x28;
    pub(super) const ICR_LOW: u32 = 0x30;
    pub(super) const ICR_HIGH: u32 = 0x31;
    pub(super) const LVT_TIMER: u32 = 0x32;
    pub(super) const LVT_ERROR: u32 = 0x37;
    pub(super) const INITIAL_COUNT: u32 = 0x38;
    pub(super) const CURRENT_COUNT: u32 = 0x39;
    pub(super) const DIVIDE: u32 = 0x3e;
    pub(super) const SELF_IPI: u32 = 0x3f;
}

/// LVT entries, in the order of their registers.
const LVT_TIMER: usize = 0;
const LVT_LINT0: usize = 3;
const LVT_ERROR: usize = 5;
const LVT_COUNT: usize = 6;

const LVT_REMOTE_IRR: u32 = 1 << 14;
const LVT_LEVEL: u32 = 1 << 15;
const LVT_MASKED: u32 = 1 << 16;
/// Bits that can be written in each entry: timer, thermal, performance, LINT0, LINT1, error.
const LVT_WRITABLE: [u32; LVT_COUNT] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
/// Read-only bits that may be written in x2APIC mode too: delivery status, remote IRR.
const LVT_READ_ONLY: u32 = 1 << 12 | LVT_REMOTE_IRR;

/// Version 0x14, the number of the last LVT entry, directed EOI.
const VERSION: u32 = 0x14 | (LVT_COUNT as u32 - 1) << 16 | 1 << 24;

const SVR_ENABLE: u32 = 1 << 8;
const SVR_DIRECTED_EOI: u32 = 1 << 12;
const SVR_WRITABLE: u32 = 0x13ff;

const ICR_WRITABLE: u64 = 0xffff_ffff_000c_cfff;
const ICR_DELIVERY_STATUS: u64 = 1 << 12;

/// Vectors below this one are illegal for fixed interrupts.
const FIRST_LEGAL_VECTOR: u8 = 16;

/// ESR bits.
const ERROR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ERROR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
const ERROR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// The access raises #GP(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneralProtection;

/// What a register write asks others to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Deliver an inter-processor interrupt.
    Send {
        /// What to whom.
        message: InterruptMessage,
        /// Leave out this processor.
        except_self: bool,
    },
    /// Tell the I/O APICs that the level-triggered interrupt with this vector has ended.
    Eoi(u8),
}

/// An event for the processor core that is no maskable interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Reset to the wait-for-start-up state.
    Init,
    /// Start at physical address `page << 12`, if waiting for it; otherwise ignore.
    StartUp(u8),
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
}

/// The local interrupt pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lint {
    /// INTR of processors without APIC; the 8259's output.
    Lint0,
    /// NMI of processors without APIC.
    Lint1,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Signals {
    init: bool,
    start_up: Option<u8>,
    smi: bool,
    nmi: bool,
}

/// A local APIC.
///
/// `now_ns` is in nanoseconds on any clock that does not go back, the same one in every call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalApic {
    id: u32,
    base: u64,
    tpr: u8,
    /// As the xAPIC register; in x2APIC mode it follows from the ID.
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// Errors since the last write to the ESR, and what that write made visible.
    errors: u32,
    esr: u32,
    icr: u64,
    lvt: [u32; LVT_COUNT],
    timer: Timer,
    lint: [bool; 2],
    ext_int_message: bool,
    signals: Signals,
    /// The vector that the processor would take now, or 0: always up to date, so that asking is cheap.
    ready: u8,
}

impl LocalApic {
    /// The local APIC of processor `id`, as after power-up.
    pub fn new(id: u32, bootstrap: bool) -> Self {
        let base = DEFAULT_BASE | BASE_ENABLE | if bootstrap { BASE_BSP } else { 0 };
        Self {
            id,
            base,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            errors: 0,
            esr: 0,
            icr: 0,
            lvt: [LVT_MASKED; LVT_COUNT],
            timer: Timer::default(),
            lint: [false; 2],
            ext_int_message: false,
            signals: Signals::default(),
            ready: 0,
        }
    }

    /// Power-up reset. The levels of the pins, which others drive, stay.
    pub fn reset(&mut self) {
        *self = Self { lint: self.lint, ..Self::new(self.id, self.base & BASE_BSP != 0) };
    }

    /// What an INIT does: as [`LocalApic::reset`], but IA32_APIC_BASE stays (11.4.7.3), and so do the signals
    /// that came after the INIT.
    pub fn init(&mut self) {
        let signals = std::mem::take(&mut self.signals);
        *self = Self { lint: self.lint, base: self.base, signals, ..Self::new(self.id, false) };
    }

    /// What firmware leaves behind for an operating system that uses the 8259 (MP specification 1.4, 3.6.2.2
    /// "Virtual Wire Mode"): APIC enabled, LINT0 external interrupt, LINT1 NMI.
    pub fn set_virtual_wire_mode(&mut self) {
        self.svr |= SVR_ENABLE;
        self.lvt[LVT_LINT0] = (DeliveryMode::ExtInt as u32) << 8;
        self.lvt[LVT_LINT0 + 1] = (DeliveryMode::Nmi as u32) << 8;
    }

    /// The APIC ID.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Guest-physical address of the register page; `None` in x2APIC mode and when disabled.
    pub fn mmio_base(&self) -> Option<u64> {
        (self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE).then_some(self.base & BASE_ADDRESS)
    }

    /// Whether IA32_APIC_BASE enables it.
    pub fn hardware_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. Disabling resets the APIC. Whether the address fits the processor's physical
    /// address width below 52 bits is the caller's to check.
    ///
    /// # Errors
    /// [`GeneralProtection`] for reserved bits and for transitions that 11.12.5 "x2APIC State Transitions"
    /// forbids.
    pub fn set_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        const MODE: u64 = BASE_ENABLE | BASE_X2APIC;
        const X2APIC: u64 = MODE;
        const XAPIC: u64 = BASE_ENABLE;
        if value & !(BASE_ADDRESS | BASE_BSP | MODE) != 0 {
            return Err(GeneralProtection);
        }
        match (self.base & MODE, value & MODE) {
            (_, BASE_X2APIC) | (0, X2APIC) | (X2APIC, XAPIC) => return Err(GeneralProtection),
            (XAPIC, X2APIC) => self.icr &= u64::from(u32::MAX),
            (XAPIC | X2APIC, 0) => self.reset(),
            _ => {}
        }
        self.base = value;
        self.refresh();
        Ok(())
    }

    fn software_enabled(&self) -> bool {
        self.hardware_enabled() && self.svr & SVR_ENABLE != 0
    }

    fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    // What the processor asks.

    /// The vector that the processor would take now if it allows interrupts. Costs one load.
    #[inline]
    pub fn pending_vector(&self) -> Option<u8> {
        (self.ready != 0).then_some(self.ready)
    }

    /// Whether the 8259 wants the processor's attention through this APIC.
    #[inline]
    pub fn ext_int_pending(&self) -> bool {
        const EXT_INT: u32 = (DeliveryMode::ExtInt as u32) << 8;
        const MASK: u32 = LVT_MASKED | EXT_INT;
        self.ext_int_message
            || (self.lint[0] && (!self.hardware_enabled() || self.lvt[LVT_LINT0] & MASK == EXT_INT))
            || (self.lint[1] && self.hardware_enabled() && self.lvt[LVT_LINT0 + 1] & MASK == EXT_INT)
    }

    /// The interrupt acknowledge cycle: puts the pending vector in service and returns it, or returns the
    /// spurious vector when there is none (11.9).
    pub fn acknowledge(&mut self) -> u8 {
        let vector = self.ready;
        if vector == 0 {
            return self.svr as u8;
        }
        self.irr.remove(vector);
        self.isr.insert(vector);
        self.refresh();
        vector
    }

    /// Forgets the ExtINT message that made [`LocalApic::ext_int_pending`] true. To be called when the
    /// processor asks the 8259 for the vector.
    pub fn acknowledge_ext_int(&mut self) {
        self.ext_int_message = false;
    }

    /// Whether [`LocalApic::take_signal`] would give one.
    pub fn signal_pending(&self) -> bool {
        self.signals != Signals::default()
    }

    /// The most urgent event, which the processor has then taken. On [`Signal::Init`] the core calls
    /// [`LocalApic::init`].
    pub fn take_signal(&mut self) -> Option<Signal> {
        let s = &mut self.signals;
        if std::mem::take(&mut s.init) {
            Some(Signal::Init)
        } else if let Some(page) = s.start_up.take() {
            Some(Signal::StartUp(page))
        } else if std::mem::take(&mut s.smi) {
            Some(Signal::Smi)
        } else if std::mem::take(&mut s.nmi) {
            Some(Signal::Nmi)
        } else {
            None
        }
    }

    /// CR8: bits 7:4 of the task priority.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// Writes CR8; only the low four bits count.
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = value << 4;
        self.refresh();
    }

    // What others deliver.

    /// Whether a message to `destination` is for this processor.
    pub fn is_addressed_by(&self, destination: Destination) -> bool {
        self.hardware_enabled()
            && match destination {
                Destination::All => true,
                Destination::Physical(id) => id == self.id,
                Destination::Logical(id) if self.x2apic() => {
                    let ldr = self.logical_id();
                    id >> 16 == ldr >> 16 && id & ldr & 0xffff != 0
                }
                Destination::Logical(id) => {
                    let ldr = self.ldr >> 24;
                    match (self.dfr >> 28, id >> 4) {
                        (0xf, _) => id & ldr != 0,
                        (0, cluster) => (cluster == 0xf || cluster == ldr >> 4) && id & ldr & 0xf != 0,
                        _ => false,
                    }
                }
            }
    }

    /// The priority by which lowest-priority arbitration chooses; `None` when the APIC takes no part in it.
    pub fn arbitration_priority(&self) -> Option<u8> {
        self.software_enabled().then(|| self.ppr())
    }

    /// Takes a message that is addressed to this APIC. `false` when it refuses: it is disabled or the vector
    /// is illegal.
    pub fn deliver(&mut self, delivery: DeliveryMode, vector: u8, trigger: TriggerMode) -> bool {
        if !self.hardware_enabled() {
            return false;
        }
        match delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => return self.accept(vector, trigger),
            DeliveryMode::Smi => self.signals.smi = true,
            DeliveryMode::Nmi => self.signals.nmi = true,
            DeliveryMode::Init => self.signals = Signals { init: true, ..Signals::default() },
            DeliveryMode::StartUp => self.signals.start_up = Some(vector),
            DeliveryMode::ExtInt => self.ext_int_message = true,
        }
        true
    }

    /// Drives a local interrupt pin.
    pub fn set_lint(&mut self, pin: Lint, level: bool) {
        let pin = pin as usize;
        let before = std::mem::replace(&mut self.lint[pin], level);
        let rising = level && !before;
        if !self.hardware_enabled() {
            self.signals.nmi |= rising && pin == Lint::Lint1 as usize;
            return;
        }
        let lvt = self.lvt[LVT_LINT0 + pin];
        match DeliveryMode::from_bits(lvt >> 8) {
            Some(DeliveryMode::Fixed) if lvt & LVT_LEVEL != 0 => self.raise_level_lint(pin),
            Some(mode) if mode != DeliveryMode::ExtInt && rising && lvt & LVT_MASKED == 0 => {
                self.deliver(mode, lvt as u8, TriggerMode::Edge);
            }
            _ => {}
        }
    }

    /// A level-triggered pin interrupts again after each EOI for as long as it is asserted.
    fn raise_level_lint(&mut self, pin: usize) {
        let lvt = self.lvt[LVT_LINT0 + pin];
        let fixed_level = lvt & (LVT_LEVEL | 7 << 8) == LVT_LEVEL;
        if fixed_level
            && self.lint[pin]
            && lvt & (LVT_MASKED | LVT_REMOTE_IRR) == 0
            && self.accept(lvt as u8, TriggerMode::Level)
        {
            self.lvt[LVT_LINT0 + pin] |= LVT_REMOTE_IRR;
        }
    }

    /// Lets the timer fire if it is due. Returns whether it raised an interrupt.
    pub fn advance(&mut self, now_ns: u64) -> bool {
        let lvt = self.lvt[LVT_TIMER];
        self.timer.expire(now_ns) && lvt & LVT_MASKED == 0 && self.accept(lvt as u8, TriggerMode::Edge)
    }

    /// When [`LocalApic::advance`] will next raise an interrupt.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timer.due_ns().filter(|_| self.lvt[LVT_TIMER] & LVT_MASKED == 0)
    }

    /// IA32_TSC_DEADLINE: 0 when not armed.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE. `due_ns` is when the time-stamp counter will reach `deadline`; a processor
    /// whose counter the guest sets calls this again with the new moment. Ignored unless the timer is in
    /// TSC-deadline mode.
    pub fn set_tsc_deadline(&mut self, deadline: u64, due_ns: u64) {
        self.timer.set_tsc_deadline(deadline, due_ns);
    }

    fn accept(&mut self, vector: u8, trigger: TriggerMode) -> bool {
        if !self.software_enabled() {
            return false;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.record_error(ERROR_RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        self.irr.insert(vector);
        self.tmr.assign(vector, trigger == TriggerMode::Level);
        self.refresh();
        true
    }

    /// An error interrupts once until the guest has looked at the ESR, so an illegal vector in the error LVT
    /// ends here.
    fn record_error(&mut self, error: u32) {
        if self.errors & error == 0 {
            self.errors |= error;
            let lvt = self.lvt[LVT_ERROR];
            if lvt & LVT_MASKED == 0 {
                self.accept(lvt as u8, TriggerMode::Edge);
            }
        }
    }

    /// Processor priority (11.8.3.1).
    fn ppr(&self) -> u8 {
        let in_service = self.isr.highest() & 0xf0;
        if self.tpr & 0xf0 >= in_service { self.tpr } else { in_service }
    }

    /// Arbitration priority, as processors with an APIC bus had it.
    fn apr(&self) -> u8 {
        let (requested, in_service) = (self.irr.highest() & 0xf0, self.isr.highest() & 0xf0);
        if self.tpr & 0xf0 >= requested && self.tpr & 0xf0 > in_service {
            self.tpr
        } else {
            (self.tpr & 0xf0 & in_service).max(requested)
        }
    }

    fn refresh(&mut self) {
        let requested = self.irr.highest();
        let takes = self.hardware_enabled() && requested & 0xf0 > self.ppr() & 0xf0;
        self.ready = if takes { requested } else { 0 };
    }

    fn logical_id(&self) -> u32 {
        if self.x2apic() { self.id >> 4 << 16 | 1 << (self.id & 0xf) } else { self.ldr }
    }

    // Registers.

    /// Reads the register page at `offset`. Any width: each register has its value in the first 4 of its 16
    /// bytes, and the rest reads as zero. In x2APIC mode and when disabled everything reads as ones.
    pub fn mmio_read(&mut self, offset: u64, data: &mut [u8], now_ns: u64) {
        if self.mmio_base().is_none() {
            data.fill(0xff);
            return;
        }
        data.fill(0);
        let number = (offset >> 4) as u32;
        let value = match self.register(number, now_ns) {
            Some(value) => value,
            None => {
                self.record_error(ERROR_ILLEGAL_REGISTER);
                0
            }
        };
        if let Some(bytes) = value.to_le_bytes().get((offset & 0xf) as usize..) {
            bytes::copy_prefix(data, bytes);
        }
    }

    /// Writes the register page at `offset`. Only aligned 32-bit writes are defined (11.4.1); others are
    /// ignored.
    pub fn mmio_write(&mut self, offset: u64, data: &[u8], now_ns: u64) -> Option<Effect> {
        let value = u32::from_le_bytes(data.try_into().ok()?);
        if offset & 0xf != 0 || self.mmio_base().is_none() {
            return None;
        }
        self.advance(now_ns);
        match (offset >> 4) as u32 {
            reg::LDR => self.ldr = value & 0xff00_0000,
            reg::DFR => self.dfr = value | 0x0fff_ffff,
            reg::ICR_LOW => {
                self.icr = self.icr >> 32 << 32 | u64::from(value) & ICR_WRITABLE & !ICR_DELIVERY_STATUS;
                let destination = Destination::from_xapic((self.icr >> 56) as u8, value & 1 << 11 != 0);
                return self.send_ipi(destination);
            }
            reg::ICR_HIGH => self.icr = self.icr & u64::from(u32::MAX) | u64::from(value & 0xff00_0000) << 32,
            reg::ID | reg::VERSION | reg::APR | reg::PPR | reg::REMOTE_READ | reg::CURRENT_COUNT => {}
            reg::ISR..=reg::IRR_END => {}
            number => return self.write_common(number, value, now_ns),
        }
        None
    }

    /// Reads x2APIC register `index`, 0x800–0x8ff.
    ///
    /// # Errors
    /// [`GeneralProtection`] outside of x2APIC mode and for registers that do not exist or cannot be read
    /// (table 11-6).
    pub fn msr_read(&self, index: u32, now_ns: u64) -> Result<u64, GeneralProtection> {
        let number = index.wrapping_sub(MSR_X2APIC_FIRST);
        match number {
            _ if !self.x2apic() => Err(GeneralProtection),
            reg::ID => Ok(u64::from(self.id)),
            reg::ICR_LOW => Ok(self.icr),
            reg::APR | reg::EOI | reg::REMOTE_READ | reg::DFR | reg::ICR_HIGH => Err(GeneralProtection),
            _ => self.register(number, now_ns).map(u64::from).ok_or(GeneralProtection),
        }
    }

    /// Writes x2APIC register `index`, 0x800–0x8ff.
    ///
    /// # Errors
    /// [`GeneralProtection`] outside of x2APIC mode, for registers that do not exist or cannot be written
    /// (table 11-6), and for reserved bits.
    pub fn msr_write(
        &mut self,
        index: u32,
        value: u64,
        now_ns: u64,
    ) -> Result<Option<Effect>, GeneralProtection> {
        let number = index.wrapping_sub(MSR_X2APIC_FIRST);
        let writable = match number {
            reg::TPR | reg::SELF_IPI => 0xff,
            reg::EOI | reg::ESR => 0,
            reg::SVR => u64::from(SVR_WRITABLE),
            reg::ICR_LOW => ICR_WRITABLE,
            reg::LVT_TIMER..=reg::LVT_ERROR => {
                u64::from(LVT_WRITABLE[(number - reg::LVT_TIMER) as usize] | LVT_READ_ONLY)
            }
            reg::INITIAL_COUNT => u64::from(u32::MAX),
            reg::DIVIDE => 0b1011,
            _ => return Err(GeneralProtection),
        };
        if !self.x2apic() || value & !writable != 0 {
            return Err(GeneralProtection);
        }
        self.advance(now_ns);
        Ok(match number {
            reg::ICR_LOW => {
                self.icr = value & !ICR_DELIVERY_STATUS;
                self.send_ipi(Destination::from_x2apic((value >> 32) as u32, value & 1 << 11 != 0))
            }
            reg::SELF_IPI => {
                self.send_self(value as u8);
                None
            }
            _ => self.write_common(number, value as u32, now_ns),
        })
    }

    /// The 32-bit value of a register; `None` when there is none with this number.
    fn register(&self, number: u32, now_ns: u64) -> Option<u32> {
        Some(match number {
            reg::ID => self.id << 24,
            reg::VERSION => VERSION,
            reg::TPR => u32::from(self.tpr),
            reg::APR => u32::from(self.apr()),
            reg::PPR => u32::from(self.ppr()),
            reg::EOI | reg::REMOTE_READ => 0,
            reg::LDR => self.logical_id(),
            reg::DFR => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..=reg::ISR_END => self.isr.word((number - reg::ISR) as usize),
            reg::TMR..=reg::TMR_END => self.tmr.word((number - reg::TMR) as usize),
            reg::IRR..=reg::IRR_END => self.irr.word((number - reg::IRR) as usize),
            reg::ESR => self.esr,
            reg::ICR_LOW => self.icr as u32,
            reg::ICR_HIGH => (self.icr >> 32) as u32,
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt[(number - reg::LVT_TIMER) as usize],
            reg::INITIAL_COUNT => self.timer.initial_count(),
            reg::CURRENT_COUNT => self.timer.current_count(now_ns),
            reg::DIVIDE => self.timer.divide_config(),
            _ => return None,
        })
    }

    /// Registers that are the same in both modes.
    fn write_common(&mut self, number: u32, value: u32, now_ns: u64) -> Option<Effect> {
        match number {
            reg::TPR => {
                self.tpr = value as u8;
                self.refresh();
            }
            reg::EOI => return self.end_of_interrupt().map(Effect::Eoi),
            reg::SVR => {
                self.svr = value & SVR_WRITABLE;
                if !self.software_enabled() {
                    self.lvt.iter_mut().for_each(|lvt| *lvt |= LVT_MASKED);
                }
            }
            reg::ESR => {
                self.esr = self.errors;
                self.errors = 0;
            }
            reg::LVT_TIMER..=reg::LVT_ERROR => self.write_lvt((number - reg::LVT_TIMER) as usize, value),
            reg::INITIAL_COUNT => self.timer.set_initial_count(value, now_ns),
            reg::DIVIDE => self.timer.set_divide_config(value, now_ns),
            _ => self.record_error(ERROR_ILLEGAL_REGISTER),
        }
        None
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        let writable = LVT_WRITABLE[index];
        let mut lvt = self.lvt[index] & LVT_REMOTE_IRR | value & writable;
        if !self.software_enabled() {
            lvt |= LVT_MASKED;
        }
        if lvt & LVT_LEVEL == 0 {
            lvt &= !LVT_REMOTE_IRR;
        }
        self.lvt[index] = lvt;
        match index {
            LVT_TIMER => self.timer.set_mode(Mode::from_lvt(lvt)),
            3 | 4 => self.raise_level_lint(index - LVT_LINT0),
            _ => {}
        }
    }

    /// Ends the interrupt in service with the highest vector. Returns it when others must hear of it.
    fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.isr.highest();
        if vector == 0 {
            return None;
        }
        self.isr.remove(vector);
        self.refresh();
        if !self.tmr.contains(vector) {
            return None;
        }
        for pin in 0..self.lint.len() {
            let lvt = &mut self.lvt[LVT_LINT0 + pin];
            if *lvt & LVT_REMOTE_IRR != 0 && *lvt as u8 == vector {
                *lvt &= !LVT_REMOTE_IRR;
                self.raise_level_lint(pin);
            }
        }
        (self.svr & SVR_DIRECTED_EOI == 0).then_some(vector)
    }

    fn send_self(&mut self, vector: u8) {
        if vector < FIRST_LEGAL_VECTOR {
            self.record_error(ERROR_SEND_ILLEGAL_VECTOR);
        } else {
            self.accept(vector, TriggerMode::Edge);
        }
    }

    /// Carries out a write to the ICR (11.6.1). Inter-processor interrupts are edge-triggered whatever the
    /// trigger bit says, and an INIT level de-assert does nothing on processors without an APIC bus.
    fn send_ipi(&mut self, destination: Destination) -> Option<Effect> {
        const LEVEL_ASSERT: u64 = 1 << 14;
        const TRIGGER_LEVEL: u64 = 1 << 15;
        let vector = self.icr as u8;
        let delivery = DeliveryMode::from_bits((self.icr >> 8) as u32)?;
        match delivery {
            DeliveryMode::Init if self.icr & (LEVEL_ASSERT | TRIGGER_LEVEL) == TRIGGER_LEVEL => return None,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < FIRST_LEGAL_VECTOR => {
                self.record_error(ERROR_SEND_ILLEGAL_VECTOR);
                return None;
            }
            _ => {}
        }
        let (destination, except_self) = match self.icr >> 18 & 3 {
            0 => (destination, false),
            1 => {
                self.deliver(delivery, vector, TriggerMode::Edge);
                return None;
            }
            2 => (Destination::All, false),
            _ => (Destination::All, true),
        };
        let message = InterruptMessage { destination, delivery, vector, trigger: TriggerMode::Edge };
        Some(Effect::Send { message, except_self })
    }
}
