//! Selectors and far pointers.

use iced_x86::{Code, Instruction, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register};

use super::Draft;
use crate::forms;
use crate::layout::{self, LDT, Mode, selector};

/// Selectors of code segments that user code may go to, and of some that it may not.
const CODE: [u16; 10] = [
    selector::USER_CODE,
    selector::USER_CODE,
    selector::USER_CODE32,
    selector::USER_CODE32,
    selector::KERNEL_CODE,
    0x37,
    0x3f,
    0x57,
    0x5f,
    0x67,
];

/// Local data segments whose limits matter.
const LIMITED: [u16; 5] = [0x17, 0x1f, 0x27, 0x2f, 0x6f];

/// A local code segment with a base and a limit, and its last offset.
const LIMITED_CODE: u16 = 0x5f;
const LAST: u64 = 0x17ff;

/// Those that may be stacks: they expand downwards, one of them with a 16-bit stack pointer.
const STACKS: [u16; 2] = [0x27, 0x2f];

impl Draft<'_> {
    /// The base of a segment as long as nothing loads it.
    pub(super) fn base_of(&self, segment: Register) -> u64 {
        let index = segment.number();
        match (segment, self.pool.mode) {
            (Register::FS | Register::GS, _) => self.state.bases[index - 4],
            (_, Mode::Bits32) => layout::base_of(self.state.segments[index]),
            _ => 0,
        }
    }

    /// The base of CS as long as nothing loads it.
    pub(super) fn code_base(&self) -> u64 {
        self.pool.mode.code_base(self.state.segments[1])
    }

    /// Where a branch may go that is to go wrong: nowhere, to data, and in a segment with a limit to both sides of that.
    pub(super) fn wrong_destination(&mut self) -> u64 {
        if self.state.segments[1] == LIMITED_CODE && self.r.chance(80) {
            return self.r.pick(&[
                LAST - 1,
                LAST,
                LAST + 1,
                LAST + 0x100,
                0x1_0000 + LAST,
                0xffff,
                u32::MAX.into(),
            ]);
        }
        let addr =
            self.r.pick(&[layout::DATA, layout::BASE, layout::READ_ONLY, layout::CODE + 2 * layout::PAGE]);
        addr.wrapping_sub(self.code_base()) & self.address_mask()
    }

    /// The linear address of the top of the stack, as long as nothing moves it.
    pub(super) fn stack_top(&self) -> u64 {
        self.base_of(Register::SS).wrapping_add(self.state.gpr[4]) & self.address_mask()
    }

    /// In compatibility mode, segments with limits now and then.
    pub(super) fn choose_segments(&mut self) {
        if self.pool.mode != Mode::Bits32 {
            return;
        }
        for (index, percent) in [(0, 15), (3, 6), (4, 12), (5, 12)] {
            if self.r.chance(percent) {
                let chosen = self.r.pick(&LIMITED);
                self.state.segments[index] = chosen;
                if index >= 4 {
                    self.state.bases[index - 4] = layout::base_of(chosen);
                }
            }
        }
        if self.r.chance(8) {
            self.state.segments[1] = LIMITED_CODE;
            let before_end = LAST - self.r.below(40);
            let offset = self.state.rip - self.code_base();
            self.state.rip = if self.r.chance(50) { before_end } else { offset.min(before_end) };
            self.ip = self.state.rip;
        }
        if self.r.chance(5) {
            let chosen = self.r.pick(&STACKS);
            self.state.segments[2] = chosen;
            for register in [4, 5] {
                let offset = self.state.gpr[register].wrapping_sub(layout::base_of(chosen));
                self.state.gpr[register] = offset & self.address_mask();
            }
        }
    }

    /// A selector of any kind.
    fn selector(&mut self) -> u16 {
        let local = 8 * self.r.below(LDT.len() as u64 + 1) as u16 + 4;
        match self.r.below(8) {
            0 => self.r.below(4) as u16,
            1 => 8 * self.r.below(15) as u16 + self.r.below(4) as u16,
            2 => local + self.r.below(4) as u16,
            3 => self.r.pick(&[0x80, 0xfff8, 0x1234, 0x84, 0x7c]),
            4 | 5 => selector::USER_DATA,
            _ => local | 3,
        }
    }

    /// Decides what the operand in a register or in memory holds, where a selector is wanted.
    pub(super) fn prepare_segment(&mut self, form: Code) {
        let m = form.mnemonic();
        let kinds = form.op_code().op_kinds();
        let bytes = match m {
            M::Lar | M::Lsl | M::Verr | M::Verw => 0,
            M::Mov if kinds.first() == Some(&K::seg_reg) => 0,
            // Far pointers: the offset first.
            M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => pointer_offset(form),
            M::Jmp | M::Call if forms::is_far(form) && kinds.first() == Some(&K::mem) => {
                self.content = Some(self.pointer(pointer_offset(form)));
                return;
            }
            _ => return,
        };
        let mut content = self.r.next().to_le_bytes()[..bytes].to_vec();
        content.extend(self.selector().to_le_bytes());
        self.content = Some(content);
    }

    /// Makes a register hold the content.
    pub(super) fn hold_content(&mut self, register: usize) {
        if !self.is_free(register) {
            return;
        }
        if let Some(content) = self.content.take() {
            let low = content.iter().rev().fold(0, |acc, b| acc << 8 | u64::from(*b));
            let above = self.r.next() << 16;
            self.fix(register, low | above);
        }
    }

    /// Where a far transfer may go: behind this instruction, if it is not longer than a page.
    fn far_target(&mut self) -> (u64, u16) {
        let chosen = if self.r.chance(85) { self.r.pick(&CODE) } else { self.selector() };
        let at = if self.r.chance(90) { layout::CODE + 0x800 } else { layout::DATA };
        (at.wrapping_sub(layout::base_of(chosen)), chosen)
    }

    /// A far pointer in memory.
    fn pointer(&mut self, offset: usize) -> Vec<u8> {
        let (target, chosen) = self.far_target();
        let mut bytes = target.to_le_bytes()[..offset].to_vec();
        bytes.extend(chosen.to_le_bytes());
        bytes
    }

    /// A far pointer in the instruction.
    pub(super) fn far_pointer(&mut self, i: &mut Instruction, n: u32, kind: K) -> Option<()> {
        let (target, chosen) = self.far_target();
        i.set_far_branch_selector(chosen);
        if kind == K::farbr2_2 {
            i.set_op_kind(n, OpKind::FarBranch16);
            i.set_far_branch16(target as u16);
        } else {
            i.set_op_kind(n, OpKind::FarBranch32);
            i.set_far_branch32(target as u32);
        }
        Some(())
    }

    /// Puts on the stack what an instruction pops.
    pub(super) fn finish_segment(&mut self, i: &Instruction) {
        if !self.is_intact(4) || self.r.chance(10) {
            return;
        }
        let top = self.stack_top();
        let slot = pop_size(i.code());
        let words: Vec<u64> = match i.mnemonic() {
            M::Pop if i.op0_register().is_segment_register() => {
                let above = self.r.next() << 16;
                vec![u64::from(self.selector()) | above]
            }
            M::Retf => {
                let (target, chosen) = self.far_target();
                let mut words = vec![target, chosen.into()];
                if self.r.chance(10) {
                    words[1] &= !3;
                }
                words
            }
            M::Iret | M::Iretd | M::Iretq => {
                let (target, chosen) = self.far_target();
                let flags = self.r.next() & 0x3f_7fff & !(1 << 8);
                let stack = layout::STACK + self.r.below(layout::PAGE);
                let data = if self.r.chance(80) { selector::USER_DATA } else { self.selector() };
                vec![target, chosen.into(), flags, stack, data.into()]
            }
            _ => return,
        };
        let bytes = words.iter().flat_map(|w| w.to_le_bytes()[..slot].to_vec()).collect();
        self.patches.push((top, bytes));
    }
}

/// Bytes of a far pointer's offset.
fn pointer_offset(form: Code) -> usize {
    let mut i = Instruction::default();
    i.set_code(form);
    i.memory_size().size().saturating_sub(2)
}

/// Bytes of a slot of the stack.
fn pop_size(code: Code) -> usize {
    match code {
        Code::Retfw | Code::Retfw_imm16 | Code::Iretw => 2,
        Code::Retfd | Code::Retfd_imm16 | Code::Iretd => 4,
        Code::Retfq | Code::Retfq_imm16 | Code::Iretq => 8,
        Code::Popw_FS | Code::Popw_GS | Code::Popw_ES | Code::Popw_SS | Code::Popw_DS => 2,
        Code::Popd_FS | Code::Popd_GS | Code::Popd_ES | Code::Popd_SS | Code::Popd_DS => 4,
        _ => 8,
    }
}
