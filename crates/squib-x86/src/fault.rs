//! Exceptions, and why an instruction stops half-way.

/// An exception on its way to the guest (Intel SDM vol. 3, 6.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Vector, 0–31.
    pub vector: u8,
    /// Error code, for those that push one.
    pub error: Option<u32>,
    /// The linear address of a page fault, which goes to CR2.
    pub address: u64,
}

macro_rules! exceptions {
    ($($(#[$doc:meta])* $plain:ident = $v:literal,)* ; $($(#[$edoc:meta])* $coded:ident = $ev:literal,)*) => {
        impl Exception {
            $($(#[$doc])* pub const $plain: Self = Self { vector: $v, error: None, address: 0 };)*
            $($(#[$edoc])* pub const fn $coded(error: u32) -> Self { Self { vector: $ev, error: Some(error), address: 0 } })*
        }
    };
}

exceptions! {
    /// #DE: divide error.
    DE = 0,
    /// #DB: debug.
    DB = 1,
    /// #BP: breakpoint.
    BP = 3,
    /// #OF: overflow.
    OF = 4,
    /// #BR: bound range exceeded.
    BR = 5,
    /// #UD: invalid opcode.
    UD = 6,
    /// #NM: no math coprocessor.
    NM = 7,
    /// #MF: x87 floating-point error.
    MF = 16,
    /// #XM: SIMD floating-point error.
    XM = 19,
    ;
    /// #DF: double fault.
    df = 8,
    /// #TS: invalid TSS.
    ts = 10,
    /// #NP: segment not present.
    np = 11,
    /// #SS: stack fault.
    ss = 12,
    /// #GP: general protection.
    gp = 13,
    /// #AC: alignment check.
    ac = 17,
}

impl Exception {
    /// #GP(0).
    pub const GP0: Self = Self::gp(0);
    /// #SS(0).
    pub const SS0: Self = Self::ss(0);

    /// #PF at linear `address`.
    pub const fn pf(error: u32, address: u64) -> Self {
        Self { vector: 14, error: Some(error), address }
    }
}

/// Why an instruction did not finish. Nothing of the guest's state has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It raises an exception.
    Fault(Exception),
    /// It needs an answer from outside; the request is noted, and the instruction runs again with it.
    Exit,
}

impl From<Exception> for Stop {
    fn from(e: Exception) -> Self {
        Self::Fault(e)
    }
}
