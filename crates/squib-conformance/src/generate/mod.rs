//! Random cases.
//!
//! A case is either one instruction of a given form, or a sequence of up to a dozen of any forms. Registers start with
//! numbers that matter, and those that address memory with what makes the operand lie where something can happen: in
//! the middle of a page, over the border of two, where only the second may be read or written, in code, nowhere.

mod area;
mod operand;
mod segment;

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, InstructionInfoFactory, Mnemonic as M,
    OpAccess, OpKind, Register,
};

use crate::case::Case;
use crate::forms;
use crate::layout::{self, Mode, PAGE};
use crate::random::Random;
use crate::state::{FLAGS, State, fx};
use crate::undefined::Flow;
use crate::values;

/// Most instructions of a sequence.
const LONGEST: u64 = 12;

/// Attempts to make one instruction before another form is tried.
const ATTEMPTS: usize = 20;

/// Of 100 sequences, how many run in compatibility mode.
const COMPATIBILITY: u64 = 35;

/// The forms of one mode.
struct Pool {
    mode: Mode,
    /// Whether a form is among them, by its number.
    covered: Vec<bool>,
    all: Vec<Code>,
    /// Those that user code may run.
    permitted: Vec<Code>,
    /// Those of them that read or write status flags.
    flags: Vec<Code>,
}

impl Pool {
    fn new(mode: Mode, forms: &[(Mode, Code)], covered: &[(Mode, Code)]) -> Self {
        let mut is_covered = vec![false; Code::values().len()];
        for (_, code) in covered.iter().filter(|(m, _)| *m == mode) {
            is_covered[*code as usize] = true;
        }
        let of_mode = forms.iter().filter(|(m, _)| *m == mode).map(|(_, code)| *code);
        let all: Vec<Code> = of_mode.filter(|c| forms::may_be_among_others(*c)).collect();
        let permitted: Vec<Code> = all.iter().copied().filter(|c| forms::is_permitted(*c)).collect();
        let touches_flags = |code: &Code| {
            let mut i = Instruction::default();
            i.set_code(*code);
            (i.rflags_modified() | i.rflags_read()) & 0x3f != 0
        };
        let flags = permitted.iter().copied().filter(touches_flags).collect();
        Self { mode, covered: is_covered, all, permitted, flags }
    }

    /// One of the forms, most often one that has to do with flags.
    fn pick(&self, r: &mut Random) -> Code {
        let list = match r.below(20) {
            0..12 if !self.flags.is_empty() => &self.flags,
            12..19 if !self.permitted.is_empty() => &self.permitted,
            _ => &self.all,
        };
        r.pick(list)
    }
}

/// Makes cases.
pub struct Generator {
    forms: Vec<(Mode, Code)>,
    pools: [Pool; 2],
}

/// A case in the making.
struct Draft<'a> {
    pool: &'a Pool,
    r: &'a mut Random,
    state: State,
    patches: Vec<(u64, Vec<u8>)>,
    code: Vec<Vec<u8>>,
    instructions: Vec<Instruction>,
    /// Address of the next instruction.
    ip: u64,
    /// Registers that still hold what they start with.
    intact: u16,
    /// Registers whose first value must stay as it is.
    fixed: u16,
    /// Registers that are to hold the address of a later instruction.
    targets: Vec<usize>,
    /// Where memory is to hold the address of a later instruction, and which instruction goes there.
    target_words: Vec<(u64, usize)>,
    /// What the next operand in memory is to hold.
    content: Option<Vec<u8>>,
    /// The last operand in memory lies in two cache lines.
    splits: bool,
    /// Some of the code changes other code, so that what it does a second time is not what it looks like.
    changes: bool,
}

impl Generator {
    /// A generator of `forms`, which are among those that are `covered`.
    pub fn new(forms: Vec<(Mode, Code)>, covered: &[(Mode, Code)]) -> Self {
        let pools = [Mode::Bits64, Mode::Bits32].map(|mode| Pool::new(mode, &forms, covered));
        Self { forms, pools }
    }

    /// The forms.
    pub fn forms(&self) -> &[(Mode, Code)] {
        &self.forms
    }

    /// Case `index` of `seed`: by turns an instruction of each form, and a sequence.
    pub fn case(&self, seed: u64, index: u64) -> Case {
        let mut r = Random::new(seed, index);
        let (mode, form) = self.forms[(index / 2 % self.forms.len() as u64) as usize];
        if index.is_multiple_of(2) {
            let mut draft = Draft::new(self.pool(mode), &mut r);
            let _ = (0..10 * ATTEMPTS).any(|_| draft.add(form));
            return draft.finish();
        }
        let other = if r.chance(COMPATIBILITY) { Mode::Bits32 } else { Mode::Bits64 };
        let pool = [other, mode].map(|m| self.pool(m)).into_iter().find(|p| !p.all.is_empty());
        pool.map_or_else(|| Case::new(mode), |pool| sequence(pool, &mut r))
    }

    fn pool(&self, mode: Mode) -> &Pool {
        &self.pools[usize::from(mode != Mode::Bits64)]
    }
}

fn sequence(pool: &Pool, r: &mut Random) -> Case {
    let count = 2 + r.below(LONGEST - 1);
    let mut draft = Draft::new(pool, r);
    let mut tries = 0;
    while (draft.code.len() as u64) < count && tries < 10 * ATTEMPTS {
        tries += 1;
        let form = pool.pick(draft.r);
        if draft.r.chance(3) {
            draft.add_changed_code();
        } else {
            draft.add(form);
        }
    }
    draft.finish()
}

impl<'a> Draft<'a> {
    fn new(pool: &'a Pool, r: &'a mut Random) -> Self {
        let mut state = State::new(pool.mode);
        let (registers, mask) = match pool.mode {
            Mode::Bits32 => (8, 0xffff_ffff),
            _ => (16, u64::MAX),
        };
        for gpr in &mut state.gpr[..registers] {
            *gpr = values::integer(r) & mask;
        }
        state.rflags = FLAGS | r.next() & 0x8d5;
        if r.chance(15) {
            state.rflags |= 1 << 10;
        }
        state.gpr[4] = layout::STACK
            + match r.below(20) {
                0 => r.below(40),
                1 => 2 * PAGE - r.below(40),
                2 => PAGE - 20 + r.below(40),
                3 => PAGE + r.below(64),
                _ => PAGE + 8 * r.below(8),
            };
        if r.chance(50) {
            state.gpr[1] = r.below(20);
        }
        if r.chance(50) {
            state.gpr[5] = layout::STACK + PAGE + 8 * r.below(16);
        }
        for i in 0..registers {
            state.put(fx::XMM + 16 * i, values::vector(r), 16);
        }
        let rip = layout::CODE
            + match r.below(10) {
                0 => PAGE - 1 - r.below(24),
                1 if r.chance(50) => 2 * PAGE - 1 - r.below(24),
                _ => 0x100 + r.below(32),
            };
        state.rip = rip;
        let mut draft = Self {
            pool,
            r,
            state,
            patches: vec![],
            code: vec![],
            instructions: vec![],
            ip: rip,
            intact: u16::MAX,
            fixed: 1 << 4,
            targets: vec![],
            target_words: vec![],
            content: None,
            splits: false,
            changes: false,
        };
        draft.fill_float();
        draft.choose_segments();
        draft
    }

    /// x87 and MXCSR.
    fn fill_float(&mut self) {
        let Self { r, state, .. } = self;
        let masks = if r.chance(20) { r.next() & 0x1f80 } else { 0x1f80 };
        let sticky = if r.chance(50) { r.next() & 0x3f } else { 0 };
        let modes = if r.chance(40) { r.next() & 0xe040 } else { 0 };
        state.put(fx::MXCSR, (masks | sticky | modes).into(), 4);
        let masks = if r.chance(20) { r.next() & 0x3f } else { 0x3f };
        let precision = r.pick(&[0x300, 0x300, 0x200, 0]);
        let rounding = if r.chance(30) { r.next() & 0xc00 } else { 0 };
        state.put(fx::FCW, (0x40 | masks | precision | rounding).into(), 2);
        // The summary bits follow the exceptions that are pending and not masked.
        let mut status = r.next() & 0x7f00 & if r.chance(50) { 0x4700 } else { 0x7f00 };
        if r.chance(30) {
            let pending = r.next() & 0x3f & if r.chance(80) { masks } else { 0x3f };
            status |= pending;
            status |= if pending & !masks != 0 { 0x8080 } else { 0 };
        }
        state.put(fx::FSW, status.into(), 2);
        let tags = match r.below(3) {
            0 => 0,
            1 => 0x7f,
            _ => r.next() & 0xff,
        };
        state.put(fx::FTW, tags.into(), 1);
        for i in 0..8 {
            state.put(fx::ST + 16 * i, values::extended(r), 10);
        }
    }

    /// How many general registers, or XMM registers, there are.
    fn registers(&self) -> u64 {
        if self.pool.mode == Mode::Bits32 { 8 } else { 16 }
    }

    /// The widest address.
    fn address_mask(&self) -> u64 {
        if self.pool.mode == Mode::Bits32 { 0xffff_ffff } else { u64::MAX }
    }

    fn is_free(&self, register: usize) -> bool {
        self.intact & !self.fixed & 1 << register != 0
    }

    fn is_intact(&self, register: usize) -> bool {
        self.intact & 1 << register != 0
    }

    /// Sets what a register starts with; later instructions may count on it.
    fn fix(&mut self, register: usize, value: u64) {
        self.state.gpr[register] = value & self.address_mask();
        self.fixed |= 1 << register;
    }

    /// Adds an instruction of this form, unless this attempt makes none that can be encoded and compared.
    fn add(&mut self, form: Code) -> bool {
        let before =
            (self.state.clone(), self.patches.len(), self.fixed, self.targets.len(), self.target_words.len());
        self.content = None;
        self.splits = false;
        let made = self.make(form).and_then(|i| {
            let mut encoder = Encoder::new(self.pool.mode.bits());
            encoder.encode(&i, self.ip).ok()?;
            self.accept(encoder.take_buffer(), i.flow_control() != FlowControl::Next)
        });
        if made.is_none() {
            (self.state, self.fixed) = (before.0, before.2);
            self.patches.truncate(before.1);
            self.targets.truncate(before.3);
            self.target_words.truncate(before.4);
        }
        made.is_some()
    }

    /// Takes an encoded instruction, sometimes with prefixes that it has no use for.
    fn accept(&mut self, mut bytes: Vec<u8>, branches: bool) -> Option<()> {
        if !branches && self.r.chance(8) {
            let prefixes: &[u8] = match self.pool.mode {
                Mode::Bits32 => &[0x66, 0x2e, 0x3e, 0x26, 0x36, 0x64, 0xf2, 0xf3],
                _ => &[0x66, 0x2e, 0x3e, 0x26, 0x36, 0xf2, 0xf3, 0x40, 0x48],
            };
            bytes.insert(0, self.r.pick(prefixes));
        }
        let mut decoder = Decoder::with_ip(self.pool.mode.bits(), &bytes, self.ip, DecoderOptions::NONE);
        let i = decoder.decode();
        if i.is_invalid() || i.len() != bytes.len() || !self.pool.covered[i.code() as usize] {
            return None;
        }
        let undefined = self.undefined_flags();
        let flow = Flow::undefined(undefined);
        if flow.matters(&i) {
            return None;
        }
        let mut factory = InstructionInfoFactory::new();
        for used in factory.info(&i).used_registers() {
            let written = !matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead);
            let full = used.register().full_register();
            if full.is_gpr() {
                let bit = 1 << full.number();
                // What an instruction reads may have been chosen for it.
                self.fixed |= bit;
                if written {
                    self.intact &= !bit;
                }
            }
        }
        self.ip += bytes.len() as u64;
        self.code.push(bytes);
        self.instructions.push(i);
        Some(())
    }

    /// The flags that the code so far leaves undefined.
    fn undefined_flags(&self) -> u64 {
        let mut flow = Flow::default();
        // CL is known as long as no branch may go back.
        let branches = self.instructions.iter().any(|i| i.near_branch_target() != 0);
        let mut cl = Some(self.state.gpr[1] as u8).filter(|_| !branches);
        for i in &self.instructions {
            flow.step(i, cl.take());
        }
        flow.flags
    }

    /// A store into a later instruction: `mov byte [x], opcode`, and a NOP some way behind it.
    fn add_changed_code(&mut self) {
        /// NOP, CLC, STC, CMC, CWDE, CDQ, LAHF, PUSHFQ, INT3, CLD and STD, PUSH, POP, XCHG.
        const OPCODES: [u8; 16] =
            [0x90, 0xf8, 0xf9, 0xf5, 0x98, 0x99, 0x9f, 0x9c, 0xcc, 0xfc, 0xfd, 0x50, 0x55, 0x58, 0x5e, 0x93];
        let store = self.ip;
        if self.undefined_flags() != 0 {
            // Some of them read the flags.
            return;
        }
        let opcode = self.r.pick(&OPCODES);
        // mov byte [disp32], imm8 is 7 bytes long; in 64-bit mode the address is relative.
        let between: Vec<u8> = (0..self.r.below(3)).map(|_| self.r.pick(&[0xf8, 0xf9, 0x99])).collect();
        let target = store + 7 + between.len() as u64;
        let linear = self.code_base() + target;
        let shown = if self.r.chance(30) && linear < layout::CODE + PAGE {
            linear - layout::CODE + layout::ALIAS
        } else {
            linear
        };
        let disp = match self.pool.mode {
            Mode::Bits32 => shown.wrapping_sub(self.base_of(Register::DS)),
            _ => shown.wrapping_sub(store + 7),
        } as u32;
        let mut bytes = vec![0xc6, 0x05];
        bytes.extend(disp.to_le_bytes());
        bytes.push(opcode);
        if self.accept_plain(bytes) {
            for byte in between {
                self.accept_plain(vec![byte]);
            }
            self.accept_plain(vec![0x90]);
            // What the new instruction does to registers is not known.
            self.intact = 0;
            self.changes = true;
        }
    }

    fn accept_plain(&mut self, bytes: Vec<u8>) -> bool {
        self.accept(bytes, true).is_some()
    }

    /// Address of instruction `index`, or of what follows the last.
    fn address_of(&self, index: usize) -> u64 {
        self.state.rip + self.code.iter().take(index).map(|b| b.len() as u64).sum::<u64>()
    }

    /// A place for control to go on after instruction `from`.
    fn destination(&mut self, from: usize) -> u64 {
        let later = (self.code.len() - from) as u64;
        let wrong = if self.code_base() == 0 { 2 } else { 20 };
        match self.r.below(100) {
            n if n < wrong => self.wrong_destination(),
            _ => {
                let index = from + 1 + self.r.below(later) as usize;
                self.address_of(index)
            }
        }
    }

    /// Whether the instructions from one to another may run once more: no flag that they read is undefined then.
    fn may_repeat(&self, first: usize, last: usize) -> bool {
        let mut flow = Flow::undefined(self.undefined_flags());
        !self.changes
            && self.instructions[first..=last].iter().all(|i| {
                let fits = !flow.matters(i);
                flow.step(i, None);
                fits
            })
    }

    /// Gives branches their targets.
    fn aim(&mut self) {
        for index in 0..self.instructions.len() {
            let mut i = self.instructions[index];
            if !matches!(i.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16)
                || i.op_count() == 0
            {
                continue;
            }
            let counts = matches!(i.mnemonic(), M::Loop | M::Loope | M::Loopne);
            let back = self.r.below(index as u64 + 1) as usize;
            let target =
                if counts && self.r.chance(50) && self.state.gpr[1] < 32 && self.may_repeat(back, index) {
                    self.address_of(back)
                } else {
                    self.destination(index)
                };
            // A short branch may not reach it.
            for target in [target, self.address_of(index + 1)] {
                match i.op0_kind() {
                    OpKind::NearBranch16 => i.set_near_branch16(target as u16),
                    OpKind::NearBranch32 => i.set_near_branch32(target as u32),
                    _ => i.set_near_branch64(target),
                }
                let mut encoder = Encoder::new(self.pool.mode.bits());
                let encoded = encoder.encode(&i, self.address_of(index)).map(|_| encoder.take_buffer());
                if let Some(bytes) = encoded.ok().filter(|bytes| bytes.len() == self.code[index].len()) {
                    self.code[index] = bytes;
                    break;
                }
            }
        }
        for register in std::mem::take(&mut self.targets) {
            let from = self.state.gpr[register] as usize;
            self.state.gpr[register] = self.destination(from.min(self.code.len().saturating_sub(1)));
        }
        for (addr, from) in std::mem::take(&mut self.target_words) {
            let to = self.destination(from.min(self.code.len().saturating_sub(1)));
            self.patches.push((addr, to.to_le_bytes().to_vec()));
        }
    }

    fn finish(mut self) -> Case {
        if !self.code.is_empty() {
            self.aim();
        }
        Case { state: self.state, code: self.code, patches: self.patches, ..Case::new(self.pool.mode) }
    }
}

/// The number of a general register.
fn number(register: Register) -> usize {
    register.full_register().number()
}
