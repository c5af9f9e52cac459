//! What the manuals leave undefined.
//!
//! Status flags: Intel SDM vol. 1, appendix A "EFLAGS Cross-Reference", and for what is younger, and for shifts, the
//! instructions' own pages in vol. 2 ("SAL/SAR/SHL/SHR", "RCL/RCR/ROL/ROR", "SHLD", "SHRD").

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic as M, OpKind, Register, RflagsBits,
};

use crate::layout::Mode;

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ALL: u64 = CF | PF | AF | ZF | SF | OF;

/// Instructions other than shifts, and the status flags that they leave undefined.
const UNDEFINED: [(&[M], u64); 11] = [
    (&[M::And, M::Or, M::Xor, M::Test], AF),
    (&[M::Bsf, M::Bsr], ALL & !ZF),
    (&[M::Bt, M::Bts, M::Btr, M::Btc], OF | SF | AF | PF),
    (&[M::Div, M::Idiv], ALL),
    (&[M::Mul, M::Imul], SF | ZF | AF | PF),
    (&[M::Aaa, M::Aas], OF | SF | ZF | PF),
    (&[M::Aad, M::Aam], OF | AF | CF),
    (&[M::Daa, M::Das], OF),
    (&[M::Andn, M::Blsi, M::Blsr, M::Blsmsk, M::Bzhi], AF | PF),
    (&[M::Bextr], AF | SF | PF),
    (&[M::Lzcnt, M::Tzcnt], OF | SF | PF | AF),
];

/// The status flags that `i` leaves undefined. `cl` is CL, where it is known.
pub fn flags(i: &Instruction, cl: Option<u8>) -> u64 {
    match i.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
            shift(i, cl)
        }
        m => UNDEFINED.iter().find(|(list, _)| list.contains(&m)).map_or(0, |(_, flags)| *flags),
    }
}

fn shift(i: &Instruction, cl: Option<u8>) -> u64 {
    let last = i.op_count() - 1;
    let bits = match i.op_kind(0) {
        OpKind::Register => i.op_register(0).size() as u8 * 8,
        _ => (i.memory_size().size() * 8) as u8,
    };
    let mask = if bits == 64 { 63 } else { 31 };
    let count = match i.op_kind(last) {
        OpKind::Register => cl,
        _ => Some(i.immediate8()),
    };
    let count = count.map(|n| n & mask);
    if count == Some(0) {
        return 0;
    }
    let of = if count == Some(1) { 0 } else { OF };
    let beyond = count.is_none_or(|n| n >= bits);
    match i.mnemonic() {
        M::Shl | M::Sal | M::Shr => of | AF | if beyond { CF } else { 0 },
        M::Sar => of | AF,
        M::Shld | M::Shrd if count.is_none_or(|n| n > bits) => ALL,
        M::Shld | M::Shrd => of | AF,
        _ => of,
    }
}

fn status(iced: u32) -> u64 {
    let bits = [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::SF, SF),
        (RflagsBits::OF, OF),
    ];
    bits.into_iter().filter(|(bit, _)| iced & bit != 0).map(|(_, flag)| flag).sum()
}

/// What of the flags is undefined as code runs from one instruction to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flow {
    /// Undefined now.
    pub flags: u64,
    /// A branch may have skipped what came after it.
    branched: bool,
}

impl Flow {
    /// These are undefined.
    pub fn undefined(flags: u64) -> Self {
        Self { flags, branched: false }
    }

    /// Whether what `i` does depends on an undefined flag.
    pub fn matters(&self, i: &Instruction) -> bool {
        self.flags & status(i.rflags_read()) != 0
    }

    /// `i` has run, or has been skipped.
    pub fn step(&mut self, i: &Instruction, cl: Option<u8>) {
        let undefined = flags(i, cl);
        if !self.branched {
            // What always writes a flag makes it defined; a count of zero writes none.
            let counted = matches!(i.op_kind(i.op_count().saturating_sub(1)), OpKind::Register)
                && i.op_register(i.op_count().saturating_sub(1)) == Register::CL;
            let repeated = i.has_rep_prefix() || i.has_repne_prefix();
            if !counted && !repeated {
                self.flags &= !status(i.rflags_written() | i.rflags_set() | i.rflags_cleared());
            }
        }
        self.flags |= undefined;
        self.branched |= i.flow_control() != FlowControl::Next;
    }
}

/// The status flags that are undefined when code at `start` has come to `end` (or may have, where it branches).
pub fn flags_at(mode: Mode, code: &[u8], start: u64, end: u64, rcx: u64) -> u64 {
    let decoder = || Decoder::with_ip(mode.bits(), code, start, DecoderOptions::NONE);
    let until = |end: u64, mut cl: Option<u8>| {
        let mut flow = Flow::default();
        for i in &mut decoder() {
            if !flow.branched && i.ip() >= end && end >= start {
                break;
            }
            flow.step(&i, cl.take());
        }
        flow.flags
    };
    // Where code loops, what stands behind the end may have run before, and CL may have changed.
    let loops = decoder().into_iter().any(|i| (1..=i.ip()).contains(&i.near_branch_target()));
    until(end, Some(rcx as u8)) | if loops { until(u64::MAX, None) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_undefined_and_defined_again() {
        // and eax, ecx; mul ecx; add eax, ecx
        let code = [0x21, 0xc8, 0xf7, 0xe1, 0x01, 0xc8];
        assert_eq!(flags_at(Mode::Bits64, &code, 0x1000, 0x1000, 0), 0);
        assert_eq!(flags_at(Mode::Bits64, &code, 0x1000, 0x1002, 0), AF);
        assert_eq!(flags_at(Mode::Bits64, &code, 0x1000, 0x1004, 0), SF | ZF | AF | PF);
        assert_eq!(flags_at(Mode::Bits64, &code, 0x1000, 0x1006, 0), 0);
    }

    #[test]
    fn shift_counts_decide() {
        // shl eax, cl
        let code = [0xd3, 0xe0];
        assert_eq!(flags_at(Mode::Bits64, &code, 0, 2, 0), 0);
        assert_eq!(flags_at(Mode::Bits64, &code, 0, 2, 32), 0);
        assert_eq!(flags_at(Mode::Bits64, &code, 0, 2, 1), AF);
        assert_eq!(flags_at(Mode::Bits64, &code, 0, 2, 5), AF | OF);
        // shl al, 9
        assert_eq!(flags_at(Mode::Bits64, &[0xc0, 0xe0, 9], 0, 3, 0), AF | OF | CF);
    }

    #[test]
    fn a_loop_shifts_by_another_count() {
        // shl al, cl; loop back to it
        let code = [0xd2, 0xe0, 0xe2, 0xfc];
        assert_eq!(flags_at(Mode::Bits64, &code[..2], 0x1000, 0x1002, 1), AF);
        assert_eq!(flags_at(Mode::Bits64, &code, 0x1000, 0x1004, 1), AF | OF | CF);
    }

    #[test]
    fn a_branch_keeps_what_it_may_skip() {
        // and eax, ecx; jmp +0; add eax, ecx
        let code = [0x21, 0xc8, 0xeb, 0, 0x01, 0xc8];
        assert_eq!(flags_at(Mode::Bits64, &code, 0, 6, 0), AF);
    }
}
