//! Every x87 instruction against the host CPU: results, tags, TOP, condition codes, exceptions masked and
//! unmasked.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code, reason = "runs instructions on the host")]
#![allow(clippy::print_stderr, reason = "says what is skipped")]

#[allow(dead_code, reason = "shared between test programs")]
mod host;

use host::{Host, Random, State, host_differs, is_amd};
use iced_x86::{Code, Instruction, OpCodeOperandKind, OpKind, Register};
use squib_x86::fp::f80::F80;
use squib_x86::fp::mxcsr::Mxcsr;
use squib_x86::x87::fx::{self, Width};
use squib_x86::x87::image::Layout;
use squib_x86::x87::{MathFault, Output, Place, X87, X87Insn, X87Op, form};

const CASES: u32 = 4000;

fn number(random: &mut Random) -> F80 {
    let sign = (random.next() as u16) & 0x8000;
    let fraction = match random.below(5) {
        0 => 0,
        1 => random.next() & 0xffff_0000_0000_0000,
        2 => random.next() & 0xffff_ff80_0000_0000,
        3 => random.pick(&[
            1,
            u64::MAX,
            0x8000_0000_0000_0001,
            1 << 62,
            0x400,
            0x80_0000_0000,
            0x7ff,
            0xff_ffff_ffff,
        ]),
        _ => random.next(),
    };
    let normal = fraction | 1 << 63;
    match random.below(16) {
        0 => F80::new(sign, 0),
        1 => F80::new(sign | 0x7fff, 1 << 63),
        2 => F80::new(sign | 0x7fff, normal),
        3 => F80::new(sign, fraction),
        4 => F80::new(sign | random.pick(&[0, 1, 2, 60, 0x7ffe, 0x7ffd, 0x7fc0]), normal),
        5 => F80::new(random.next() as u16, fraction),
        // Around the ends of binary32, binary64 and the integers.
        6 => F80::new(
            sign | (random.pick(&[0x3f81, 0x3c01, 0x407e, 0x43fe, 0x400e, 0x401e, 0x403e, 0x403a])
                + random.below(4) as u16
                - 2),
            normal,
        ),
        7 => F80::new(random.next() as u16, normal),
        8 | 9 => F80::new(sign | (0x3fff + random.below(64) as u16), normal),
        10 => F80::new(sign | 0x3fff, 1 << 63),
        _ => F80::new(sign | (0x3ffa + random.below(10) as u16), normal),
    }
}

fn memory(random: &mut Random, place: Place) -> u128 {
    let narrow = random.next();
    match place {
        Place::F80 => number(random).to_bits(),
        Place::F32 => match random.below(4) {
            0 => u128::from(narrow as u32 & 0x807f_ffff),
            1 => u128::from(narrow as u32 & 0x807f_ffff | 0x7f80_0000),
            2 => u128::from(narrow as u32),
            _ => u128::from(narrow as u32 & 0x80ff_0000 | 0x3f80_0000),
        },
        Place::F64 => match random.below(4) {
            0 => u128::from(narrow & 0x800f_ffff_ffff_ffff),
            1 => u128::from(narrow & 0x800f_ffff_ffff_ffff | 0x7ff0_0000_0000_0000),
            2 => u128::from(narrow),
            _ => u128::from(narrow & 0x801f_ff00_0000_0000 | 0x3ff0_0000_0000_0000),
        },
        Place::Bcd => {
            // Not all programs store digits alone.
            let digits = random.pick(&[10, 10, 16]);
            let mut value = 0;
            for _ in 0..18 {
                value = value << 4 | u128::from(random.below(digits));
            }
            value | u128::from(random.next() & 1) << 79
        }
        _ => u128::from(match random.below(4) {
            0 => 0,
            1 => random.below(100).wrapping_sub(50),
            2 => 1 << 63 | 1 << 31 | 1 << 15,
            _ => narrow,
        }),
    }
}

fn build(code: Code) -> impl Fn(u8) -> Instruction {
    move |index| {
        let mut insn = Instruction::new();
        insn.set_code(code);
        let info = code.op_code();
        for i in 0..info.op_count() {
            let register = match info.op_kind(i) {
                OpCodeOperandKind::mem => {
                    insn.set_op_kind(i, OpKind::Memory);
                    insn.set_memory_base(Register::RDI);
                    continue;
                }
                OpCodeOperandKind::st0 => Register::ST0,
                OpCodeOperandKind::sti_opcode => Register::ST0 + u32::from(index),
                OpCodeOperandKind::ax => Register::AX,
                other => panic!("{code:?}: operand kind {other:?}"),
            };
            insn.set_op_kind(i, OpKind::Register);
            insn.set_op_register(i, register);
        }
        insn
    }
}

/// The instruction with the index of its ST(i).
fn with_index(instruction: &Instruction, insn: X87Insn) -> X87Insn {
    let register = match insn.place {
        Place::Source if instruction.op_count() == 2 => instruction.op1_register(),
        Place::Source | Place::Destination if instruction.op_count() > 0 => instruction.op0_register(),
        _ => return insn,
    };
    X87Insn { index: (register as u32 - Register::ST0 as u32) as u8, ..insn }
}

fn unit_of(state: &State) -> X87 {
    fx::restore_x87(&state.fx, Width::Bits64)
}

/// A unit with numbers in it, some registers empty, no exception pending.
fn unit(random: &mut Random) -> X87 {
    let masks = if random.below(4) == 0 { (random.next() as u16) & 0x3f } else { 0x3f };
    let modes = (random.next() as u16) & random.pick(&[0, 0, 0xf00]) | random.pick(&[0x300, 0]);
    let mut area = [0; fx::SIZE];
    area[0..2].copy_from_slice(&(masks | modes).to_le_bytes());
    let sticky = if masks == 0x3f && random.below(2) == 0 { (random.next() as u16) & 0x7f } else { 0 };
    area[2..4].copy_from_slice(&((random.next() as u16) & 0x7f00 | sticky).to_le_bytes());
    area[4] = match random.below(4) {
        0 => random.next() as u8,
        1 => 0x7f_u8.rotate_left(random.below(8) as u32),
        _ => {
            // ST(0) to ST(6).
            let top = u32::from(area[3] >> 3 & 7);
            0x7f_u8.rotate_left(top)
        }
    };
    let same = number(random);
    for i in 0..8 {
        let value = if random.below(8) == 0 { same } else { number(random) };
        area[fx::ST + 16 * i..][..10].copy_from_slice(&value.to_bits().to_le_bytes()[..10]);
    }
    fx::restore_x87(&area, Width::Bits64)
}

/// Whether the manual bounds the result's error instead of saying what it is.
fn is_transcendental(op: X87Op) -> bool {
    use X87Op::*;
    matches!(op, Exp2Minus1 | Log2Times | Log2p1Times | Sine | Cosine | SineCosine | Tangent | Arctangent)
}

/// Whether the manual leaves the result undefined.
fn is_undefined(op: X87Op, before: &X87) -> bool {
    let exp = before.raw(0).sign_exp & 0x7fff;
    match op {
        X87Op::Exp2Minus1 => exp >= 0x3fff,
        // |x| up to 1 − √½ = 0.29.
        X87Op::Log2p1Times => exp > 0x3ffd || (exp == 0x3ffd && before.raw(0).sig > 0x95f6_1998_0c43_36f7),
        _ => false,
    }
}

/// Numbers that differ by at most one unit of the last place.
fn is_near(a: F80, b: F80) -> bool {
    let order = |x: F80| {
        let magnitude = i128::from(x.sign_exp & 0x7fff) << 63 | i128::from(x.sig & !(1 << 63));
        if x.is_negative() { -magnitude } else { magnitude }
    };
    (order(a) - order(b)).abs() <= 1 && a.is_nan() == b.is_nan()
}

fn test_code(host: &mut Host, random: &mut Random, code: Code) -> Option<String> {
    let build = build(code);
    for case in 0..CASES {
        let index = random.below(8) as u8;
        let instruction = build(index);
        let insn = with_index(&instruction, form(code).expect("listed"));
        if case < 64 || insn.place.bytes() == 0 {
            host.load(&instruction);
        }
        let mut expected = unit(random);
        if is_transcendental(insn.op) {
            // Next to the ends of the range, one unit decides whether there is an exception.
            expected.set_control(expected.control() | 0x18);
        }
        let before = expected;
        let input = memory(random, insn.place) & (u128::MAX >> (128 - 8 * insn.place.bytes().max(1)));
        let mut state = State::new();
        fx::save_x87(&before, Width::Bits64, &mut state.fx);
        state.buffer[..16].copy_from_slice(&input.to_le_bytes());
        state.rax = random.next();
        state.flags = 2 | random.next() & 0x8d5;
        let condition = |state: &State| {
            let (cf, pf, zf) = (state.flags & 1 != 0, state.flags & 4 != 0, state.flags & 64 != 0);
            let X87Op::MoveIf(cond) = insn.op else { return false };
            use squib_x86::Cond::*;
            match cond {
                B => cf,
                Ae => !cf,
                E => zf,
                Ne => !zf,
                Be => cf || zf,
                A => !cf && !zf,
                P => pf,
                Np => !pf,
                _ => panic!("FCMOV has no such condition"),
            }
        };
        let mut wanted = state;
        let given = if matches!(insn.op, X87Op::MoveIf(_)) { condition(&state).into() } else { input };
        match expected.execute(insn, given).expect("nothing is pending") {
            Output::None => {}
            Output::Store(bits) => {
                let width = insn.place.bytes();
                wanted.buffer[..width].copy_from_slice(&bits.to_le_bytes()[..width]);
            }
            Output::Ax(ax) => wanted.rax = wanted.rax & !0xffff | u64::from(ax),
            Output::Flags(flags) => wanted.flags = wanted.flags & !0x8d5 | u64::from(flags),
        }
        host.run(&mut state);
        let after = unit_of(&state);
        if is_undefined(insn.op, &before) {
            continue;
        }
        let approximate = is_transcendental(insn.op);
        // An approximate result may be exact here and not there, or rounded the other way: C1, PE, UE, OE,
        // and what sums them up.
        let ignored = if approximate { 0x82b8 } else { 0 };
        let same_registers = (0..8).all(|i| {
            let (a, b) = (after.raw(i), expected.raw(i));
            a == b || (approximate && is_near(a, b))
        });
        if after.control() != expected.control()
            || (after.status() ^ expected.status()) & !ignored != 0
            || after.valid() != expected.valid()
            || !same_registers
            || state.buffer != wanted.buffer
            || state.rax != wanted.rax
            || (state.flags ^ wanted.flags) & 0x8d5 != 0
        {
            let show = |unit: &X87, state: &State| {
                let registers: Vec<_> = (0..8)
                    .map(|i| format!("{:04x}:{:016x}", unit.raw(i).sign_exp, unit.raw(i).sig))
                    .collect();
                format!(
                    "cw {:04x} sw {:04x} valid {:08b} mem {:020x} rax {:x} flags {:x}\n    {}\n    {}",
                    unit.control(),
                    unit.status(),
                    unit.valid(),
                    u128::from_le_bytes(state.buffer[..16].try_into().unwrap()),
                    state.rax,
                    state.flags & 0x8d5,
                    registers[..4].join(" "),
                    registers[4..].join(" "),
                )
            };
            let mut start = state;
            start.buffer[..16].copy_from_slice(&input.to_le_bytes());
            return Some(format!(
                "{code:?} ST({}) case {case}\n  from  {}\n  host  {}\n  squib {}",
                insn.index,
                show(&before, &start),
                show(&after, &state),
                show(&expected, &wanted)
            ));
        }
    }
    None
}

#[test]
fn x87_instructions_agree_with_the_host() {
    let mut host = Host::new();
    let mut failures = Vec::new();
    let mut tested = 0;
    for code in Code::values() {
        if form(code).is_none() {
            continue;
        }
        if host_differs(code) {
            eprintln!("SKIPPED: {code:?} because AMD's processors do something else");
            continue;
        }
        let mut random = Random(code as u64);
        failures.extend(test_code(&mut host, &mut random, code));
        tested += 1;
    }
    assert!(tested > 130, "only {tested} instructions were tested");
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

/// The whole area as the unit has it, on top of what was there.
fn area_of(unit: &X87, from: &State) -> [u8; fx::SIZE] {
    let mut area = from.fx;
    fx::save_x87(unit, Width::Bits64, &mut area);
    area
}

#[test]
fn fxrstor_and_fxsave_agree_with_the_host() {
    let mut host = Host::new();
    let mut random = Random(1);
    host.load_bytes(&[0x90]);
    for _ in 0..CASES {
        let mut state = State::new();
        for byte in &mut state.fx[..fx::XMM] {
            *byte = random.next() as u8;
        }
        state.set_mxcsr(0x1f80);
        // Addresses that are not canonical are not kept. FIP is at 8, FDP at 16.
        for last in [15, 23] {
            state.fx[last - 1..=last].fill(0);
            state.fx[last - 2] &= 0x7f;
        }
        let unit = unit_of(&state);
        let expected = area_of(&unit, &state);
        host.run(&mut state);
        // AMD's processors keep FOP, FIP and FDP only while an exception is pending.
        let compared = if is_amd() { 6 } else { 24 };
        assert_eq!(state.fx[..compared], expected[..compared]);
        assert_eq!(state.fx[fx::ST..fx::XMM], expected[fx::ST..fx::XMM]);
        assert_eq!(u32::from_le_bytes(state.fx[28..32].try_into().unwrap()) & !0x2_0000, Mxcsr::MASK);
    }
}

#[test]
fn images_agree_with_the_host() {
    use Layout::{Protected16, Protected32};
    if is_amd() {
        return eprintln!("SKIPPED: images, because AMD's processors keep FOP, FIP and FDP in another way");
    }
    let mut host = Host::new();
    let mut random = Random(2);
    for (code, layout) in [
        (Code::Fnstenv_m28byte, Protected32),
        (Code::Fnstenv_m14byte, Protected16),
        (Code::Fldenv_m28byte, Protected32),
        (Code::Fldenv_m14byte, Protected16),
        (Code::Fnsave_m108byte, Protected32),
        (Code::Fnsave_m94byte, Protected16),
        (Code::Frstor_m108byte, Protected32),
        (Code::Frstor_m94byte, Protected16),
    ] {
        host.load(&build(code)(0));
        for _ in 0..CASES {
            let mut before = unit(&mut random);
            // No selectors: this processor's family no longer keeps them.
            before.pointers.ip = random.next() & 0x7fff_ffff_ffff;
            before.pointers.dp = random.next() & 0x7fff_ffff_ffff;
            let mut state = State::new();
            fx::save_x87(&before, Width::Bits64, &mut state.fx);
            for byte in &mut state.buffer {
                *byte = random.next() as u8;
            }
            let mut expected = before;
            let mut buffer = state.buffer;
            let image = layout.environment_bytes();
            let whole = layout.save_bytes();
            match code {
                Code::Fnstenv_m28byte | Code::Fnstenv_m14byte => {
                    buffer[..image].copy_from_slice(&before.environment(layout)[..image]);
                    expected.mask_all();
                }
                Code::Fnsave_m108byte | Code::Fnsave_m94byte => {
                    buffer[..whole].copy_from_slice(&before.save(layout)[..whole]);
                    expected.initialize();
                }
                Code::Fldenv_m28byte | Code::Fldenv_m14byte => {
                    expected.load_environment(layout, &buffer[..image]);
                }
                _ => expected.restore(layout, &buffer[..whole]),
            }
            host.run(&mut state);
            let after = unit_of(&state);
            assert_eq!(state.buffer, buffer, "{code:?}");
            assert_eq!(after, expected, "{code:?} {before:x?}");
        }
    }
}

#[test]
fn environments_keep_the_unit() {
    let mut random = Random(3);
    for layout in [Layout::Real16, Layout::Protected16, Layout::Real32, Layout::Protected32] {
        for _ in 0..CASES {
            let mut before = unit(&mut random);
            before.pointers.opcode = random.next() as u16 & 0x7ff;
            before.pointers.ip = random.next() & 0xffff;
            before.pointers.dp = random.next() & 0xffff;
            if layout == Layout::Protected16 {
                before.pointers.opcode = 0;
            }
            let mut after = X87::RESET;
            after.restore(layout, &before.save(layout)[..layout.save_bytes()]);
            assert_eq!(after, before, "{layout:?}");
        }
    }
}

#[test]
fn a_pending_exception_stops_the_instructions_that_wait() {
    let mut unit = X87::RESET;
    unit.initialize();
    unit.set_control(0x37e);
    let root = form(Code::Fsqrt).unwrap();
    assert_eq!(unit.execute(root, 0), Ok(Output::None), "an empty ST(0) is noted");
    assert_eq!(unit.status(), 0x80c1);
    let before = unit;
    for code in [Code::Fsqrt, Code::Fld1, Code::Fldcw_m2byte, Code::Fnop] {
        assert_eq!(unit.execute(form(code).unwrap(), 0), Err(MathFault), "{code:?}");
    }
    assert_eq!(unit, before);
    assert_eq!(unit.execute(form(Code::Fnstsw_AX).unwrap(), 0), Ok(Output::Ax(0x80c1)));
    assert_eq!(unit.execute(form(Code::Fnclex).unwrap(), 0), Ok(Output::None));
    assert_eq!(unit.execute(form(Code::Fld1).unwrap(), 0), Ok(Output::None));
    assert_eq!(unit.raw(0), F80::ONE);
}

#[test]
fn mmx_registers_are_the_significands() {
    let mut unit = X87::RESET;
    unit.initialize();
    unit.enter_mmx();
    unit.set_mm(3, 0x1234);
    assert_eq!((unit.raw(3), unit.valid(), unit.status()), (F80::new(0xffff, 0x1234), 0xff, 0));
    assert_eq!(unit.mm(3), 0x1234);
    unit.leave_mmx();
    assert_eq!(unit.valid(), 0);
}
