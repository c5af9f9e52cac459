//! x87 instructions, and those SSE and MMX ones that are no operation of [`simd`](crate::simd): how their operands
//! reach [`x87`](crate::x87).

use iced_x86::{Code, Mnemonic as M};
use squib_core::x86::bits::*;

use crate::env::{Env, Rights};
use crate::fault::{Exception, Stop};
use crate::flags::LazyFlags;
use crate::fp::mxcsr::Mxcsr;
use crate::helper::{linear, linear_aligned, linear_part, offset, set};
use crate::insn::{Insn, MemRef, Operand};
use crate::simd::{sha256_rounds, text};
use crate::size::Size;
use crate::state::{CodeMode, sreg};
use crate::system::is_canonical;
use crate::x87::image::{Layout, MAX_SIZE};
use crate::x87::{Output, X87, X87Insn, X87Op, form};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RDI: usize = 7;

/// Runs an instruction of this file; `None` when `i` is none.
///
/// # Errors
/// #UD, #NM, #MF, and what memory operands raise.
pub fn float<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Option<Result<(), Stop>> {
    Some(match i.mnemonic {
        // What the 8087 and 80287 had: nothing, and no wait for it (Intel SDM vol. 3, 23.18.3).
        M::Fneni | M::Fndisi | M::Fnsetpm => check(env),
        M::Wait => wait(env),
        M::Emms => emms(env),
        M::Fldenv | M::Frstor => load_image(env, i),
        M::Fnstenv | M::Fnsave => store_image(env, i),
        M::Ldmxcsr => load_mxcsr(env, i),
        M::Stmxcsr => store_mxcsr(env, i),
        M::Maskmovq | M::Maskmovdqu => masked_store(env, i),
        M::Sha256rnds2 => hash_rounds(env, i),
        M::Pcmpestri | M::Pcmpestri64 | M::Pcmpestrm | M::Pcmpestrm64 | M::Pcmpistri | M::Pcmpistrm => {
            compare_strings(env, i)
        }
        _ => return form(i.code).map(|x| arithmetic(env, i, x)),
    })
}

/// x87 is usable: #NM where it is emulated or its state is another task's.
fn check<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    if env.state_ref().cr0 & (CR0_EM | CR0_TS) != 0 { Err(Exception::NM.into()) } else { Ok(()) }
}

/// SSE is usable.
fn check_sse<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    let s = env.state_ref();
    if s.cr0 & CR0_EM != 0 || s.cr4 & CR4_OSFXSR == 0 {
        Err(Exception::UD.into())
    } else if s.cr0 & CR0_TS != 0 {
        Err(Exception::NM.into())
    } else {
        Ok(())
    }
}

/// MMX is usable.
fn check_mmx<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    let s = env.state_ref();
    if s.cr0 & CR0_EM != 0 {
        Err(Exception::UD.into())
    } else if s.cr0 & CR0_TS != 0 {
        Err(Exception::NM.into())
    } else {
        pending(env)
    }
}

fn pending<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    if env.state_ref().x87.is_pending() { Err(Exception::MF.into()) } else { Ok(()) }
}

fn wait<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    let both = CR0_MP | CR0_TS;
    if env.state_ref().cr0 & both == both { Err(Exception::NM.into()) } else { pending(env) }
}

fn emms<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    check_mmx(env)?;
    env.state().x87.leave_mmx();
    Ok(())
}

fn memory(i: &Insn) -> Option<&MemRef> {
    i.ops.iter().find_map(|o| if let Operand::Mem(m) = o { Some(m) } else { None })
}

/// The widest access that `bytes` bytes have room for.
fn widest(bytes: usize) -> Size {
    match bytes {
        8.. => Size::B8,
        4.. => Size::B4,
        2.. => Size::B2,
        _ => Size::B1,
    }
}

/// Reads the part of a memory operand that starts `at` bytes behind its start, by accesses of `step` bytes.
fn read_parts<E: Env + ?Sized>(
    env: &mut E,
    m: &MemRef,
    at: usize,
    step: usize,
    rights: Rights,
    out: &mut [u8],
) -> Result<(), Stop> {
    for (at, part) in (at..).step_by(step).zip(out.chunks_mut(step)) {
        let addr = linear_part(env, m, at as u64, part.len() as u64, false)?;
        let v = env.read(addr, widest(part.len()), rights)?;
        part.copy_from_slice(&v.to_le_bytes()[..part.len()]);
    }
    Ok(())
}

/// Writes one.
fn write_parts<E: Env + ?Sized>(
    env: &mut E,
    m: &MemRef,
    at: usize,
    step: usize,
    rights: Rights,
    data: &[u8],
) -> Result<(), Stop> {
    for (at, part) in (at..).step_by(step).zip(data.chunks(step)) {
        let addr = linear_part(env, m, at as u64, part.len() as u64, true)?;
        let v = part.iter().rev().fold(0, |acc, b| acc << 8 | u64::from(*b));
        env.write(addr, widest(part.len()), v, rights)?;
    }
    Ok(())
}

/// The rights in force, without alignment checks, which are for user code only.
fn unaligned<E: Env + ?Sized>(env: &E) -> Rights {
    if env.state_ref().cpl == 3 { Rights::User } else { Rights::Current }
}

fn arithmetic<E: Env + ?Sized>(env: &mut E, i: &Insn, x: X87Insn) -> Result<(), Stop> {
    check(env)?;
    let register = match (i.ops[0], i.ops[1]) {
        (_, Operand::St(n)) if x.place == crate::x87::Place::Source => n,
        (Operand::St(n), _) => n,
        _ => x.index,
    };
    let x = X87Insn { index: register & 7, ..x };
    if x.waits() {
        pending(env)?;
    }
    let bytes = x.place.bytes();
    let operand = memory(i).filter(|_| bytes != 0);
    let mut input = 0;
    if let Some(m) = operand.filter(|_| !x.is_store()) {
        let mut raw = [0; 16];
        read_parts(env, m, 0, 8, Rights::Current, &mut raw[..bytes])?;
        input = u128::from_le_bytes(raw);
    }
    if let X87Op::MoveIf(cc) = x.op {
        input = u128::from(env.state_ref().lazy.test(cc));
    }
    // On a copy, so that a store that faults leaves everything as it was.
    let mut unit = env.state_ref().x87;
    let output = unit.execute(x, input).map_err(|_| Exception::MF)?;
    if x.is_recorded() {
        unit.pointers.ip = i.rip;
        if unit.is_pending() {
            unit.pointers.opcode = opcode(env, i);
            unit.pointers.dp = operand.map_or(unit.pointers.dp, |m| offset(env, m));
        }
    }
    match output {
        Output::None => {}
        // Where an unmasked exception keeps the result away, memory is not even looked at.
        Output::Store(bits) => {
            if let Some(m) = operand {
                write_parts(env, m, 0, 8, Rights::Current, &bits.to_le_bytes()[..bytes.min(16)])?;
            }
        }
        Output::Ax(ax) => set(env, RAX, Size::B2, u64::from(ax)),
        Output::Flags(flags) => env.state().lazy = LazyFlags::fixed(u64::from(flags)),
    }
    env.state().x87 = unit;
    Ok(())
}

/// FOP: the low bits of the first byte after the prefixes, which is D8 to DF, and the second byte.
fn opcode<E: Env + ?Sized>(env: &mut E, i: &Insn) -> u16 {
    let state = env.state_ref();
    let base = if state.mode == CodeMode::Bits64 { 0 } else { state.seg[sreg::CS].base };
    let start = base.wrapping_add(i.rip);
    let mut byte = |n: u64| env.read(start.wrapping_add(n), Size::B1, Rights::Current).ok();
    let first =
        (0..u64::from(i.len)).find_map(|n| byte(n).filter(|b| (0xd8..=0xdf).contains(b)).map(|b| (n, b)));
    let Some((n, first)) = first else { return 0 };
    (first as u16 & 7) << 8 | byte(n + 1).unwrap_or(0) as u16
}

/// The layout that operand size and mode give an image of the unit.
fn layout<E: Env + ?Sized>(env: &E, i: &Insn) -> Layout {
    let s = env.state_ref();
    let protected = s.protected() && !s.v86();
    let short = matches!(
        i.code,
        Code::Fldenv_m14byte | Code::Fnstenv_m14byte | Code::Fnsave_m94byte | Code::Frstor_m94byte
    );
    match (short, protected) {
        (true, true) => Layout::Protected16,
        (true, false) => Layout::Real16,
        (false, true) => Layout::Protected32,
        (false, false) => Layout::Real32,
    }
}

fn load_image<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    check(env)?;
    pending(env)?;
    let layout = layout(env, i);
    let whole = i.mnemonic == M::Frstor;
    let bytes = if whole { layout.save_bytes() } else { layout.environment_bytes() };
    let Some(m) = memory(i) else { return Err(Exception::UD.into()) };
    let mut image = [0; MAX_SIZE];
    // Both ends first, as Intel's processors do; then the environment's fields, and the registers as 80-bit numbers, for whose
    // alignment nobody asks.
    let slot = layout.slot();
    read_parts(env, m, 0, slot, Rights::Current, &mut image[..slot])?;
    read_parts(env, m, bytes - 1, 1, Rights::Current, &mut image[bytes - 1..bytes])?;
    let rights = unaligned(env);
    let (fields, registers) = image[..bytes].split_at_mut(layout.environment_bytes());
    read_parts(env, m, 0, slot, Rights::Current, fields)?;
    for (at, register) in (fields.len()..).step_by(10).zip(registers.chunks_mut(10)) {
        read_parts(env, m, at, 8, rights, register)?;
    }
    let unit = &mut env.state().x87;
    if whole {
        unit.restore(layout, &image[..bytes]);
    } else {
        unit.load_environment(layout, &image[..bytes]);
    }
    Ok(())
}

fn store_image<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    check(env)?;
    let layout = layout(env, i);
    let Some(m) = memory(i) else { return Err(Exception::UD.into()) };
    let mut unit: X87 = env.state_ref().x87;
    let mut image = [0; MAX_SIZE];
    let bytes = if i.mnemonic == M::Fnsave {
        image = unit.save(layout);
        unit.initialize();
        layout.save_bytes()
    } else {
        image[..28].copy_from_slice(&unit.environment(layout));
        unit.mask_all();
        layout.environment_bytes()
    };
    // See `load_image`.
    let slot = layout.slot();
    for (at, len) in [(0, slot as u64), (bytes as u64 - 1, 1)] {
        let addr = linear_part(env, m, at, len, true)?;
        env.probe_write(addr, len, Rights::Current)?;
    }
    let rights = unaligned(env);
    let (fields, registers) = image[..bytes].split_at(layout.environment_bytes());
    write_parts(env, m, 0, slot, Rights::Current, fields)?;
    for (at, register) in (fields.len()..).step_by(10).zip(registers.chunks(10)) {
        write_parts(env, m, at, 8, rights, register)?;
    }
    env.state().x87 = unit;
    Ok(())
}

fn load_mxcsr<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    check_sse(env)?;
    let Some(m) = memory(i) else { return Err(Exception::UD.into()) };
    let addr = linear(env, m, 4, false)?;
    let bits = env.read(addr, Size::B4, Rights::Current)? as u32;
    env.state().mxcsr = Mxcsr::from_bits(bits).ok_or(Exception::GP0)?;
    Ok(())
}

fn store_mxcsr<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    check_sse(env)?;
    let Some(m) = memory(i) else { return Err(Exception::UD.into()) };
    let addr = linear(env, m, 4, true)?;
    let bits = u64::from(env.state_ref().mxcsr.bits());
    env.write(addr, Size::B4, bits, Rights::Current)
}

/// MASKMOVQ and MASKMOVDQU: byte i of the first register goes to DS:rDI where the second's byte i has its sign set.
///
/// All of the operand has to be writable, whatever the mask, the upper half first: the manual leaves that to the
/// processor (Intel SDM vol. 2, "MASKMOVDQU"), and this is what Intel's do.
fn masked_store<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let (data, mask, mmx) = match i.ops {
        [_, Operand::Mm(a), Operand::Mm(b), _] | [Operand::Mm(a), Operand::Mm(b), ..] => {
            check_mmx(env)?;
            let x = &env.state_ref().x87;
            (u128::from(x.mm(usize::from(a))), u128::from(x.mm(usize::from(b))), true)
        }
        [_, Operand::Xmm(a), Operand::Xmm(b), _] | [Operand::Xmm(a), Operand::Xmm(b), ..] => {
            check_sse(env)?;
            let x = &env.state_ref().xmm;
            (x[usize::from(a & 15)], x[usize::from(b & 15)], false)
        }
        _ => return Err(Exception::UD.into()),
    };
    let offset = i.addr.trunc(env.state_ref().r[RDI]);
    let bytes = if mmx { 8 } else { 16 };
    let selected = (0..bytes).filter(|n| mask >> (8 * n + 7) & 1 != 0);
    let at = |env: &E, n: u64, len: u64| {
        let offset = i.addr.trunc(offset.wrapping_add(n));
        crate::address::linear(env.state_ref(), i.seg, offset, len, true)
    };
    for n in (0..bytes / 8).rev().map(|word| 8 * word) {
        let addr = at(env, n, 8)?;
        env.probe_write(addr, 8, Rights::Current)?;
    }
    for n in selected {
        let addr = at(env, n, 1)?;
        env.write(addr, Size::B1, (data >> (8 * n)) as u64 & 0xff, Rights::Current)?;
    }
    if mmx {
        env.state().x87.enter_mmx();
    }
    Ok(())
}

/// The first operand of an SSE instruction, an XMM register, its number, and the second, a register or 16 bytes of
/// memory.
fn vectors<E: Env + ?Sized>(env: &mut E, i: &Insn, aligned: bool) -> Result<(usize, u128, u128), Stop> {
    check_sse(env)?;
    let Operand::Xmm(dst) = i.ops[0] else { return Err(Exception::UD.into()) };
    let b = match i.ops[1] {
        Operand::Xmm(r) => env.state_ref().xmm[usize::from(r & 15)],
        Operand::Mem(m) => {
            let addr = if aligned { linear_aligned(env, &m, false)? } else { linear(env, &m, 16, false)? };
            // The form of the last byte's address comes before every page fault.
            if env.state_ref().mode == CodeMode::Bits64 && !is_canonical(addr.wrapping_add(15)) {
                return Err(Exception::GP0.into());
            }
            let rights = unaligned(env);
            let low = env.read(addr, Size::B8, rights)?;
            u128::from(env.read(addr.wrapping_add(8), Size::B8, rights)?) << 64 | u128::from(low)
        }
        _ => return Err(Exception::UD.into()),
    };
    let dst = usize::from(dst & 15);
    Ok((dst, env.state_ref().xmm[dst], b))
}

/// SHA256RNDS2, whose third operand is XMM0.
fn hash_rounds<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let (dst, a, b) = vectors(env, i, true)?;
    let xmm = &mut env.state().xmm;
    xmm[dst] = sha256_rounds(a, b, xmm[0]);
    Ok(())
}

/// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM: lengths in RAX and RDX or by a zero, the result in RCX or XMM0.
fn compare_strings<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let (_, a, b) = vectors(env, i, false)?;
    let Operand::Imm(control) = i.ops[2] else { return Err(Exception::UD.into()) };
    let control = control as u8;
    let state = env.state();
    let explicit = |r: usize, size: Size| text::explicit_length(size.sext(state.r[r]) as i64, control);
    let lengths = match i.mnemonic {
        M::Pcmpestri | M::Pcmpestrm => [explicit(RAX, Size::B4), explicit(RDX, Size::B4)],
        M::Pcmpestri64 | M::Pcmpestrm64 => [explicit(RAX, Size::B8), explicit(RDX, Size::B8)],
        _ => [text::implicit_length(a, control), text::implicit_length(b, control)],
    };
    let found = text::compare(a, b, lengths, control);
    if matches!(i.mnemonic, M::Pcmpestri | M::Pcmpestri64 | M::Pcmpistri) {
        state.r[RCX] = found.index().into();
    } else {
        state.xmm[0] = found.mask();
    }
    state.lazy = LazyFlags::fixed(found.flags());
    Ok(())
}
