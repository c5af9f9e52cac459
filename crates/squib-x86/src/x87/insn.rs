//! Which x87 operation an instruction is, and on what.

use iced_x86::Code;

use crate::flags::Cond;

/// An x87 operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum X87Op {
    /// FADD: destination + source.
    Add,
    /// FMUL.
    Mul,
    /// FSUB: destination − source.
    Sub,
    /// FSUBR: source − destination.
    SubReverse,
    /// FDIV: destination ÷ source.
    Div,
    /// FDIVR: source ÷ destination.
    DivReverse,
    /// FCOM, FICOM: to C0, C2, C3.
    Compare,
    /// FUCOM: a quiet NaN raises nothing.
    CompareQuiet,
    /// FCOMI: to ZF, PF, CF.
    CompareFlags,
    /// FUCOMI.
    CompareFlagsQuiet,
    /// FTST: with 0.
    Test,
    /// FXAM.
    Examine,
    /// FLD, FILD, FBLD.
    Load,
    /// FLD1, FLDPI and their kin.
    LoadConstant(Constant),
    /// FST, FIST, FBSTP.
    Store,
    /// FSTPNCE: an empty ST(0) is popped without a stack fault.
    StoreUnlessEmpty,
    /// FISTTP.
    StoreTruncated,
    /// FXCH.
    Exchange,
    /// FCMOVcc: `input` of [`execute`](super::X87::execute) is 1 where the condition holds.
    MoveIf(Cond),
    /// FFREE.
    Free,
    /// FINCSTP.
    IncrementTop,
    /// FDECSTP.
    DecrementTop,
    /// FCHS.
    ChangeSign,
    /// FABS.
    Absolute,
    /// FSQRT.
    Root,
    /// FRNDINT.
    RoundToInt,
    /// FSCALE.
    Scale,
    /// FXTRACT.
    Extract,
    /// FPREM.
    Remainder,
    /// FPREM1.
    RemainderNearest,
    /// F2XM1.
    Exp2Minus1,
    /// FYL2X.
    Log2Times,
    /// FYL2XP1.
    Log2p1Times,
    /// FSIN.
    Sine,
    /// FCOS.
    Cosine,
    /// FSINCOS.
    SineCosine,
    /// FPTAN.
    Tangent,
    /// FPATAN.
    Arctangent,
    /// FLDCW.
    LoadControl,
    /// FNSTCW.
    StoreControl,
    /// FNSTSW, to memory or AX.
    StoreStatus,
    /// FNCLEX.
    ClearExceptions,
    /// FNINIT.
    Initialize,
    /// FNOP, and the 8087's and 287's instructions that do nothing any more.
    Nothing,
}

/// A constant that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Constant {
    /// FLD1.
    One,
    /// FLDL2T: log₂ 10.
    Log2Of10,
    /// FLDL2E: log₂ e.
    Log2OfE,
    /// FLDPI.
    Pi,
    /// FLDLG2: log₁₀ 2.
    Log10Of2,
    /// FLDLN2: ln 2.
    LnOf2,
    /// FLDZ.
    Zero,
}

/// The explicit operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// None, or AX.
    Implied,
    /// ST(i) is the source, ST(0) the destination.
    Source,
    /// ST(i) is the destination, ST(0) the source.
    Destination,
    /// A binary32 in memory.
    F32,
    /// A binary64 in memory.
    F64,
    /// A double extended number in memory.
    F80,
    /// A 16-bit integer in memory.
    I16,
    /// A 32-bit integer in memory.
    I32,
    /// A 64-bit integer in memory.
    I64,
    /// A packed decimal in memory.
    Bcd,
    /// A control or status word in memory.
    Word,
}

impl Place {
    /// Width of the memory operand in bytes; 0 if it is none.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Implied | Self::Source | Self::Destination => 0,
            Self::I16 | Self::Word => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
            Self::F80 | Self::Bcd => 10,
        }
    }
}

/// An x87 instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct X87Insn {
    /// What is done.
    pub op: X87Op,
    /// To what.
    pub place: Place,
    /// The i of ST(i), where `place` names that; 0 to 7.
    pub index: u8,
    /// How many registers are popped at the end, 0 to 2.
    pub pops: u8,
}

impl X87Insn {
    const fn new(op: X87Op, place: Place, pops: u8) -> Self {
        Self { op, place, index: 0, pops }
    }

    /// Whether a pending exception is raised (#MF) before the instruction: not for the control instructions
    /// of the form FNxxx.
    pub const fn waits(self) -> bool {
        !matches!(
            self.op,
            X87Op::StoreControl | X87Op::StoreStatus | X87Op::ClearExceptions | X87Op::Initialize
        )
    }

    /// Whether it is recorded as the last instruction in FIP, FDP and FOP (SDM vol. 1, 8.1.8): not a control
    /// instruction.
    pub const fn is_recorded(self) -> bool {
        self.waits() && !matches!(self.op, X87Op::LoadControl)
    }

    /// Whether memory is written.
    pub const fn is_store(self) -> bool {
        self.place.bytes() != 0
            && matches!(
                self.op,
                X87Op::Store | X87Op::StoreTruncated | X87Op::StoreControl | X87Op::StoreStatus
            )
    }
}

macro_rules! forms {
    ($($op:expr => $($code:ident: $place:ident $pops:literal),*;)*) => {
        /// The instruction's operation and operands, but for the index of ST(i): the caller sets it where the
        /// instruction has one (that of FCOMPP is 1). `None` if it is no x87 instruction, or FWAIT, or one
        /// that moves an image of the whole unit (FLDENV, FNSTENV, FNSAVE, FRSTOR, FXSAVE, FXRSTOR): those
        /// are functions of [`X87`](super::X87).
        pub const fn form(code: Code) -> Option<X87Insn> {
            use Constant::*;
            use X87Op::*;
            Some(match code {
                Code::Fcompp => X87Insn { index: 1, ..X87Insn::new(Compare, Place::Source, 2) },
                Code::Fucompp => X87Insn { index: 1, ..X87Insn::new(CompareQuiet, Place::Source, 2) },
                $($(Code::$code => X87Insn::new($op, Place::$place, $pops),)*)*
                _ => return None,
            })
        }
    };
}

forms! {
    Add =>
        Fadd_m32fp: F32 0, Fadd_m64fp: F64 0, Fiadd_m16int: I16 0, Fiadd_m32int: I32 0, Fadd_st0_sti: Source
        0, Fadd_sti_st0: Destination 0, Faddp_sti_st0: Destination 1;
    Mul =>
        Fmul_m32fp: F32 0, Fmul_m64fp: F64 0, Fimul_m16int: I16 0, Fimul_m32int: I32 0, Fmul_st0_sti: Source
        0, Fmul_sti_st0: Destination 0, Fmulp_sti_st0: Destination 1;
    Sub =>
        Fsub_m32fp: F32 0, Fsub_m64fp: F64 0, Fisub_m16int: I16 0, Fisub_m32int: I32 0, Fsub_st0_sti: Source
        0, Fsub_sti_st0: Destination 0, Fsubp_sti_st0: Destination 1;
    SubReverse =>
        Fsubr_m32fp: F32 0, Fsubr_m64fp: F64 0, Fisubr_m16int: I16 0, Fisubr_m32int: I32 0, Fsubr_st0_sti:
        Source 0, Fsubr_sti_st0: Destination 0, Fsubrp_sti_st0: Destination 1;
    Div =>
        Fdiv_m32fp: F32 0, Fdiv_m64fp: F64 0, Fidiv_m16int: I16 0, Fidiv_m32int: I32 0, Fdiv_st0_sti: Source
        0, Fdiv_sti_st0: Destination 0, Fdivp_sti_st0: Destination 1;
    DivReverse =>
        Fdivr_m32fp: F32 0, Fdivr_m64fp: F64 0, Fidivr_m16int: I16 0, Fidivr_m32int: I32 0, Fdivr_st0_sti:
        Source 0, Fdivr_sti_st0: Destination 0, Fdivrp_sti_st0: Destination 1;
    Compare =>
        Fcom_m32fp: F32 0, Fcom_m64fp: F64 0, Ficom_m16int: I16 0, Ficom_m32int: I32 0, Fcom_st0_sti: Source
        0, Fcom_st0_sti_DCD0: Source 0, Fcomp_m32fp: F32 1, Fcomp_m64fp: F64 1, Ficomp_m16int: I16 1,
        Ficomp_m32int: I32 1, Fcomp_st0_sti: Source 1, Fcomp_st0_sti_DCD8: Source 1, Fcomp_st0_sti_DED0:
        Source 1;
    CompareQuiet => Fucom_st0_sti: Source 0, Fucomp_st0_sti: Source 1;
    CompareFlags => Fcomi_st0_sti: Source 0, Fcomip_st0_sti: Source 1;
    CompareFlagsQuiet => Fucomi_st0_sti: Source 0, Fucomip_st0_sti: Source 1;
    Test => Ftst: Implied 0;
    Examine => Fxam: Implied 0;
    Load =>
        Fld_m32fp: F32 0, Fld_m64fp: F64 0, Fld_m80fp: F80 0, Fild_m16int: I16 0, Fild_m32int: I32 0,
        Fild_m64int: I64 0, Fbld_m80bcd: Bcd 0, Fld_sti: Source 0;
    LoadConstant(One) => Fld1: Implied 0;
    LoadConstant(Log2Of10) => Fldl2t: Implied 0;
    LoadConstant(Log2OfE) => Fldl2e: Implied 0;
    LoadConstant(Pi) => Fldpi: Implied 0;
    LoadConstant(Log10Of2) => Fldlg2: Implied 0;
    LoadConstant(LnOf2) => Fldln2: Implied 0;
    LoadConstant(Zero) => Fldz: Implied 0;
    Store =>
        Fst_m32fp: F32 0, Fst_m64fp: F64 0, Fist_m16int: I16 0, Fist_m32int: I32 0, Fst_sti: Destination 0,
        Fstp_m32fp: F32 1, Fstp_m64fp: F64 1, Fstp_m80fp: F80 1, Fistp_m16int: I16 1, Fistp_m32int: I32 1,
        Fistp_m64int: I64 1, Fbstp_m80bcd: Bcd 1, Fstp_sti: Destination 1,
        Fstp_sti_DFD0: Destination 1, Fstp_sti_DFD8: Destination 1;
    StoreUnlessEmpty => Fstpnce_sti: Destination 1;
    StoreTruncated => Fisttp_m16int: I16 1, Fisttp_m32int: I32 1, Fisttp_m64int: I64 1;
    Exchange => Fxch_st0_sti: Source 0, Fxch_st0_sti_DDC8: Source 0, Fxch_st0_sti_DFC8: Source 0;
    MoveIf(Cond::B) => Fcmovb_st0_sti: Source 0;
    MoveIf(Cond::E) => Fcmove_st0_sti: Source 0;
    MoveIf(Cond::Be) => Fcmovbe_st0_sti: Source 0;
    MoveIf(Cond::P) => Fcmovu_st0_sti: Source 0;
    MoveIf(Cond::Ae) => Fcmovnb_st0_sti: Source 0;
    MoveIf(Cond::Ne) => Fcmovne_st0_sti: Source 0;
    MoveIf(Cond::A) => Fcmovnbe_st0_sti: Source 0;
    MoveIf(Cond::Np) => Fcmovnu_st0_sti: Source 0;
    Free => Ffree_sti: Destination 0, Ffreep_sti: Destination 1;
    IncrementTop => Fincstp: Implied 0;
    DecrementTop => Fdecstp: Implied 0;
    ChangeSign => Fchs: Implied 0;
    Absolute => Fabs: Implied 0;
    Root => Fsqrt: Implied 0;
    RoundToInt => Frndint: Implied 0;
    Scale => Fscale: Implied 0;
    Extract => Fxtract: Implied 0;
    Remainder => Fprem: Implied 0;
    RemainderNearest => Fprem1: Implied 0;
    Exp2Minus1 => F2xm1: Implied 0;
    Log2Times => Fyl2x: Implied 1;
    Log2p1Times => Fyl2xp1: Implied 1;
    Sine => Fsin: Implied 0;
    Cosine => Fcos: Implied 0;
    SineCosine => Fsincos: Implied 0;
    Tangent => Fptan: Implied 0;
    Arctangent => Fpatan: Implied 1;
    LoadControl => Fldcw_m2byte: Word 0;
    StoreControl => Fnstcw_m2byte: Word 0;
    StoreStatus => Fnstsw_m2byte: Word 0, Fnstsw_AX: Implied 0;
    ClearExceptions => Fnclex: Implied 0;
    Initialize => Fninit: Implied 0;
    Nothing => Fnop: Implied 0, Fneni: Implied 0, Fndisi: Implied 0, Fnsetpm: Implied 0;
}
