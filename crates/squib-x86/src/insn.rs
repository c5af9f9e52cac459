//! Decoded instructions.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::size::Size;
use crate::state::{CodeMode, REG_ZERO, sreg};

/// A memory operand: `segment:[base + (index << scale) + disp]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemRef {
    /// Segment register number.
    pub seg: u8,
    /// Base register number, [`REG_ZERO`] when there is none.
    pub base: u8,
    /// Index register number, [`REG_ZERO`] when there is none.
    pub index: u8,
    /// Shift of the index, 0–3.
    pub scale: u8,
    /// Width of the effective address.
    pub addr: Size,
    /// Displacement. RIP-relative operands have their absolute address here, and no base.
    pub disp: u64,
    /// Whether the operand is RIP-relative.
    pub rip_relative: bool,
}

/// An operand, with memory operands in the form that the emitter wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand<M> {
    /// There is none.
    None,
    /// General-purpose register, by number.
    Reg(u8),
    /// AH, CH, DH, BH as 0–3.
    High(u8),
    /// Memory.
    Mem(M),
    /// Immediate, sign-extended to 64 bits as the encoding says. Also the target of a near branch.
    Imm(u64),
    /// SSE register.
    Xmm(u8),
    /// MMX register.
    Mm(u8),
    /// Segment register, by [`sreg`] number.
    Seg(u8),
    /// Control register.
    Cr(u8),
    /// Debug register.
    Dr(u8),
    /// x87 register ST(i).
    St(u8),
}

/// The repeat prefix of a string instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rep {
    /// None.
    None,
    /// REP, or REPE for CMPS and SCAS.
    Rep,
    /// REPNE.
    Repne,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub struct Insn {
    /// Exact form.
    pub code: Code,
    /// Name.
    pub mnemonic: Mnemonic,
    /// Length in bytes, 1–15.
    pub len: u8,
    /// Size of the first operand (of the accumulator for string instructions).
    pub size: Size,
    /// Size of the second operand.
    pub src_size: Size,
    /// Size of the stack slot that it pushes or pops.
    pub stack: Size,
    /// Width of the addresses that a string or loop instruction uses.
    pub addr: Size,
    /// Segment of an overridable implicit operand.
    pub seg: u8,
    /// Repeat prefix.
    pub rep: Rep,
    /// LOCK prefix.
    pub lock: bool,
    /// Operands in Intel order.
    pub ops: [Operand<MemRef>; 4],
    /// Address of this instruction.
    pub rip: u64,
    /// Address of the next.
    pub next: u64,
    /// Status flags that it changes or leaves undefined (RFLAGS bits).
    pub flags_written: u64,
    /// Status flags that it reads.
    pub flags_read: u64,
}

/// Why bytes do not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The instruction goes on beyond the bytes given.
    Truncated,
    /// These bytes are no instruction: #UD.
    Invalid,
    /// Longer than 15 bytes: #GP(0).
    TooLong,
}

/// Decodes a run of instructions.
pub struct InsnDecoder<'a> {
    decoder: Decoder<'a>,
    mode: CodeMode,
    raw: Instruction,
}

fn sreg_number(r: Register) -> u8 {
    (match r {
        Register::ES => sreg::ES,
        Register::CS => sreg::CS,
        Register::SS => sreg::SS,
        Register::FS => sreg::FS,
        Register::GS => sreg::GS,
        _ => sreg::DS,
    }) as u8
}

/// The segment of a memory operand. In 64-bit mode, prefixes for others than FS and GS are as if they were not there
/// (Intel SDM vol. 1, 3.4.2.1), and the base register alone says whether it is the stack's.
fn segment(i: &Instruction, mode: CodeMode) -> u8 {
    let named = i.memory_segment();
    let seg = match named {
        _ if mode != CodeMode::Bits64 => named,
        Register::FS | Register::GS => named,
        _ if matches!(i.memory_base(), Register::RSP | Register::RBP) => Register::SS,
        _ => Register::DS,
    };
    sreg_number(seg)
}

fn gpr_size(r: Register) -> Option<Size> {
    if r.is_gpr() || r.is_segment_register() {
        Size::from_bytes(if r.is_segment_register() { 2 } else { r.size() })
    } else {
        None
    }
}

fn status_flags(iced: u32) -> u64 {
    use iced_x86::RflagsBits as R;
    [(R::CF, 0), (R::PF, 2), (R::AF, 4), (R::ZF, 6), (R::SF, 7), (R::OF, 11)]
        .into_iter()
        .filter(|(bit, _)| iced & bit != 0)
        .fold(0, |acc, (_, shift)| acc | 1 << shift)
}

impl<'a> InsnDecoder<'a> {
    /// Decodes `bytes`, the first of which is at `rip`.
    pub fn new(bytes: &'a [u8], rip: u64, mode: CodeMode) -> Self {
        let decoder = Decoder::with_ip(mode.bits(), bytes, rip, DecoderOptions::NONE);
        Self { decoder, mode, raw: Instruction::default() }
    }

    /// Bytes consumed so far.
    pub fn position(&self) -> usize {
        self.decoder.position()
    }

    /// The instruction as iced-x86 sees it, for those who print it.
    pub fn raw(&self) -> &Instruction {
        &self.raw
    }

    /// Decodes the next instruction.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn next_insn(&mut self) -> Result<Insn, DecodeError> {
        let start = self.decoder.position();
        self.decoder.decode_out(&mut self.raw);
        if self.raw.is_invalid() {
            let left = self.decoder.max_position().saturating_sub(start);
            return Err(match self.decoder.last_error() {
                DecoderError::NoMoreBytes if left >= 15 => DecodeError::TooLong,
                DecoderError::NoMoreBytes => DecodeError::Truncated,
                _ if self.decoder.position() - start >= 15 && left > 15 => DecodeError::TooLong,
                _ => DecodeError::Invalid,
            });
        }
        Ok(lower(&self.raw, self.mode))
    }
}

/// Decodes one instruction.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(bytes: &[u8], rip: u64, mode: CodeMode) -> Result<Insn, DecodeError> {
    InsnDecoder::new(bytes, rip, mode).next_insn()
}

fn lower(i: &Instruction, mode: CodeMode) -> Insn {
    let mut ops = [Operand::None; 4];
    let mut sizes = [None; 4];
    let default_addr = match mode {
        CodeMode::Bits16 => Size::B2,
        CodeMode::Bits32 => Size::B4,
        CodeMode::Bits64 => Size::B8,
    };
    let mut addr = default_addr;
    for n in 0..i.op_count().min(4) {
        let at = n as usize;
        (ops[at], sizes[at]) = match i.op_kind(n) {
            OpKind::Register => register(i.op_register(n)),
            OpKind::Memory => {
                let m = memory(i, mode);
                addr = m.addr;
                (Operand::Mem(m), Size::from_bytes(i.memory_size().size()))
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                (Operand::Imm(i.near_branch_target()), None)
            }
            OpKind::FarBranch16 => (Operand::Imm(u64::from(i.far_branch16())), Some(Size::B2)),
            OpKind::FarBranch32 => (Operand::Imm(u64::from(i.far_branch32())), Some(Size::B4)),
            kind @ (OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI) => {
                addr = match kind {
                    OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Size::B2,
                    OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Size::B4,
                    _ => Size::B8,
                };
                (Operand::None, Size::from_bytes(i.memory_size().size()))
            }
            _ => (Operand::Imm(i.immediate(n)), None),
        };
    }
    addr = counter_size(i.code()).unwrap_or(addr);
    if matches!(i.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32) {
        ops[1] = Operand::Imm(u64::from(i.far_branch_selector()));
    }
    let size = sizes[0].or(sizes[1]).unwrap_or(default_addr);
    Insn {
        code: i.code(),
        mnemonic: i.mnemonic(),
        len: i.len() as u8,
        size,
        src_size: sizes[1].unwrap_or(size),
        stack: stack_slot(i, default_addr),
        addr,
        seg: segment(i, mode),
        rep: if i.has_repne_prefix() {
            Rep::Repne
        } else if i.has_rep_prefix() {
            Rep::Rep
        } else {
            Rep::None
        },
        lock: i.has_lock_prefix(),
        ops,
        rip: i.ip(),
        next: i.next_ip(),
        flags_written: status_flags(i.rflags_modified()),
        flags_read: status_flags(i.rflags_read()),
    }
}

/// Width of the counter of LOOP and JCXZ, which the address size chooses.
fn counter_size(code: Code) -> Option<Size> {
    Some(match code {
        Code::Jcxz_rel8_16 | Code::Jcxz_rel8_32 => Size::B2,
        Code::Jecxz_rel8_16 | Code::Jecxz_rel8_32 | Code::Jecxz_rel8_64 => Size::B4,
        Code::Jrcxz_rel8_16 | Code::Jrcxz_rel8_64 => Size::B8,
        Code::Loop_rel8_16_CX | Code::Loop_rel8_32_CX => Size::B2,
        Code::Loope_rel8_16_CX | Code::Loope_rel8_32_CX => Size::B2,
        Code::Loopne_rel8_16_CX | Code::Loopne_rel8_32_CX => Size::B2,
        Code::Loop_rel8_16_ECX | Code::Loop_rel8_32_ECX | Code::Loop_rel8_64_ECX => Size::B4,
        Code::Loope_rel8_16_ECX | Code::Loope_rel8_32_ECX | Code::Loope_rel8_64_ECX => Size::B4,
        Code::Loopne_rel8_16_ECX | Code::Loopne_rel8_32_ECX | Code::Loopne_rel8_64_ECX => Size::B4,
        Code::Loop_rel8_16_RCX | Code::Loop_rel8_64_RCX => Size::B8,
        Code::Loope_rel8_16_RCX | Code::Loope_rel8_64_RCX => Size::B8,
        Code::Loopne_rel8_16_RCX | Code::Loopne_rel8_64_RCX => Size::B8,
        _ => return None,
    })
}

fn stack_slot(i: &Instruction, default: Size) -> Size {
    match i.code() {
        Code::Leavew => Size::B2,
        Code::Leaved => Size::B4,
        Code::Leaveq => Size::B8,
        Code::Retnw | Code::Retnw_imm16 | Code::Retfw | Code::Retfw_imm16 | Code::Enterw_imm16_imm8 => {
            Size::B2
        }
        Code::Retnd | Code::Retnd_imm16 | Code::Retfd | Code::Retfd_imm16 | Code::Enterd_imm16_imm8 => {
            Size::B4
        }
        Code::Retnq | Code::Retnq_imm16 | Code::Retfq | Code::Retfq_imm16 | Code::Enterq_imm16_imm8 => {
            Size::B8
        }
        _ => Size::from_bytes(i.stack_pointer_increment().unsigned_abs() as usize).unwrap_or(default),
    }
}

fn register(r: Register) -> (Operand<MemRef>, Option<Size>) {
    let op = match r {
        Register::AH => Operand::High(0),
        Register::CH => Operand::High(1),
        Register::DH => Operand::High(2),
        Register::BH => Operand::High(3),
        _ if r.is_gpr() => Operand::Reg(r.full_register().number() as u8),
        _ if r.is_segment_register() => Operand::Seg(sreg_number(r)),
        _ if r.is_xmm() => Operand::Xmm(r.number() as u8),
        _ if r.is_mm() => Operand::Mm(r.number() as u8),
        _ if r.is_cr() => Operand::Cr(r.number() as u8),
        _ if r.is_dr() => Operand::Dr(r.number() as u8),
        _ if r.is_st() => Operand::St(r.number() as u8),
        _ => Operand::None,
    };
    (op, gpr_size(r))
}

fn memory(i: &Instruction, mode: CodeMode) -> MemRef {
    let number = |r: Register| if r == Register::None { REG_ZERO } else { r.full_register().number() as u8 };
    let (base, index) = (i.memory_base(), i.memory_index());
    let rip_relative = matches!(base, Register::RIP | Register::EIP);
    let from = |r: Register| match r {
        Register::None => None,
        Register::RIP => Some(Size::B8),
        Register::EIP => Some(Size::B4),
        _ => Size::from_bytes(r.size()),
    };
    let addr = from(base).or(from(index)).unwrap_or(match (i.memory_displ_size(), mode) {
        (2, _) | (0 | 1, CodeMode::Bits16) => Size::B2,
        (8, _) | (0 | 1, CodeMode::Bits64) => Size::B8,
        _ => Size::B4,
    });
    MemRef {
        seg: segment(i, mode),
        base: if rip_relative { REG_ZERO } else { number(base) },
        index: number(index),
        scale: i.memory_index_scale().trailing_zeros() as u8,
        addr,
        disp: i.memory_displacement64(),
        rip_relative,
    }
}
