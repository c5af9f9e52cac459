//! Operands of one instruction.

use iced_x86::{Code, Instruction, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register};

use super::{Draft, number};
use crate::layout::{self, PAGE};
use crate::values;

impl Draft<'_> {
    /// An instruction of this form with random operands; `None` where this attempt led to nothing.
    pub(super) fn make(&mut self, form: Code) -> Option<Instruction> {
        let info = form.op_code();
        let mut i = Instruction::default();
        i.set_code(form);
        let string = info.op_kinds().iter().any(|k| matches!(k, K::seg_rSI | K::es_rDI));
        let address32 = self.r.chance(6);
        for n in 0..info.op_count() {
            self.operand(&mut i, n, info.op_kind(n), address32)?;
        }
        if info.can_use_lock_prefix() {
            let memory = i.op0_kind() == OpKind::Memory;
            i.set_has_lock_prefix(self.r.chance(if memory { 25 } else { 3 }));
        }
        if string {
            self.prepare_string(&mut i);
        }
        match form.mnemonic() {
            M::Ret if self.is_intact(4) => self.target_words.push((self.state.gpr[4], self.code.len())),
            M::Loop | M::Loope | M::Loopne if self.is_free(1) && self.r.chance(80) => {
                let count = self.r.below(4);
                self.fix(1, count);
            }
            M::Div | M::Idiv if self.is_free(2) && self.r.chance(70) => {
                // Quotients that fit.
                let high = self.r.pick(&[0, 0, 1, u64::MAX]);
                self.fix(2, high);
            }
            M::Cmpxchg if self.is_free(0) && i.op0_kind() == OpKind::Register && self.r.chance(50) => {
                let same = self.state.gpr[number(i.op0_register())];
                self.fix(0, same);
            }
            _ => {}
        }
        Some(i)
    }

    fn operand(&mut self, i: &mut Instruction, n: u32, kind: K, address32: bool) -> Option<()> {
        let wide = |r: &mut Self, first: Register| first + r.r.below(16) as u32;
        let register = match kind {
            K::mem | K::mem_offs => return self.memory(i, n, kind == K::mem_offs, address32),
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem
                if self.r.chance(50) =>
            {
                return self.memory(i, n, false, address32);
            }
            K::r8_reg | K::r8_opcode | K::r8_or_mem => Register::AL + self.r.below(20) as u32,
            K::r16_reg | K::r16_rm | K::r16_opcode | K::r16_or_mem => wide(self, Register::AX),
            K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_or_mem => wide(self, Register::EAX),
            K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_or_mem => wide(self, Register::RAX),
            K::mm_reg | K::mm_rm | K::mm_or_mem => Register::MM0 + self.r.below(8) as u32,
            K::xmm_reg | K::xmm_rm | K::xmm_or_mem => wide(self, Register::XMM0),
            K::cr_reg => {
                self.r.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4, Register::CR8])
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
            _ => return self.other_operand(i, n, kind, address32),
        };
        i.set_op_kind(n, OpKind::Register);
        i.set_op_register(n, register);
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

    fn other_operand(&mut self, i: &mut Instruction, n: u32, kind: K, address32: bool) -> Option<()> {
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
            K::seg_rSI => {
                if address32 {
                    OpKind::MemorySegESI
                } else {
                    OpKind::MemorySegRSI
                }
            }
            K::es_rDI => {
                if address32 {
                    OpKind::MemoryESEDI
                } else {
                    OpKind::MemoryESRDI
                }
            }
            K::seg_rDI => {
                let at = self.place(16, false);
                self.fill(at, 16);
                self.point(7, at);
                if address32 { OpKind::MemorySegEDI } else { OpKind::MemorySegRDI }
            }
            K::seg_rBX_al => {
                let at = self.place(1, false);
                self.point(3, at.wrapping_sub(self.state.gpr[0] & 0xff));
                self.fixed |= 1;
                i.set_memory_base(if address32 { Register::EBX } else { Register::RBX });
                i.set_memory_index(Register::AL);
                OpKind::Memory
            }
            K::br64_1 | K::br64_4 => {
                // Any target; `aim` gives it the right one.
                i.set_near_branch64(self.ip);
                OpKind::NearBranch64
            }
            _ => return None,
        };
        i.set_op_kind(n, op);
        let value = match kind {
            K::imm8_const_1 => 1,
            // A frame that fits on the stack, and any nesting level.
            K::imm16 if i.mnemonic() == M::Enter => self.r.below(64),
            K::imm16 if i.mnemonic() == M::Ret => 8 * self.r.below(8),
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
        for register in [6, 7] {
            // Often close to each other, so that they overlap.
            let at = if self.r.chance(30) {
                near.wrapping_add(self.r.below(32)).wrapping_sub(16)
            } else {
                self.place(len.max(1), false)
            };
            let at = if down && self.r.chance(50) { at.wrapping_add(len * count.min(40)) } else { at };
            self.point(register, at);
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
        if self.r.chance(70) {
            let bytes = values::bytes(self.r, len);
            self.patches.push((at, bytes));
        }
    }

    fn memory(&mut self, i: &mut Instruction, n: u32, direct: bool, address32: bool) -> Option<()> {
        i.set_op_kind(n, OpKind::Memory);
        let len = match i.memory_size().size() {
            0 => 8,
            len => len,
        };
        let aligned = len >= 16 && self.r.chance(75);
        let at = self.place(len as u64, aligned);
        self.fill(at, len);
        if matches!(i.mnemonic(), M::Jmp | M::Call) {
            self.target_words.push((at, self.code.len()));
        }
        let mut offset = at;
        if self.r.chance(12) && !address32 {
            let (segment, base) =
                self.r.pick(&[(Register::FS, layout::FS_BASE), (Register::GS, layout::GS_BASE)]);
            i.set_segment_prefix(segment);
            offset = at.wrapping_sub(base);
        }
        if direct {
            let narrow = address32 && offset <= u64::from(u32::MAX);
            i.set_memory_displ_size(if narrow { 4 } else { 8 });
            i.set_memory_displacement64(offset);
            return Some(());
        }
        let fits = i32::try_from(offset as i64).is_ok();
        match self.r.below(10) {
            0 if fits => {
                i.set_memory_base(Register::RIP);
                i.set_memory_displacement64(offset);
                i.set_memory_displ_size(8);
            }
            1 if fits => {
                i.set_memory_displacement64(offset);
                i.set_memory_displ_size(8);
            }
            2..6 => self.based(i, offset, address32, false)?,
            _ => self.based(i, offset, address32, true)?,
        }
        Some(())
    }

    /// `[base + index * scale + disp]`.
    fn based(&mut self, i: &mut Instruction, offset: u64, address32: bool, indexed: bool) -> Option<()> {
        let first = if address32 { Register::EAX } else { Register::RAX };
        let base = self.r.below(16) as usize;
        let mut disp = match self.r.below(4) {
            0 => 0,
            1 => i64::from(self.r.next() as i8),
            2 => i64::from(values::integer(self.r) as i32),
            _ => i64::from(self.r.next() as i32),
        };
        let mut scaled = 0;
        if indexed {
            let index = self.r.below(16) as usize;
            if index == 4 {
                return None;
            }
            let scale = self.r.below(4) as u32;
            i.set_memory_index(first + index as u32);
            i.set_memory_index_scale(1 << scale);
            if index == base {
                // One register in both places: only by chance does it point anywhere.
                i.set_memory_base(first + base as u32);
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
            if address32 {
                value = value & 0xffff_ffff | self.r.next() << 32;
            }
            self.fix(base, value);
        } else if self.is_intact(base) {
            let need = offset.wrapping_sub(scaled).wrapping_sub(self.state.gpr[base]);
            disp = if address32 { i64::from(need as i32) } else { need as i64 };
        }
        let disp = i32::try_from(disp).ok()?;
        i.set_memory_base(first + base as u32);
        i.set_memory_displ_size(u32::from(disp != 0 || base & 7 == 5));
        // The encoder wants 32-bit addresses' displacements within 32 bits.
        i.set_memory_displacement64(if address32 { u64::from(disp as u32) } else { i64::from(disp) as u64 });
        Some(())
    }
}
