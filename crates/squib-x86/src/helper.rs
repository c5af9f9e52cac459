//! The instructions that every tier leaves to the same function: from a decoded instruction to
//! [`system`], [`string`](crate::string), [`decimal`] and [`x87`](crate::x87).
//!
//! On entry RIP is the address of the following instruction.

use iced_x86::{Code, Mnemonic as M};
use squib_core::x86::bits::*;

use crate::address;
use crate::decimal;
use crate::env::{Env, Leave, Rights};
use crate::fault::{Exception, Stop};
use crate::flags::LazyFlags;
use crate::insn::{Insn, MemRef, Operand};
use crate::sem::bits::BitOp;
use crate::size::Size;
use crate::state::{CodeMode, sreg};
use crate::system::interrupt::{self, Event};
use crate::system::xsave::Form;
use crate::system::{
    self, control, far, io, iret, msr, privileged, rflags, segment, syscall, tables, tlb, tsc, xsave,
};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;

/// Runs `i`.
///
/// # Errors
/// What it raises; #UD for what no part of this CPU knows.
pub fn run<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    if let Some(result) = crate::string::string(env, i).or_else(|| crate::float::float(env, i)) {
        return result;
    }
    match i.mnemonic {
        M::Mov => move_special(env, i),
        M::Push => push_segment(env, i),
        M::Pop => pop(env, i),
        M::Pushf | M::Pushfd | M::Pushfq => {
            let flags = env.state_ref().rflags() & !(RFLAGS_RF | RFLAGS_VM);
            push(env, i.stack, flags)
        }
        M::Popf | M::Popfd | M::Popfq => {
            let value = peek(env, i.stack, 0)?;
            drop_stack(env, i.stack.bytes());
            rflags::popf(env, i.stack, value);
            Ok(())
        }
        M::Pusha | M::Pushad => push_all(env, i),
        M::Popa | M::Popad => pop_all(env, i),
        M::Leave => leave(env, i),
        M::Enter => enter(env, i),
        M::Bt | M::Bts | M::Btr | M::Btc => bit_string(env, i),
        M::Rcl | M::Rcr => rotate_through_carry(env, i),
        M::Cmpxchg8b | M::Cmpxchg16b => compare_exchange_wide(env, i),
        M::Xlatb => xlat(env, i),
        M::Daa | M::Das | M::Aaa | M::Aas | M::Aam | M::Aad | M::Salc => decimal::decimal(env, i),
        M::Bound => decimal::bound(env, i),
        M::In => port_in(env, i),
        M::Out => port_out(env, i),
        M::Cld => {
            env.state().sys_flags &= !RFLAGS_DF;
            Ok(())
        }
        M::Std => {
            env.state().sys_flags |= RFLAGS_DF;
            Ok(())
        }
        M::Cli => rflags::cli(env),
        M::Sti => rflags::sti(env),
        M::Hlt => privileged::hlt(env),
        M::Wbinvd | M::Invd => privileged::invalidate_caches(env),
        M::Rdpmc => privileged::rdpmc(),
        M::Clts => control::clts(env),
        M::Lmsw => {
            supervisor(env)?;
            let value = read(env, i, 0, Size::B2)? as u16;
            control::lmsw(env, value)
        }
        M::Smsw => {
            let value = control::smsw(env)?;
            let size = if matches!(i.ops[0], Operand::Mem(_)) { Size::B2 } else { i.size };
            write(env, i, 0, size, value)
        }
        M::Rdmsr => msr::rdmsr(env),
        M::Wrmsr => msr::wrmsr(env),
        M::Rdpid => {
            let value = env.state_ref().msr.tsc_aux & 0xffff_ffff;
            write(env, i, 0, i.size, value)
        }
        M::Rdpkru => system::keys::rdpkru(env),
        M::Wrpkru => system::keys::wrpkru(env),
        M::Rdrand | M::Rdseed => random(env, i),
        M::Rdtsc => tsc::rdtsc(env),
        M::Rdtscp => tsc::rdtscp(env),
        M::Invlpg => {
            let Operand::Mem(m) = i.ops[0] else { return Err(Exception::UD.into()) };
            supervisor(env)?;
            // The address is not accessed, so the segment's limit does not matter.
            let addr = linear(env, &m, 1, false)?;
            tlb::invlpg(env, addr)
        }
        M::Invpcid => {
            supervisor(env)?;
            let kind = read(env, i, 0, register_width(env))?;
            let Operand::Mem(m) = i.ops[1] else { return Err(Exception::UD.into()) };
            let addr = linear(env, &m, 16, false)?;
            tlb::invpcid(env, kind, addr)
        }
        M::Stac | M::Clac => rflags::set_ac(env, i.mnemonic == M::Stac),
        M::Int | M::Int3 | M::Into | M::Int1 => software_interrupt(env, i),
        M::Iret | M::Iretd | M::Iretq => iret::iret(env, i.stack_of_iret()),
        M::Syscall => syscall::syscall(env, i.next),
        M::Sysret => syscall::sysret(env, Size::B4),
        M::Sysretq => syscall::sysret(env, Size::B8),
        M::Sysenter => syscall::sysenter(env),
        M::Sysexit => syscall::sysexit(env, Size::B4),
        M::Sysexitq => syscall::sysexit(env, Size::B8),
        M::Swapgs => segment::swapgs(env),
        M::Cpuid => {
            system::cpuid::cpuid(env);
            Ok(())
        }
        M::Rdfsbase => base_to_register(env, i, sreg::FS),
        M::Rdgsbase => base_to_register(env, i, sreg::GS),
        M::Wrfsbase => register_to_base(env, i, sreg::FS),
        M::Wrgsbase => register_to_base(env, i, sreg::GS),
        M::Lar => {
            let selector = read(env, i, 1, Size::B2)? as u16;
            let found = segment::lar(env, selector)?;
            write_if(env, i, found.map(u64::from))
        }
        M::Lsl => {
            let selector = read(env, i, 1, Size::B2)? as u16;
            let found = segment::lsl(env, selector)?;
            write_if(env, i, found.map(u64::from))
        }
        M::Verr | M::Verw => {
            let selector = read(env, i, 0, Size::B2)? as u16;
            segment::verify(env, selector, i.mnemonic == M::Verw)
        }
        M::Arpl => {
            let (dest, src) = (read(env, i, 0, Size::B2)? as u16, read(env, i, 1, Size::B2)? as u16);
            // Only what is to be raised is written.
            if let Operand::Mem(m) = i.ops[0]
                && dest & 3 < src & 3
            {
                let addr = linear(env, &m, 2, true)?;
                env.probe_write(addr, 2, Rights::Current)?;
            }
            match segment::arpl(env, dest, src)? {
                Some(raised) => write(env, i, 0, Size::B2, u64::from(raised)),
                None => Ok(()),
            }
        }
        M::Jmp => {
            let (selector, offset) = far_target(env, i)?;
            far::jump(env, selector, offset, i.far_size())
        }
        M::Call => {
            let (selector, offset) = far_target(env, i)?;
            far::call(env, selector, offset, i.far_size(), i.next)
        }
        M::Retf => {
            let release = if let Operand::Imm(n) = i.ops[0] { n as u16 } else { 0 };
            far::ret(env, i.stack, release)
        }
        M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => load_far_pointer(env, i),
        M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => descriptor_table(env, i),
        M::Lldt => {
            supervisor(env)?;
            let selector = read(env, i, 0, Size::B2)? as u16;
            tables::lldt(env, selector)
        }
        M::Ltr => {
            supervisor(env)?;
            let selector = read(env, i, 0, Size::B2)? as u16;
            tables::ltr(env, selector)
        }
        M::Sldt | M::Str => {
            let selector = if i.mnemonic == M::Sldt { tables::sldt(env)? } else { tables::str(env)? };
            let size = if matches!(i.ops[0], Operand::Mem(_)) { Size::B2 } else { i.size };
            write(env, i, 0, size, u64::from(selector))
        }
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => legacy_state(env, i),
        M::Xsave | M::Xsave64 => extended_state(env, i, Form::Standard, true),
        M::Xsaveopt | M::Xsaveopt64 => extended_state(env, i, Form::Optimised, true),
        M::Xsavec | M::Xsavec64 => extended_state(env, i, Form::Compacted, true),
        M::Xsaves | M::Xsaves64 => extended_state(env, i, Form::Supervisor, true),
        M::Xrstor | M::Xrstor64 => extended_state(env, i, Form::Standard, false),
        M::Xrstors | M::Xrstors64 => extended_state(env, i, Form::Supervisor, false),
        M::Xgetbv => xsave::xgetbv(env),
        M::Xsetbv => xsave::xsetbv(env),
        M::Vmcall | M::Vmmcall => {
            env.leave(Leave::Hypercall);
            Ok(())
        }
        _ => Err(Exception::UD.into()),
    }
}

impl Insn {
    /// The operand size of a far JMP or CALL.
    fn far_size(&self) -> Size {
        match self.code {
            Code::Jmp_ptr1616 | Code::Call_ptr1616 | Code::Jmp_m1616 | Code::Call_m1616 => Size::B2,
            Code::Jmp_m1664 | Code::Call_m1664 => Size::B8,
            _ => Size::B4,
        }
    }

    /// The operand size of IRET.
    fn stack_of_iret(&self) -> Size {
        match self.code {
            Code::Iretw => Size::B2,
            Code::Iretd => Size::B4,
            _ => Size::B8,
        }
    }
}

/// Privileged instructions say so before they look at their operand.
fn supervisor<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    let state = env.state_ref();
    if state.protected() && !state.v86() && state.cpl != 0 { Err(Exception::GP0.into()) } else { Ok(()) }
}

/// The linear address of a memory operand.
pub(crate) fn linear<E: Env + ?Sized>(env: &E, m: &MemRef, len: u64, write: bool) -> Result<u64, Stop> {
    linear_part(env, m, 0, len, write)
}

/// The linear address of the part of a memory operand that starts `at` bytes behind its start. Instructions whose operand is
/// a structure access its fields one by one: each has to be inside of the segment, and they may go round its end.
pub(crate) fn linear_part<E: Env + ?Sized>(
    env: &E,
    m: &MemRef,
    at: u64,
    len: u64,
    write: bool,
) -> Result<u64, Stop> {
    let offset = m.addr.trunc(offset(env, m).wrapping_add(at));
    Ok(address::linear(env.state_ref(), m.seg, offset, len, write)?)
}

/// The linear address of an operand of `len` bytes, more than 16, of which the segment is asked for both ends: it may go round
/// the end of 4 GiB.
fn linear_long<E: Env + ?Sized>(env: &E, m: &MemRef, len: u64, write: bool) -> Result<u64, Stop> {
    let addr = linear(env, m, 16, write)?;
    linear_part(env, m, len - 1, 1, write)?;
    Ok(addr)
}

/// The linear address of an operand of 16 bytes that has to be aligned.
pub(crate) fn linear_aligned<E: Env + ?Sized>(env: &E, m: &MemRef, write: bool) -> Result<u64, Stop> {
    Ok(address::linear_aligned(env.state_ref(), m.seg, offset(env, m), write)?)
}

/// The effective address of a memory operand.
pub(crate) fn offset<E: Env + ?Sized>(env: &E, m: &MemRef) -> u64 {
    let r = &env.state_ref().r;
    let index = r[usize::from(m.index & 31)] << (m.scale & 3);
    m.addr.trunc(r[usize::from(m.base & 31)].wrapping_add(index).wrapping_add(m.disp))
}

fn get<E: Env + ?Sized>(env: &E, r: usize, size: Size) -> u64 {
    size.trunc(env.state_ref().r[r & 15])
}

pub(crate) fn set<E: Env + ?Sized>(env: &mut E, r: usize, size: Size, v: u64) {
    let r = &mut env.state().r[r & 15];
    *r = if size >= Size::B4 { size.trunc(v) } else { *r & !size.mask() | size.trunc(v) };
}

fn read<E: Env + ?Sized>(env: &mut E, i: &Insn, n: usize, size: Size) -> Result<u64, Stop> {
    Ok(match i.ops[n] {
        Operand::Reg(r) => get(env, usize::from(r), size),
        Operand::High(r) => env.state_ref().r[usize::from(r & 3)] >> 8 & 0xff,
        Operand::Imm(v) => size.trunc(v),
        Operand::Mem(m) => {
            let addr = linear(env, &m, size.bytes(), false)?;
            env.read(addr, size, Rights::Current)?
        }
        _ => return Err(Exception::UD.into()),
    })
}

fn write<E: Env + ?Sized>(env: &mut E, i: &Insn, n: usize, size: Size, v: u64) -> Result<(), Stop> {
    match i.ops[n] {
        Operand::Reg(r) => set(env, usize::from(r), size, v),
        Operand::High(r) => {
            let r = &mut env.state().r[usize::from(r & 3)];
            *r = *r & !0xff00 | (v & 0xff) << 8;
        }
        Operand::Mem(m) => {
            let addr = linear(env, &m, size.bytes(), true)?;
            env.write(addr, size, v, Rights::Current)?;
        }
        _ => return Err(Exception::UD.into()),
    }
    Ok(())
}

fn write_if<E: Env + ?Sized>(env: &mut E, i: &Insn, v: Option<u64>) -> Result<(), Stop> {
    match v {
        Some(v) => write(env, i, 0, i.size, v),
        None => Ok(()),
    }
}

fn push<E: Env + ?Sized>(env: &mut E, size: Size, v: u64) -> Result<(), Stop> {
    push_many(env, size, &[v])
}

/// Pushes values, the first one first; nothing changes when any of them faults.
fn push_many<E: Env + ?Sized>(env: &mut E, size: Size, values: &[u64]) -> Result<(), Stop> {
    let width = env.state_ref().stack_size();
    let mut sp = env.state_ref().r[RSP];
    for _ in values {
        sp = width.trunc(sp.wrapping_sub(size.bytes()));
        let addr = address::linear(env.state_ref(), sreg::SS as u8, sp, size.bytes(), true)?;
        env.probe_write(addr, size.bytes(), Rights::Current)?;
    }
    let mut sp = env.state_ref().r[RSP];
    for v in values {
        sp = width.trunc(sp.wrapping_sub(size.bytes()));
        let addr = address::linear(env.state_ref(), sreg::SS as u8, sp, size.bytes(), true)?;
        env.write(addr, size, *v, Rights::Current)?;
    }
    set_sp(env, sp);
    Ok(())
}

fn set_sp<E: Env + ?Sized>(env: &mut E, sp: u64) {
    let width = env.state_ref().stack_size();
    set(env, RSP, width, sp);
}

/// What lies `above` bytes above the top of the stack.
fn peek<E: Env + ?Sized>(env: &mut E, size: Size, above: u64) -> Result<u64, Stop> {
    let width = env.state_ref().stack_size();
    let sp = width.trunc(env.state_ref().r[RSP].wrapping_add(above));
    let addr = address::linear(env.state_ref(), sreg::SS as u8, sp, size.bytes(), false)?;
    env.read(addr, size, Rights::Current)
}

fn drop_stack<E: Env + ?Sized>(env: &mut E, bytes: u64) {
    let sp = env.state_ref().r[RSP].wrapping_add(bytes);
    let width = env.state_ref().stack_size();
    set_sp(env, width.trunc(sp));
}

/// FXSAVE and FXRSTOR.
fn legacy_state<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let Operand::Mem(m) = i.ops[0] else { return Err(Exception::UD.into()) };
    let saves = matches!(i.mnemonic, M::Fxsave | M::Fxsave64);
    let wide = matches!(i.mnemonic, M::Fxsave64 | M::Fxrstor64);
    let addr = linear_long(env, &m, 512, saves)?;
    if saves { xsave::fxsave(env, addr, wide) } else { xsave::fxrstor(env, addr, wide) }
}

/// The XSAVE family.
fn extended_state<E: Env + ?Sized>(env: &mut E, i: &Insn, form: Form, saves: bool) -> Result<(), Stop> {
    let Operand::Mem(m) = i.ops[0] else { return Err(Exception::UD.into()) };
    let wide = matches!(
        i.mnemonic,
        M::Xsave64 | M::Xsaveopt64 | M::Xsavec64 | M::Xsaves64 | M::Xrstor64 | M::Xrstors64
    );
    let addr = linear_long(env, &m, 576, saves)?;
    if saves { xsave::xsave(env, addr, form, wide) } else { xsave::xrstor(env, addr, form, wide) }
}

/// The selector and offset of a far JMP or CALL.
fn far_target<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(u16, u64), Stop> {
    match (i.ops[0], i.ops[1]) {
        (Operand::Imm(offset), Operand::Imm(selector)) => Ok((selector as u16, offset)),
        (Operand::Mem(m), _) => far_pointer(env, &m, i.far_size()),
        _ => Err(Exception::UD.into()),
    }
}

/// Reads `m16:16`, `m16:32` or `m16:64`: the offset, then the selector.
fn far_pointer<E: Env + ?Sized>(env: &mut E, m: &MemRef, size: Size) -> Result<(u16, u64), Stop> {
    let addr = linear(env, m, size.bytes(), false)?;
    let offset = env.read(addr, size, Rights::Current)?;
    let addr = linear_part(env, m, size.bytes(), 2, false)?;
    let selector = env.read(addr, Size::B2, Rights::Current)?;
    Ok((selector as u16, offset))
}

/// LDS, LES, LSS, LFS, LGS.
fn load_far_pointer<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let which = match i.mnemonic {
        M::Lds => sreg::DS,
        M::Les => sreg::ES,
        M::Lss => sreg::SS,
        M::Lfs => sreg::FS,
        _ => sreg::GS,
    };
    let Operand::Mem(m) = i.ops[1] else { return Err(Exception::UD.into()) };
    let (selector, offset) = far_pointer(env, &m, i.size)?;
    segment::load(env, which, selector)?;
    write(env, i, 0, i.size, offset)
}

/// LGDT, LIDT, SGDT, SIDT.
fn descriptor_table<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let Operand::Mem(m) = i.ops[0] else { return Err(Exception::UD.into()) };
    let long = env.state_ref().mode == CodeMode::Bits64;
    let stores = matches!(i.mnemonic, M::Sgdt | M::Sidt);
    if !stores {
        supervisor(env)?;
    }
    let addr = linear(env, &m, if long { 10 } else { 6 }, stores)?;
    let size = if matches!(i.code, Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) { Size::B2 } else { Size::B4 };
    match i.mnemonic {
        M::Lgdt => tables::lgdt(env, addr, size),
        M::Lidt => tables::lidt(env, addr, size),
        M::Sgdt => tables::sgdt(env, addr),
        _ => tables::sidt(env, addr),
    }
}

/// MOV from and to segment, control and debug registers.
fn move_special<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    match (i.ops[0], i.ops[1]) {
        (Operand::Seg(s), _) => {
            let selector = read(env, i, 1, Size::B2)? as u16;
            segment::mov(env, usize::from(s), selector)
        }
        (_, Operand::Seg(s)) => {
            let selector = u64::from(env.state_ref().seg[usize::from(s).min(sreg::GS)].selector);
            // To memory always 16 bits; to a register zero-extended to its size.
            let size = if matches!(i.ops[0], Operand::Mem(_)) { Size::B2 } else { i.size };
            write(env, i, 0, size, selector)
        }
        (Operand::Cr(n), Operand::Reg(r)) => {
            let value = get(env, usize::from(r), register_width(env));
            control::mov_to(env, n, value)
        }
        (Operand::Reg(r), Operand::Cr(n)) => {
            let value = control::mov_from(env, n)?;
            let width = register_width(env);
            set(env, usize::from(r), width, value);
            Ok(())
        }
        (Operand::Dr(n), Operand::Reg(r)) => {
            let value = get(env, usize::from(r), register_width(env));
            system::debug::mov_to(env, n, value)
        }
        (Operand::Reg(r), Operand::Dr(n)) => {
            let value = system::debug::mov_from(env, n)?;
            let width = register_width(env);
            set(env, usize::from(r), width, value);
            Ok(())
        }
        _ => Err(Exception::UD.into()),
    }
}

/// Width of the general register in moves to and from control and debug registers.
fn register_width<E: Env + ?Sized>(env: &E) -> Size {
    if env.state_ref().mode == CodeMode::Bits64 { Size::B8 } else { Size::B4 }
}

fn push_segment<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let Operand::Seg(s) = i.ops[0] else { return Err(Exception::UD.into()) };
    let selector = u64::from(env.state_ref().seg[usize::from(s).min(sreg::GS)].selector);
    if i.stack != Size::B4 {
        return push(env, i.stack, selector);
    }
    // Intel's processors write 16 of the 32 bits and leave the others as they are (Intel SDM vol. 2, "PUSH").
    let sp = env.state_ref().stack_size().trunc(env.state_ref().r[RSP].wrapping_sub(4));
    let addr = address::linear(env.state_ref(), sreg::SS as u8, sp, 2, true)?;
    env.write(addr, Size::B2, selector, Rights::Current)?;
    set_sp(env, sp);
    Ok(())
}

/// POP of a segment register, or to memory, whose address counts from the stack pointer after the pop.
fn pop<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    match i.ops[0] {
        Operand::Seg(s) => {
            let selector = peek(env, Size::B2, 0)? as u16;
            segment::mov(env, usize::from(s), selector)?;
            drop_stack(env, i.stack.bytes());
            Ok(())
        }
        Operand::Mem(_) => {
            let v = peek(env, i.stack, 0)?;
            let before = env.state_ref().r[RSP];
            drop_stack(env, i.stack.bytes());
            let written = write(env, i, 0, i.stack, v);
            if written.is_err() {
                env.state().r[RSP] = before;
            }
            written
        }
        _ => Err(Exception::UD.into()),
    }
}

fn push_all<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let size = if i.mnemonic == M::Pushad { Size::B4 } else { Size::B2 };
    let values: [u64; 8] = std::array::from_fn(|r| get(env, r, size));
    push_many(env, size, &values)
}

fn pop_all<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let size = if i.mnemonic == M::Popad { Size::B4 } else { Size::B2 };
    let mut values = [0; 8];
    for (n, v) in values.iter_mut().enumerate() {
        *v = peek(env, size, n as u64 * size.bytes())?;
    }
    for (n, v) in values.iter().enumerate() {
        // RDI is on top; the saved stack pointer is skipped.
        if 7 - n != RSP {
            set(env, 7 - n, size, *v);
        }
    }
    drop_stack(env, 8 * size.bytes());
    Ok(())
}

/// LEAVE on a stack that is not flat.
fn leave<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let width = env.state_ref().stack_size();
    let frame = get(env, RBP, width);
    let addr = address::linear(env.state_ref(), sreg::SS as u8, frame, i.stack.bytes(), false)?;
    let v = env.read(addr, i.stack, Rights::Current)?;
    set_sp(env, width.trunc(frame.wrapping_add(i.stack.bytes())));
    set(env, RBP, i.stack, v);
    Ok(())
}

/// ENTER (Intel SDM vol. 2, "ENTER"). What it pushes before it faults stays below the stack.
fn enter<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let size = i.stack;
    let space = read(env, i, 0, Size::B2)?;
    let level = read(env, i, 1, Size::B1)? & 31;
    let width = env.state_ref().stack_size();
    let mut sp = width.trunc(env.state_ref().r[RSP]);
    let mut push = |env: &mut E, v: u64| {
        sp = width.trunc(sp.wrapping_sub(size.bytes()));
        let addr = address::linear(env.state_ref(), sreg::SS as u8, sp, size.bytes(), true)?;
        env.write(addr, size, v, Rights::Current).map(|()| sp)
    };
    let old = get(env, RBP, size);
    let mut frame = push(env, old)?;
    if width == Size::B2 {
        // The frame pointer is as wide as the operand.
        frame |= env.state_ref().r[RSP] & 0xffff_0000;
    }
    for n in 1..level {
        let at = width.trunc(get(env, RBP, width).wrapping_sub(n * size.bytes()));
        let addr = address::linear(env.state_ref(), sreg::SS as u8, at, size.bytes(), false)?;
        let outer = env.read(addr, size, Rights::Current)?;
        push(env, outer)?;
    }
    if level > 0 {
        push(env, size.trunc(frame))?;
    }
    let sp = width.trunc(sp.wrapping_sub(space));
    // The new top of the stack must be writable too.
    let addr = address::linear(env.state_ref(), sreg::SS as u8, sp, size.bytes(), true)?;
    env.probe_write(addr, size.bytes(), Rights::Current)?;
    set_sp(env, sp);
    set(env, RBP, size, frame);
    Ok(())
}

/// BT and its kin with a register offset into memory: the offset reaches beyond the operand.
fn bit_string<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let (Operand::Mem(m), Operand::Reg(r)) = (i.ops[0], i.ops[1]) else { return Err(Exception::UD.into()) };
    let size = i.size;
    let index = size.sext(get(env, usize::from(r), size)) as i64;
    let bits = i64::from(size.bits());
    let words = index.div_euclid(bits).wrapping_mul(size.bytes() as i64);
    let at = m.addr.trunc(offset(env, &m).wrapping_add(words as u64));
    let op = BitOp::of(i.mnemonic);
    let writes = op != BitOp::Test;
    let addr = address::linear(env.state_ref(), m.seg, at, size.bytes(), writes)?;
    if writes {
        env.probe_write(addr, size.bytes(), Rights::Current)?;
    }
    let word = env.read(addr, size, Rights::Current)?;
    let bit = 1 << index.rem_euclid(bits);
    if writes {
        env.write(addr, size, op.apply(word, bit), Rights::Current)?;
    }
    let state = env.state();
    let cf = if word & bit != 0 { RFLAGS_CF } else { 0 };
    state.lazy = LazyFlags::fixed(state.lazy.bits() & !RFLAGS_CF | cf);
    Ok(())
}

/// RCL and RCR: a rotate of the operand and CF together.
fn rotate_through_carry<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let size = i.size;
    let left = i.mnemonic == M::Rcl;
    let count = read(env, i, 1, Size::B1)? & if size == Size::B8 { 63 } else { 31 };
    let bits = size.bits();
    let turns = count as u32 % (bits + 1);
    if let Operand::Mem(m) = i.ops[0] {
        let addr = linear(env, &m, size.bytes(), true)?;
        env.probe_write(addr, size.bytes(), Rights::Current)?;
    }
    let old = read(env, i, 0, size)?;
    let carry = env.state_ref().lazy.cf();
    let wide = u128::from(old) | u128::from(carry) << bits;
    let mask = (1u128 << (bits + 1)) - 1;
    let up = if left { turns } else { (bits + 1 - turns) % (bits + 1) };
    let wide = (wide << up | wide >> (bits + 1 - up)) & mask;
    let res = size.trunc(wide as u64);
    write(env, i, 0, size, res)?;
    // Whole turns leave every flag as it was.
    if turns != 0 {
        let cf = wide >> bits & 1 != 0;
        let top = res & size.sign() != 0;
        let of = if left { top != cf } else { top != (res << 1 & size.sign() != 0) };
        let state = env.state();
        let kept = state.lazy.bits() & !(RFLAGS_CF | RFLAGS_OF);
        let new = if cf { RFLAGS_CF } else { 0 } | if of { RFLAGS_OF } else { 0 };
        state.lazy = LazyFlags::fixed(kept | new);
    }
    Ok(())
}

/// CMPXCHG8B and CMPXCHG16B. Memory is written in either case, as on hardware.
fn compare_exchange_wide<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let Operand::Mem(m) = i.ops[0] else { return Err(Exception::UD.into()) };
    let size = if i.mnemonic == M::Cmpxchg16b { Size::B8 } else { Size::B4 };
    let len = 2 * size.bytes();
    let addr = if size == Size::B8 { linear_aligned(env, &m, true)? } else { linear(env, &m, len, true)? };
    env.probe_write(addr, len, Rights::Current)?;
    let high_addr = addr.wrapping_add(size.bytes());
    let low = env.read(addr, size, Rights::Current)?;
    let high = env.read(high_addr, size, Rights::Current)?;
    let equal = low == get(env, RAX, size) && high == get(env, RDX, size);
    let (new_low, new_high) = if equal { (get(env, RBX, size), get(env, RCX, size)) } else { (low, high) };
    env.write(addr, size, new_low, Rights::Current)?;
    env.write(high_addr, size, new_high, Rights::Current)?;
    if !equal {
        set(env, RAX, size, low);
        set(env, RDX, size, high);
    }
    let state = env.state();
    let kept = state.lazy.bits() & !RFLAGS_ZF;
    state.lazy = LazyFlags::fixed(kept | if equal { RFLAGS_ZF } else { 0 });
    Ok(())
}

/// RDRAND and RDSEED: CF says whether there was a number; the other status flags are clear (Intel SDM vol. 1, 7.3.17).
fn random<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let number = env.random();
    write(env, i, 0, i.size, i.size.trunc(number.unwrap_or(0)))?;
    env.state().lazy = LazyFlags::fixed(if number.is_some() { RFLAGS_CF } else { 0 });
    Ok(())
}

fn xlat<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let at = i.addr.trunc(env.state_ref().r[RBX].wrapping_add(get(env, RAX, Size::B1)));
    let addr = address::linear(env.state_ref(), i.seg, at, 1, false)?;
    let v = env.read(addr, Size::B1, Rights::Current)?;
    set(env, RAX, Size::B1, v);
    Ok(())
}

fn port_of<E: Env + ?Sized>(env: &E, op: Operand<MemRef>) -> u16 {
    match op {
        Operand::Imm(n) => (n & 0xff) as u16,
        _ => get(env, RDX, Size::B2) as u16,
    }
}

fn port_in<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let port = port_of(env, i.ops[1]);
    io::check(env, port, i.size)?;
    let v = env.port_read(port, i.size)?;
    set(env, RAX, i.size, v);
    Ok(())
}

fn port_out<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let port = port_of(env, i.ops[0]);
    io::check(env, port, i.src_size)?;
    let v = get(env, RAX, i.src_size);
    env.port_write(port, i.src_size, v)
}

fn software_interrupt<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let event = match i.mnemonic {
        M::Int => Event::software(read(env, i, 0, Size::B1)? as u8),
        M::Int3 => Event::software(3),
        M::Int1 => Event::int1(),
        _ if env.state_ref().lazy.of() => Event::software(4),
        _ => return Ok(()),
    };
    interrupt::deliver(env, event, i.next)
}

fn base_to_register<E: Env + ?Sized>(env: &mut E, i: &Insn, which: usize) -> Result<(), Stop> {
    let base = segment::read_base(env, which, i.size)?;
    write(env, i, 0, i.size, base)
}

fn register_to_base<E: Env + ?Sized>(env: &mut E, i: &Insn, which: usize) -> Result<(), Stop> {
    let base = read(env, i, 0, i.size)?;
    segment::write_base(env, which, i.size, base)
}
