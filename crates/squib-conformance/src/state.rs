//! Registers, and what a run leaves.

use crate::layout::{self, Mode, real, selector};

/// RFLAGS as code starts with them: interrupts enabled.
pub const FLAGS: u64 = 0x202;

/// RF, which faults set in the flags that they save.
pub const RESUME: u64 = 1 << 16;

/// RFLAGS bits that a case may set at its start: the status flags, TF, DF and AC.
pub const SETTABLE: u64 = 0x4_0dd5;

/// Layout of the FXSAVE64 image (Intel SDM vol. 1, table 10-2).
pub mod fx {
    /// Bytes that hold registers.
    pub const SIZE: usize = 416;
    /// Control word, 2 bytes.
    pub const FCW: usize = 0;
    /// Status word, 2 bytes.
    pub const FSW: usize = 2;
    /// Abridged tags, 1 byte.
    pub const FTW: usize = 4;
    /// Last opcode, 2 bytes.
    pub const FOP: usize = 6;
    /// Last instruction's address, 8 bytes.
    pub const FIP: usize = 8;
    /// Last operand's address, 8 bytes.
    pub const FDP: usize = 16;
    /// MXCSR, 4 bytes.
    pub const MXCSR: usize = 24;
    /// MXCSR's mask, 4 bytes.
    pub const MXCSR_MASK: usize = 28;
    /// ST0–ST7, 16 bytes each, of which 10 count.
    pub const ST: usize = 32;
    /// XMM0–XMM15, 16 bytes each.
    pub const XMM: usize = 160;
}

/// The registers that user code can see.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// General registers in the order of their encoding.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Selectors in the order of their encoding: ES, CS, SS, DS, FS, GS.
    pub segments: [u16; 6],
    /// Bases of FS and GS.
    pub bases: [u64; 2],
    /// x87 and SSE registers as FXSAVE64 lays them out.
    pub fx: [u8; fx::SIZE],
}

impl State {
    /// How code of this mode starts: as Linux starts programs, and after FNINIT.
    pub fn new(mode: Mode) -> Self {
        let (cs, ss) = match mode {
            Mode::Bits64 => (selector::USER_CODE, selector::USER_DATA),
            Mode::Bits32 => (selector::USER_CODE32, selector::USER_DATA),
            Mode::Ring0 => (selector::KERNEL_CODE, selector::KERNEL_DATA),
            Mode::Protected => (selector::USER_CODE32, selector::USER_DATA),
            Mode::Real => (real::CODE, real::STACK),
        };
        let [ds, fs, gs] = match mode {
            Mode::Bits32 | Mode::Protected => [selector::USER_DATA, layout::FS, layout::GS],
            Mode::Real => [real::DATA, real::MORE_DATA, real::MORE_DATA],
            Mode::Bits64 | Mode::Ring0 => [0; 3],
        };
        let bases = match mode {
            Mode::Real => [fs, gs].map(|selector| mode.base_of(selector)),
            _ => [layout::FS_BASE, layout::GS_BASE],
        };
        let mut state = Self {
            gpr: [0; 16],
            rip: if mode == Mode::Real { real::START } else { layout::START },
            rflags: FLAGS,
            segments: [ds, cs, ss, ds, fs, gs],
            bases,
            fx: [0; fx::SIZE],
        };
        state.put(fx::FCW, 0x37f, 2);
        state.put(fx::MXCSR, 0x1f80, 4);
        state
    }

    /// `len` bytes (at most 16) at `at` of the x87 and SSE image.
    pub fn get(&self, at: usize, len: usize) -> u128 {
        self.fx[at..at + len].iter().rev().fold(0, |acc, b| acc << 8 | u128::from(*b))
    }

    /// Sets them.
    pub fn put(&mut self, at: usize, value: u128, len: usize) {
        self.fx[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }
}

/// One register, or part of one that has a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// General register.
    Gpr(usize),
    /// RIP.
    Rip,
    /// RFLAGS.
    Flags,
    /// Selector.
    Segment(usize),
    /// Base of FS or GS.
    Base(usize),
    /// Bytes of the x87 and SSE image: where they start, and how many.
    Fx(usize, usize),
}

const GPRS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

const BASES: [&str; 2] = ["fs_base", "gs_base"];

const CONTROL: [(&str, usize, usize); 7] = [
    ("fcw", fx::FCW, 2),
    ("fsw", fx::FSW, 2),
    ("ftw", fx::FTW, 1),
    ("fop", fx::FOP, 2),
    ("fip", fx::FIP, 8),
    ("fdp", fx::FDP, 8),
    ("mxcsr", fx::MXCSR, 4),
];

impl Field {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let st = (0..8).map(|i| Self::Fx(fx::ST + 16 * i, 10));
        let xmm = (0..16).map(|i| Self::Fx(fx::XMM + 16 * i, 16));
        [Self::Rip]
            .into_iter()
            .chain((0..16).map(Self::Gpr))
            .chain([Self::Flags])
            .chain((0..6).map(Self::Segment))
            .chain((0..2).map(Self::Base))
            .chain(CONTROL.map(|(_, at, len)| Self::Fx(at, len)))
            .chain(st)
            .chain(xmm)
    }

    /// Its name in lower case.
    pub fn name(self) -> String {
        match self {
            Self::Gpr(i) => GPRS[i].to_owned(),
            Self::Rip => "rip".to_owned(),
            Self::Flags => "flags".to_owned(),
            Self::Segment(i) => SEGMENTS[i].to_owned(),
            Self::Base(i) => BASES[i].to_owned(),
            Self::Fx(at, _) if at >= fx::XMM => format!("xmm{}", (at - fx::XMM) / 16),
            Self::Fx(at, _) if at >= fx::ST => format!("st{}", (at - fx::ST) / 16),
            Self::Fx(at, _) => {
                CONTROL.iter().find(|c| c.1 == at).map_or_else(String::new, |c| c.0.to_owned())
            }
        }
    }

    /// The field with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::all().find(|f| f.name() == name)
    }

    /// Its value.
    pub fn get(self, state: &State) -> u128 {
        match self {
            Self::Gpr(i) => state.gpr[i].into(),
            Self::Rip => state.rip.into(),
            Self::Flags => state.rflags.into(),
            Self::Segment(i) => state.segments[i].into(),
            Self::Base(i) => state.bases[i].into(),
            Self::Fx(at, len) => state.get(at, len),
        }
    }

    /// Sets it.
    pub fn set(self, state: &mut State, value: u128) {
        match self {
            Self::Gpr(i) => state.gpr[i] = value as u64,
            Self::Rip => state.rip = value as u64,
            Self::Flags => state.rflags = value as u64,
            Self::Segment(i) => state.segments[i] = value as u16,
            Self::Base(i) => state.bases[i] = value as u64,
            Self::Fx(at, len) => state.put(at, value, len),
        }
    }
}

/// What ends a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An exception.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, 0 for those that have none.
        error: u32,
        /// CR2 of a page fault, 0 for others.
        address: u64,
    },
    /// HLT.
    Halt,
    /// An exception that could not be delivered, nor the one that came of that.
    TripleFault,
}

/// The breakpoint that ends code that nothing else ends.
pub const BREAKPOINT: Event = Event::exception(3, 0);

impl Event {
    /// An exception without an address.
    pub const fn exception(vector: u8, error: u32) -> Self {
        Self::Exception { vector, error, address: 0 }
    }

    /// The vector of an exception.
    pub const fn vector(self) -> Option<u8> {
        match self {
            Self::Exception { vector, .. } => Some(vector),
            Self::Halt | Self::TripleFault => None,
        }
    }

    /// Whether it is a fault, which saves RF and the address of the instruction (Intel SDM vol. 3, table 7-1). #DB here
    /// is a single step.
    pub const fn is_fault(self) -> bool {
        matches!(self.vector(), Some(v) if !matches!(v, 1 | 3 | 4))
    }
}

/// What a run leaves.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Registers at the end.
    pub state: State,
    /// Memory, laid out as [`layout::MAP`] says.
    pub memory: Box<[u8]>,
    /// Why it ended.
    pub event: Event,
    /// Whether the processor keeps FOP, FIP and FDP as squib's CPU does: FOP and FDP only when an unmasked exception comes
    /// up, and no selectors (Intel SDM vol. 1, 8.1.8 and 8.1.9).
    pub pointers: bool,
}

/// CPUID leaf 7 EBX bits 6 (FDP_EXCPTN_ONLY) and 13 (no FCS and FDS), by which a processor says
/// [`Outcome::pointers`].
pub const POINTERS: u32 = 1 << 6 | 1 << 13;
