//! What squib's CPU has run of a case.
//!
//! A case's code is not all that it may run: branches go into the middle of instructions and behind the last one, and stores
//! change code. What is undefined, or a processor's own choice, depends on the instructions that have run.

use std::collections::HashSet;

use iced_x86::Instruction;

use crate::undefined::{Flow, Undefined};

/// What has run.
#[derive(Default)]
pub struct Trace {
    instructions: Vec<Instruction>,
    undefined: Undefined,
}

impl Trace {
    /// Of `steps`, each an instruction and what CL was before it. The last one has not come to its end where the case ended at
    /// `end`, its own address.
    pub fn new(steps: &[(Instruction, u8)], end: u64) -> Self {
        let mut known = HashSet::new();
        let instructions = steps.iter().map(|(i, _)| *i).filter(|i| known.insert((i.ip(), *i))).collect();
        let (mut flow, mut read) = (Flow::default(), false);
        for (n, (i, cl)) in steps.iter().enumerate() {
            read |= flow.matters(i);
            if n + 1 < steps.len() || i.ip() != end {
                flow.run(i, Some(*cl));
            }
        }
        Self { instructions, undefined: Undefined { flags: flow.flags, read } }
    }

    /// The instructions, each once, with the one at which the case stopped by a fault.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// What they have left undefined.
    pub const fn undefined(&self) -> Undefined {
        self.undefined
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Instruction, Mnemonic as M};

    use crate::bench::soft_guests;
    use crate::case::Test;

    fn mnemonics(case: &str) -> Vec<M> {
        let Test { case, .. } = case.parse().unwrap();
        let [_, mut plain] = soft_guests().unwrap();
        plain.trace(&case).unwrap().instructions().iter().map(Instruction::mnemonic).collect()
    }

    #[test]
    fn a_loop_is_told_once() {
        // loop back to the NOP in front of it
        assert_eq!(mnemonics("code=90.e2fd rcx=5"), [M::Nop, M::Loop, M::Int3]);
    }

    #[test]
    fn an_instruction_is_known_by_what_can_be_read_of_it() {
        // ud0 edi,edx at the end of a page
        assert_eq!(mnemonics("mode=32 code=0ffffa rip=20002ffe"), [M::Ud0]);
        assert_eq!(mnemonics("code=ebfe.90 rip=20003000"), [], "no page");
    }
}
