//! Operands of one instruction.

use iced_x86::{Code, Instruction, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register};

use super::area::AREA;
use super::{Draft, number};
use crate::forms;
use crate::layout::{self, Mode, PAGE};
use crate::state::fx;
use crate::values;

/// How wide addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Bits16,
    Bits32,
    Bits64,
}

impl Width {
    /// General register `number` in this width.
    fn register(self, number: usize) -> Register {
        let first = match self {
            Self::Bits16 => Register::AX,
            Self::Bits32 => Register::EAX,
            Self::Bits64 => Register::RAX,
        };
        first + number as u32
    }

    const fn bytes(self) -> u32 {
        match self {
            Self::Bits16 => 2,
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }

    const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// Bytes of a cache line.
const LINE: u64 = 64;

/// Of 100 operands across two lines, how many are locked. Kernels and hypervisors take them for attacks, and slow them down by tens
/// of milliseconds each.
const SPLIT_LOCKS: u64 = 1;

impl Draft<'_> {
    /// An instruction of this form with random operands; `None` where this attempt led to nothing.
    pub(super) fn make(&mut self, form: Code) -> Option<Instruction> {
        let info = form.op_code();
        let mut i = Instruction::default();
        i.set_code(form);
        let string = info.op_kinds().iter().any(|k| matches!(k, K::seg_rSI | K::es_rDI));
        let narrow = self.r.chance(6);
        let width = match (self.pool.mode, narrow) {
            (Mode::Bits32, false) => Width::Bits32,
            (Mode::Bits32, true) => Width::Bits16,
            (_, false) => Width::Bits64,
            (_, true) => Width::Bits32,
        };
        self.prepare_segment(form);
        if forms::is_xsave(form.mnemonic()) {
            self.prepare_xsave(&mut i, width)?;
        } else {
            for n in 0..info.op_count() {
                self.operand(&mut i, n, info.op_kind(n), width)?;
            }
        }
        if info.can_use_lock_prefix() {
            let memory = i.op0_kind() == OpKind::Memory;
            i.set_has_lock_prefix(self.r.chance(match (memory, self.splits) {
                (true, true) => SPLIT_LOCKS,
                (true, false) => 25,
                (false, _) => 3,
            }));
        }
        if string {
            self.prepare_string(&mut i);
        }
        self.finish_segment(&i);
        match form.mnemonic() {
            M::Ret if self.is_intact(4) => self.target_words.push((self.stack_top(), self.code.len())),
            M::Loop | M::Loope | M::Loopne if self.is_free(1) && self.r.chance(80) => {
                let count = self.r.below(4);
                self.fix(1, count);
            }
            M::Div | M::Idiv if self.is_free(2) && self.r.chance(70) => {
                // Quotients that fit.
                let high = self.r.pick(&[0, 0, 1, u64::MAX]);
                self.fix(2, high);
            }
            M::F2xm1 | M::Fyl2xp1 => {
                self.limit_st0(if form.mnemonic() == M::F2xm1 { 0x3ffe } else { 0x3ffc });
            }
            M::Cmpxchg if self.is_free(0) && i.op0_kind() == OpKind::Register && self.r.chance(50) => {
                let same = self.state.gpr[number(i.op0_register())];
                self.fix(0, same);
            }
            _ => {}
        }
        Some(i)
    }

    /// Keeps ST0 within the range for which an instruction is defined, whose largest exponent this is (Intel SDM
    /// vol. 2, "F2XM1", "FYL2XP1").
    fn limit_st0(&mut self, exponent: u128) {
        let value = self.state.get(fx::ST, 10);
        let own = value >> 64 & 0x7fff;
        if own > exponent && own != 0x7fff {
            let less = exponent - u128::from(self.r.below(20));
            self.state.put(fx::ST, value & !(0x7fff << 64) | less << 64, 10);
        }
    }

    fn operand(&mut self, i: &mut Instruction, n: u32, kind: K, width: Width) -> Option<()> {
        let wide = |r: &mut Self, first: Register| first + r.r.below(r.registers()) as u32;
        let register = match kind {
            K::mem | K::mem_offs => return self.memory(i, n, kind == K::mem_offs, width),
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem
                if self.r.chance(50) =>
            {
                return self.memory(i, n, false, width);
            }
            K::r8_reg | K::r8_opcode | K::r8_or_mem => {
                // AL to BH, and in 64-bit mode SPL to R15L.
                Register::AL + self.r.below(if self.pool.mode == Mode::Bits32 { 8 } else { 20 }) as u32
            }
            K::r16_reg | K::r16_rm | K::r16_opcode | K::r16_or_mem => wide(self, Register::AX),
            K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_or_mem | K::r32_vvvv => wide(self, Register::EAX),
            K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_or_mem | K::r64_vvvv => wide(self, Register::RAX),
            K::seg_reg => Register::ES + self.r.below(6) as u32,
            K::mm_reg | K::mm_rm | K::mm_or_mem => Register::MM0 + self.r.below(8) as u32,
            K::xmm_reg | K::xmm_rm | K::xmm_or_mem => wide(self, Register::XMM0),
            K::cr_reg => {
                let some = [Register::CR0, Register::CR2, Register::CR3, Register::CR4, Register::CR8];
                // In 32-bit code only AMD's processors have a way to write CR8.
                self.r.pick(&some[..if self.pool.mode == Mode::Bits32 { 4 } else { 5 }])
            }
            K::dr_reg => Register::DR0 + self.r.below(8) as u32,
            K::es => Register::ES,
            K::cs => Register::CS,
            K::ss => Register::SS,
            K::ds => Register::DS,
            K::fs => Register::FS,
            K::gs => Register::GS,
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            K::st0 => Register::ST0,
            K::sti_opcode => Register::ST0 + self.r.below(8) as u32,
            _ => return self.other_operand(i, n, kind, width),
        };
        i.set_op_kind(n, OpKind::Register);
        i.set_op_register(n, register);
        if kind != K::seg_reg && self.content.is_some() {
            self.hold_content(number(register));
        }
        let indirect = matches!(i.mnemonic(), M::Jmp | M::Call);
        if indirect && self.is_free(number(register)) {
            // Which instruction it is decides where it may go; `aim` makes an address of it.
            let register = number(register);
            let from = self.code.len() as u64;
            self.fix(register, from);
            self.targets.push(register);
        }
        Some(())
    }

    fn other_operand(&mut self, i: &mut Instruction, n: u32, kind: K, width: Width) -> Option<()> {
        let op = match kind {
            K::imm8 if n == 1 && i.op0_kind() == OpKind::Immediate16 => OpKind::Immediate8_2nd,
            K::imm8 | K::imm8_const_1 => OpKind::Immediate8,
            K::imm8sex16 => OpKind::Immediate8to16,
            K::imm8sex32 => OpKind::Immediate8to32,
            K::imm8sex64 => OpKind::Immediate8to64,
            K::imm16 => OpKind::Immediate16,
            K::imm32 => OpKind::Immediate32,
            K::imm32sex64 => OpKind::Immediate32to64,
            K::imm64 => OpKind::Immediate64,
            K::seg_rSI => match width {
                Width::Bits16 => OpKind::MemorySegSI,
                Width::Bits32 => OpKind::MemorySegESI,
                Width::Bits64 => OpKind::MemorySegRSI,
            },
            K::es_rDI => match width {
                Width::Bits16 => OpKind::MemoryESDI,
                Width::Bits32 => OpKind::MemoryESEDI,
                Width::Bits64 => OpKind::MemoryESRDI,
            },
            K::seg_rDI => {
                let at = self.place(16, false);
                self.fill(at, 16);
                self.point(7, at.wrapping_sub(self.base_of(Register::DS)));
                match width {
                    Width::Bits16 => OpKind::MemorySegDI,
                    Width::Bits32 => OpKind::MemorySegEDI,
                    Width::Bits64 => OpKind::MemorySegRDI,
                }
            }
            K::seg_rBX_al => {
                let at = self.place(1, false).wrapping_sub(self.base_of(Register::DS));
                self.point(3, at.wrapping_sub(self.state.gpr[0] & 0xff));
                self.fixed |= 1;
                i.set_memory_base(width.register(3));
                i.set_memory_index(Register::AL);
                OpKind::Memory
            }
            K::br64_1 | K::br64_4 => {
                // Any target; `aim` gives it the right one.
                i.set_near_branch64(self.ip);
                OpKind::NearBranch64
            }
            K::br32_1 | K::br32_4 => {
                i.set_near_branch32(self.ip as u32);
                OpKind::NearBranch32
            }
            K::br16_1 | K::br16_2 => {
                i.set_near_branch16(self.ip as u16);
                OpKind::NearBranch16
            }
            K::farbr2_2 | K::farbr4_2 => return self.far_pointer(i, n, kind),
            _ => return None,
        };
        i.set_op_kind(n, op);
        let value = match kind {
            K::imm8_const_1 => 1,
            // A frame that fits on the stack, and any nesting level.
            K::imm16 if i.mnemonic() == M::Enter => self.r.below(64),
            K::imm16 if matches!(i.mnemonic(), M::Ret | M::Retf) => 8 * self.r.below(8),
            _ => values::integer(self.r),
        };
        match op {
            OpKind::Immediate8 => i.set_immediate8(value as u8),
            OpKind::Immediate8_2nd => {
                i.set_immediate8_2nd(value as u8 & if self.r.chance(70) { 3 } else { 0xff });
            }
            OpKind::Immediate8to16 => i.set_immediate8to16(i16::from(value as i8)),
            OpKind::Immediate8to32 => i.set_immediate8to32(i32::from(value as i8)),
            OpKind::Immediate8to64 => i.set_immediate8to64(i64::from(value as i8)),
            OpKind::Immediate16 => i.set_immediate16(value as u16),
            OpKind::Immediate32 => i.set_immediate32(value as u32),
            OpKind::Immediate32to64 => i.set_immediate32to64(i64::from(value as i32)),
            OpKind::Immediate64 => i.set_immediate64(value),
            _ => {}
        }
        Some(())
    }

    /// RSI, RDI and RCX of a string instruction.
    fn prepare_string(&mut self, i: &mut Instruction) {
        let len = i.memory_size().size() as u64;
        let repeats = i.code().op_code().can_use_rep_prefix() && self.r.chance(70);
        let down = self.state.rflags >> 10 & 1 != 0;
        let count = match self.r.below(10) {
            0 => 0,
            1 => values::integer(self.r),
            2 => self.r.below(600),
            _ => self.r.below(24),
        };
        if repeats {
            if i.code().op_code().can_use_repne_prefix() && self.r.chance(40) {
                i.set_has_repne_prefix(true);
            } else {
                i.set_has_rep_prefix(true);
            }
            if self.is_free(1) {
                self.fix(1, count);
            }
        }
        let near = self.place(len.max(1), false);
        for (register, segment) in [(6, Register::DS), (7, Register::ES)] {
            // Often close to each other, so that they overlap.
            let at = if self.r.chance(30) {
                near.wrapping_add(self.r.below(32)).wrapping_sub(16)
            } else {
                self.place(len.max(1), false)
            };
            let at = if down && self.r.chance(50) { at.wrapping_add(len * count.min(40)) } else { at };
            self.point(register, at.wrapping_sub(self.base_of(segment)));
        }
        if self.r.chance(40) {
            // Equal elements, so that comparisons go on.
            let byte = self.r.pick(&[0, self.state.gpr[0] as u8]);
            for register in [6, 7] {
                self.patches.push((self.state.gpr[register] & !63, vec![byte; 128]));
            }
        }
    }

    /// Makes a register point there, if it can still be chosen.
    fn point(&mut self, register: usize, addr: u64) {
        if self.is_free(register) {
            self.fix(register, addr);
        }
    }

    /// An address for an operand of `len` bytes.
    fn place(&mut self, len: u64, aligned: bool) -> u64 {
        let r = &mut *self.r;
        let across = 1 + r.below(len.max(2) - 1);
        let at = match r.below(40) {
            0..20 => layout::DATA + 64 + r.below(2 * PAGE - 1024),
            20..22 => layout::STACK + PAGE - 64 + r.below(256),
            22..26 => layout::DATA + PAGE - across,
            26..28 => layout::READ_ONLY - across,
            28 => layout::READ_ONLY + r.below(PAGE - 512),
            29..31 => layout::READ_ONLY + PAGE - across,
            31 => layout::DATA - across,
            32 => layout::BASE + r.below(64),
            33 => layout::DATA + 2 * PAGE - len,
            34 => layout::CODE + PAGE + 0x800 + r.below(64),
            35 => r.pick(&[1 << 47, 0x7fff_ffff_fff9, 1 << 63, u64::MAX - 3, 0xffff_8000_0000_0000, 0]),
            _ => layout::DATA + 16 * r.below(64),
        };
        if aligned { at & !15 } else { at }
    }

    /// Puts something into memory that an instruction is to read.
    fn fill(&mut self, at: u64, len: usize) {
        if let Some(content) = self.content.take() {
            self.patches.push((at, content));
        } else if self.r.chance(70) {
            let bytes = values::bytes(self.r, len);
            self.patches.push((at, bytes));
        }
    }

    /// A memory operand.
    fn memory(&mut self, i: &mut Instruction, n: u32, direct: bool, width: Width) -> Option<()> {
        let len = match i.memory_size().size() {
            0 => 8,
            len => len,
        };
        let aligned = len >= 16 && self.r.chance(75);
        let mut at = self.place(len as u64, aligned);
        let splits = |at: u64| at % LINE + len as u64 > LINE;
        // XCHG locks the bus without being told to.
        if i.mnemonic() == M::Xchg && splits(at) && !self.r.chance(SPLIT_LOCKS) {
            at &= !(LINE - 1);
        }
        self.splits = splits(at);
        self.fill(at, len);
        if matches!(i.mnemonic(), M::Jmp | M::Call) && !forms::is_far(i.code()) {
            self.target_words.push((at, self.code.len()));
        }
        self.address(i, n, at, direct, width)
    }

    /// Operand `n` is at linear address `at`.
    pub(super) fn address(
        &mut self,
        i: &mut Instruction,
        n: u32,
        at: u64,
        direct: bool,
        width: Width,
    ) -> Option<()> {
        i.set_op_kind(n, OpKind::Memory);
        let bits64 = width == Width::Bits64;
        let mut segment = Register::DS;
        if self.r.chance(12) && (self.pool.mode == Mode::Bits32 || bits64) || width == Width::Bits16 {
            segment = self.r.pick(&[Register::FS, Register::GS, Register::ES]);
            i.set_segment_prefix(segment);
        }
        let offset = at.wrapping_sub(self.base_of(segment)) & self.address_mask();
        // Whether a long operand may go round the end of a segment of 4 GiB depends on how it is cut into accesses.
        let len = if forms::is_xsave(i.mnemonic()) { AREA } else { i.memory_size().size() } as u64;
        if len > 16 && self.pool.mode == Mode::Bits32 && offset + len > 1 << 32 {
            return None;
        }
        if direct {
            let narrow = width != Width::Bits64 && offset <= width.mask();
            i.set_memory_displ_size(match (narrow, self.pool.mode) {
                (true, _) => width.bytes(),
                (false, Mode::Bits32) => 4,
                (false, _) => 8,
            });
            i.set_memory_displacement64(offset);
            return Some(());
        }
        if width == Width::Bits16 {
            return self.based_16(i, offset);
        }
        let fits = !bits64 && self.pool.mode == Mode::Bits32 || i32::try_from(offset as i64).is_ok();
        match self.r.below(10) {
            0 if fits && self.pool.mode != Mode::Bits32 => {
                i.set_memory_base(Register::RIP);
                i.set_memory_displacement64(offset);
                i.set_memory_displ_size(8);
            }
            1 if fits => {
                i.set_memory_displacement64(offset);
                i.set_memory_displ_size(width.bytes());
            }
            2..6 => self.based(i, offset, width, false)?,
            _ => self.based(i, offset, width, true)?,
        }
        Some(())
    }

    /// `[BX or BP + SI or DI + disp]`.
    fn based_16(&mut self, i: &mut Instruction, offset: u64) -> Option<()> {
        let base = self.r.pick(&[3, 5]);
        let index = self.r.pick(&[6, 7]);
        let mut rest = offset;
        if self.r.chance(60) {
            i.set_memory_index(Width::Bits16.register(index));
            rest = rest.wrapping_sub(self.state.gpr[index]);
            self.fixed |= 1 << index;
        }
        let disp = if self.r.chance(50) { 0 } else { self.r.next() & 0xffff };
        if self.is_free(base) {
            let high = self.r.next() << 16;
            self.fix(base, rest.wrapping_sub(disp) & 0xffff | high);
        }
        i.set_memory_base(Width::Bits16.register(base));
        i.set_memory_displacement64(disp);
        i.set_memory_displ_size(u32::from(disp != 0 || base == 5) * 2);
        Some(())
    }

    /// `[base + index * scale + disp]`.
    fn based(&mut self, i: &mut Instruction, offset: u64, width: Width, indexed: bool) -> Option<()> {
        let narrow = width == Width::Bits32;
        let base = self.r.below(self.registers()) as usize;
        let mut disp = match self.r.below(4) {
            0 => 0,
            1 => i64::from(self.r.next() as i8),
            2 => i64::from(values::integer(self.r) as i32),
            _ => i64::from(self.r.next() as i32),
        };
        let mut scaled = 0;
        if indexed {
            let index = self.r.below(self.registers()) as usize;
            if index == 4 {
                return None;
            }
            let scale = self.r.below(4) as u32;
            i.set_memory_index(width.register(index));
            i.set_memory_index_scale(1 << scale);
            if index == base {
                // One register in both places: only by chance does it point anywhere.
                i.set_memory_base(width.register(base));
                i.set_memory_displ_size(1);
                i.set_memory_displacement64(disp as u64);
                return Some(());
            }
            if self.is_intact(index) {
                scaled = self.state.gpr[index] << scale;
                self.fixed |= 1 << index;
            }
        }
        if self.is_free(base) {
            let mut value = offset.wrapping_sub(scaled).wrapping_sub(disp as u64);
            if narrow {
                value = value & 0xffff_ffff | self.r.next() << 32;
            }
            self.fix(base, value);
        } else if self.is_intact(base) {
            let need = offset.wrapping_sub(scaled).wrapping_sub(self.state.gpr[base]);
            disp = if narrow { i64::from(need as i32) } else { need as i64 };
        }
        let disp = i32::try_from(disp).ok()?;
        i.set_memory_base(width.register(base));
        i.set_memory_displ_size(u32::from(disp != 0 || base & 7 == 5));
        // The encoder wants 32-bit addresses' displacements within 32 bits.
        i.set_memory_displacement64(if narrow { u64::from(disp as u32) } else { i64::from(disp) as u64 });
        Some(())
    }
}
