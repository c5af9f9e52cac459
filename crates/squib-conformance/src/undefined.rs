//! What the manuals leave undefined.
//!
//! Status flags: Intel SDM vol. 1, appendix A "EFLAGS Cross-Reference", and for what is younger, and for shifts, the
//! instructions' own pages in vol. 2 ("SAL/SAR/SHL/SHR", "RCL/RCR/ROL/ROR", "SHLD", "SHRD").

use iced_x86::{FlowControl, Instruction, Mnemonic as M, OpKind, Register, RflagsBits};

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

    /// `i` has run.
    pub fn run(&mut self, i: &Instruction, cl: Option<u8>) {
        // What always writes a flag makes it defined; a count of zero writes none.
        let last = i.op_count().saturating_sub(1);
        let counted = i.op_kind(last) == OpKind::Register && i.op_register(last) == Register::CL;
        let repeated = i.has_rep_prefix() || i.has_repne_prefix();
        if !counted && !repeated {
            self.flags &= !status(i.rflags_written() | i.rflags_set() | i.rflags_cleared());
        }
        self.flags |= flags(i, cl);
    }

    /// `i` has run, or has been skipped.
    pub fn step(&mut self, i: &Instruction, cl: Option<u8>) {
        let before = self.flags;
        self.run(i, cl);
        if self.branched {
            self.flags |= before;
        }
        self.branched |= i.flow_control() != FlowControl::Next;
    }
}

/// What a case has left of what the manuals leave undefined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undefined {
    /// The status flags that are undefined at its end.
    pub flags: u64,
    /// One of its instructions has read an undefined flag, or may have before it faulted, so that whatever it does is undefined.
    pub read: bool,
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;
    use crate::bench::soft_guests;
    use crate::case::Test;

    fn left(case: &str) -> Undefined {
        let Test { case, .. } = case.parse().unwrap();
        let [_, mut plain] = soft_guests().unwrap();
        plain.trace(&case).unwrap().undefined()
    }

    fn flags_after(case: &str) -> u64 {
        let left = left(case);
        assert!(!left.read, "{case}");
        left.flags
    }

    #[test]
    fn flags_become_undefined_and_defined_again() {
        // and eax,ecx; mul ecx; add eax,ecx
        assert_eq!(flags_after("code=21c8"), AF);
        assert_eq!(flags_after("code=21c8.f7e1"), SF | ZF | AF | PF);
        assert_eq!(flags_after("code=21c8.f7e1.01c8"), 0);
    }

    #[test]
    fn an_instruction_that_faults_leaves_flags_alone() {
        // mul dword ptr [rbx]
        assert_eq!(flags_after("code=f723 rbx=20004000"), SF | ZF | AF | PF);
        assert_eq!(flags_after("code=f723 rbx=20003000"), 0);
    }

    #[test]
    fn shift_counts_decide() {
        // shl eax,cl
        assert_eq!(flags_after("code=d3e0 rcx=0"), 0);
        assert_eq!(flags_after("code=d3e0 rcx=20"), 0);
        assert_eq!(flags_after("code=d3e0 rcx=1"), AF);
        assert_eq!(flags_after("code=d3e0 rcx=5"), AF | OF);
        // shl al,9
        assert_eq!(flags_after("code=c0e009"), AF | OF | CF);
    }

    #[test]
    fn a_loop_shifts_by_another_count() {
        // shl al,cl; loop back to it
        assert_eq!(flags_after("code=d2e0.e2fc rcx=1"), AF);
        assert_eq!(flags_after("code=d2e0.e2fc rcx=9"), AF | OF | CF);
    }

    #[test]
    fn a_branch_keeps_what_it_skips() {
        // and eax,ecx; jmp over; add eax,ecx
        assert_eq!(flags_after("code=21c8.eb02.01c8"), AF);
        assert_eq!(flags_after("code=21c8.eb00.01c8"), 0);
    }

    #[test]
    fn a_branch_keeps_what_it_may_skip() {
        // and eax,ecx; je over; add eax,ecx
        let code = [0x21, 0xc8, 0x74, 2, 0x01, 0xc8];
        let mut flow = Flow::default();
        for i in &mut Decoder::new(64, &code, DecoderOptions::NONE) {
            flow.step(&i, None);
        }
        assert_eq!(flow.flags, AF);
    }

    #[test]
    fn branches_go_into_the_middle_of_instructions() {
        // jle into an operand, where AAS is.
        let case = "mode=32 code=7e16.9090909090.90909090909090.9090.909090909090.0b823f7f586b \
                    rip=17e7 flags=cf+af+zf+sf+if+of cs=5f ss=27 ds=6f";
        assert_eq!(left(case).flags, OF | SF | ZF | PF);
    }

    #[test]
    fn code_that_is_written_reads_what_is_undefined() {
        // bsr eax,ecx; mov byte ptr [rip],9ch; nop, which has become PUSHFQ.
        assert!(left("code=0fbdc1.c605000000009c.90 rcx=3").read);
        assert!(!left("code=0fbdc1.c6050000000098.90 rcx=3").read, "CWDE");
    }
}
