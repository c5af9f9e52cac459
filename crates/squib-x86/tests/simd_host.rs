//! Every vector instruction against the host CPU: results, flags, MXCSR and unmasked exceptions.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code, reason = "runs instructions on the host")]
#![allow(clippy::print_stderr, reason = "says what is skipped")]

#[allow(dead_code, reason = "shared between test programs")]
mod host;

use host::{Host, Random, State, host_differs, host_has};
use iced_x86::{Code, Instruction, MemoryOperand, OpCodeOperandKind, Register};
use squib_x86::fp::mxcsr::Mxcsr;
use squib_x86::simd::{Form, Place, VecInsn, VecOp, decode, eval};

const CASES: u32 = 3000;

const SINGLES: [u32; 24] = [
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x807f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x0080_0001,
    0x3f80_0000,
    0xbf80_0000,
    0x3f00_0000,
    0x4b00_0000,
    0x4eff_ffff,
    0x4f00_0000,
    0xcf00_0000,
    0x5f00_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_1234,
    0x7f80_0001,
    0xffa0_0000,
];

const DOUBLES: [u64; 24] = [
    0,
    1 << 63,
    1,
    1 << 63 | 1,
    0x000f_ffff_ffff_ffff,
    0x800f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x8010_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3fe0_0000_0000_0000,
    0x380f_ffff_f000_0000,
    0x3810_0000_0000_0000,
    0x36a0_0000_0000_0000,
    0x47ef_ffff_f000_0000,
    0x41df_ffff_ffff_ffff,
    0x41e0_0000_0000_0000,
    0x43e0_0000_0000_0000,
    0xc3e0_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_1234,
    0xfff0_0000_0000_0001,
];

fn single(random: &mut Random) -> u32 {
    match random.below(6) {
        0 | 1 => random.pick(&SINGLES),
        2 => random.next() as u32,
        // Few significant bits: exact results, ties, cancellation.
        3 => (random.next() as u32 & 0x8ff0_0000) + 0x3800_0000,
        4 => random.next() as u32 & 0x80ff_ffff,
        _ => (random.next() as u32 & 0x81ff_ffff) + 0x3f00_0000,
    }
}

fn double(random: &mut Random) -> u64 {
    match random.below(7) {
        0 | 1 => random.pick(&DOUBLES),
        2 => random.next(),
        3 => (random.next() & 0x807f_e000_0000_0000) + 0x3fc0_0000_0000_0000,
        4 => random.next() & 0x801f_ffff_ffff_ffff,
        // Around the ends of binary32 and of the integers.
        5 => (random.next() & 0x80ff_ffff_ffff_ffff) + 0x3780_0000_0000_0000,
        _ => (random.next() & 0x807f_ffff_ffff_ffff) + 0x3fb0_0000_0000_0000,
    }
}

fn integer(random: &mut Random) -> u64 {
    let value = match random.below(4) {
        0 => random.pick(&[
            0,
            1,
            0x7f80_ff80_7fff_8000,
            0x8000_0000_7fff_ffff,
            u64::MAX,
            1 << 63,
            u64::MAX >> 1,
        ]),
        1 => random.below(80),
        _ => random.next(),
    };
    value >> random.pick(&[0, 0, 0, 11, 32, 40])
}

fn operand(random: &mut Random) -> u128 {
    let (low, high) = match random.below(3) {
        0 => {
            let mut pair = || u64::from(single(random)) | u64::from(single(random)) << 32;
            (pair(), pair())
        }
        1 => (double(random), double(random)),
        _ => (integer(random), integer(random)),
    };
    u128::from(low) | u128::from(high) << 64
}

fn control(random: &mut Random) -> u32 {
    let masks = if random.below(4) == 0 { (random.next() as u32) & 0x1f80 } else { 0x1f80 };
    let modes = (random.next() as u32) & (random.pick(&[0, 0xe040, 0x6000]));
    let sticky = (random.next() as u32) & 0x3f & random.pick(&[0, 0, 0x20, 0x3f]);
    masks | modes | sticky
}

/// The instruction with `dst` in XMM0, MM0 or RAX, `src` in XMM1, MM1, RAX or memory at RDI.
fn build(code: Code, memory: bool, imm: u8) -> Option<Instruction> {
    use OpCodeOperandKind as K;
    let mut insn = Instruction::new();
    insn.set_code(code);
    let mut used_memory = false;
    let info = code.op_code();
    for i in 0..info.op_count() {
        let xmm = if i == 0 { Register::XMM0 } else { Register::XMM1 };
        let mm = if i == 0 { Register::MM0 } else { Register::MM1 };
        let register = match info.op_kind(i) {
            K::imm8 => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate8);
                insn.set_immediate8(imm);
                continue;
            }
            K::seg_rDI => {
                insn.set_op_kind(i, iced_x86::OpKind::MemorySegRDI);
                used_memory = true;
                continue;
            }
            K::mem | K::xmm_or_mem | K::mm_or_mem | K::r32_or_mem | K::r64_or_mem if memory => {
                used_memory = true;
                let operand = MemoryOperand::with_base(Register::RDI);
                insn.set_op_kind(i, iced_x86::OpKind::Memory);
                insn.set_memory_base(operand.base);
                continue;
            }
            K::mem => return None,
            K::xmm_reg | K::xmm_rm | K::xmm_or_mem if insn.op0_kind() == iced_x86::OpKind::MemorySegRDI => {
                if i == 1 {
                    Register::XMM0
                } else {
                    Register::XMM1
                }
            }
            K::mm_reg | K::mm_rm | K::mm_or_mem if insn.op0_kind() == iced_x86::OpKind::MemorySegRDI => {
                if i == 1 { Register::MM0 } else { Register::MM1 }
            }
            K::xmm_reg | K::xmm_rm | K::xmm_or_mem => xmm,
            K::mm_reg | K::mm_rm | K::mm_or_mem => mm,
            K::r32_reg | K::r32_rm | K::r32_or_mem => Register::EAX,
            K::r64_reg | K::r64_rm | K::r64_or_mem => Register::RAX,
            other => panic!("{code:?}: operand kind {other:?}"),
        };
        insn.set_op_kind(i, iced_x86::OpKind::Register);
        insn.set_op_register(i, register);
    }
    (used_memory == memory || info.op_kind(0) == K::seg_rDI).then_some(insn)
}

/// What squib makes of the instruction.
fn expect(vec: VecInsn, memory_dst: bool, memory_src: bool, before: &State, imm: u8) -> (State, bool) {
    let VecInsn { op, form } = vec;
    let mut after = *before;
    let read = |place: Place, i: usize| match place {
        Place::Xmm | Place::Flags => before.xmm(i),
        Place::Mm | Place::MaskedBytes => before.mm(i).into(),
        Place::Gpr32 => u128::from(before.rax as u32),
        Place::Gpr64 => before.rax.into(),
        Place::Imm => imm.into(),
    };
    let in_memory = u128::from_le_bytes(before.buffer[..16].try_into().unwrap());
    let width = usize::from(form.mem);
    let src = if memory_src { in_memory & (u128::MAX >> (128 - 8 * width)) } else { read(form.src, 1) };
    let dst = if memory_dst { 0 } else { read(form.dst, 0) };
    let mut mxcsr = Mxcsr::from_bits(before.mxcsr()).unwrap();
    let result = eval(op, dst, src, if form.imm { imm } else { 0 }, &mut mxcsr);
    after.set_mxcsr(mxcsr.bits());
    if form.mmx {
        // Tags valid, TOP 0; a written register's exponent is all ones.
        after.fx[4] = 0xff;
    }
    let Ok(result) = result else { return (after, true) };
    if memory_dst {
        after.buffer[..width].copy_from_slice(&result.to_le_bytes()[..width]);
        return (after, false);
    }
    match form.dst {
        Place::Xmm => after.set_xmm(0, result),
        Place::Mm => after.set_mm(0, result as u64),
        Place::Gpr32 => after.rax = u64::from(result as u32),
        Place::Gpr64 => after.rax = result as u64,
        Place::Flags => after.flags = after.flags & !0x8d5 | u64::from(result as u32),
        Place::MaskedBytes => {
            let data = if form.src == Place::Mm { before.mm(0).into() } else { before.xmm(0) };
            for (i, byte) in data.to_le_bytes().into_iter().enumerate() {
                if result >> i & 1 != 0 {
                    after.buffer[i] = byte;
                }
            }
        }
        Place::Imm => panic!("an immediate is never written"),
    }
    (after, false)
}

fn test_code(host: &mut Host, random: &mut Random, code: Code, memory: bool) -> Option<String> {
    let vec = decode(code, memory).expect("listed");
    build(code, memory, 0)?;
    let Form { imm, src, .. } = vec.form;
    let memory_dst = memory && !matches!(code.op_code().op_kind(0), OpCodeOperandKind::seg_rDI) && {
        let insn = build(code, true, 0).unwrap();
        insn.op0_kind() == iced_x86::OpKind::Memory
    };
    let memory_src = memory && !memory_dst && vec.form.dst != Place::MaskedBytes;
    let rounds = if imm || src == Place::Imm { 64 } else { 1 };
    for _ in 0..rounds {
        let imm = match random.below(3) {
            0 => random.next() as u8,
            1 => random.below(8) as u8,
            _ => random.below(65) as u8,
        };
        host.load(&build(code, memory, imm).expect("built before"));
        for _ in 0..CASES / rounds {
            let mut before = State::new();
            before.set_mxcsr(control(random));
            before.set_xmm(0, operand(random));
            before.set_xmm(1, if random.below(16) == 0 { before.xmm(0) } else { operand(random) });
            before.buffer[..16].copy_from_slice(&operand(random).to_le_bytes());
            before.rax = integer(random);
            before.flags = 2 | random.next() & 0x8d5;
            if vec.form.mmx {
                before.set_mm(0, operand(random) as u64);
                before.set_mm(1, operand(random) as u64);
                before.fx[4] = 0xff;
            }
            let (expected, faults) = expect(vec, memory_dst, memory_src, &before, imm);
            let mut after = before;
            let fault = host.run(&mut after);
            let same = match fault {
                Some(mxcsr) => faults && mxcsr == expected.mxcsr(),
                None => {
                    !faults
                        && after.xmm(0) == expected.xmm(0)
                        && after.mxcsr() == expected.mxcsr()
                        && (0..2).all(|i| after.mm(i) == expected.mm(i))
                        && after.fx[4] == expected.fx[4]
                        && after.rax == expected.rax
                        && (vec.form.dst != Place::Flags || after.flags & 0x8d5 == expected.flags & 0x8d5)
                        && after.buffer == expected.buffer
                }
            };
            if !same {
                return Some(format!(
                    "{code:?} memory {memory} imm {imm:#x} mxcsr {:#x}\n  dst {:032x}\n  src {:032x}\n  \
                     mem {:032x} mm {:016x} {:016x} rax {:x}\n  \
                     host  {:032x} mxcsr {:#x} fault {fault:x?} rax {:x} flags {:x} mm {:016x}\n  \
                     squib {:032x} mxcsr {:#x} fault {faults} rax {:x} flags {:x} mm {:016x}",
                    before.mxcsr(),
                    before.xmm(0),
                    before.xmm(1),
                    u128::from_le_bytes(before.buffer[..16].try_into().unwrap()),
                    before.mm(0),
                    before.mm(1),
                    before.rax,
                    after.xmm(0),
                    after.mxcsr(),
                    after.rax,
                    after.flags,
                    after.mm(0),
                    expected.xmm(0),
                    expected.mxcsr(),
                    expected.rax,
                    expected.flags,
                    expected.mm(0),
                ));
            }
        }
    }
    None
}

#[test]
fn vector_instructions_agree_with_the_host() {
    let mut host = Host::new();
    let mut failures = Vec::new();
    let mut tested = 0;
    for code in Code::values() {
        if decode(code, false).is_none() {
            continue;
        }
        if !host_has(code) {
            eprintln!("SKIPPED: {code:?} because the host does not have it");
            continue;
        }
        if host_differs(code) {
            eprintln!("SKIPPED: {code:?} because AMD's processors do something else");
            continue;
        }
        let mut random = Random(code as u64);
        for memory in [false, true] {
            failures.extend(test_code(&mut host, &mut random, code, memory));
        }
        tested += 1;
    }
    assert!(tested > 300, "only {tested} instructions were tested");
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn operations_are_numbered_in_order() {
    for (i, &op) in VecOp::ALL.iter().enumerate() {
        assert_eq!(op as usize, i);
    }
}
