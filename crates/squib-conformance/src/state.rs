//! Registers, and what a run leaves.

/// RFLAGS as user code starts with them: interrupts enabled.
pub const FLAGS: u64 = 0x202;

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

/// The registers of user code.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// General registers in the order of their encoding.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// x87 and SSE registers as FXSAVE64 lays them out.
    pub fx: [u8; fx::SIZE],
}

impl Default for State {
    fn default() -> Self {
        let mut state = Self { gpr: [0; 16], rip: 0, rflags: FLAGS, fx: [0; fx::SIZE] };
        state.put(fx::FCW, 0x37f, 2);
        state.put(fx::MXCSR, 0x1f80, 4);
        state
    }
}

impl State {
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
    /// Bytes of the x87 and SSE image: where they start, and how many.
    Fx(usize, usize),
}

const GPRS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

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
            Self::Fx(at, len) => state.get(at, len),
        }
    }

    /// Sets it.
    pub fn set(self, state: &mut State, value: u128) {
        match self {
            Self::Gpr(i) => state.gpr[i] = value as u64,
            Self::Rip => state.rip = value as u64,
            Self::Flags => state.rflags = value as u64,
            Self::Fx(at, len) => state.put(at, value, len),
        }
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The exception's vector.
    pub vector: u8,
    /// Its error code, 0 for those that have none.
    pub error: u32,
    /// CR2 of a page fault, 0 for others.
    pub address: u64,
}

/// The breakpoint that ends code that nothing else ends.
pub const BREAKPOINT: Event = Event { vector: 3, error: 0, address: 0 };

/// What a run leaves.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Registers at the exception.
    pub state: State,
    /// Memory, laid out as [`layout::MAP`](crate::layout::MAP) says.
    pub memory: Box<[u8]>,
    /// The exception.
    pub event: Event,
}
