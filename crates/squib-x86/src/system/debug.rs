//! Debug registers, breakpoint conditions and DR6 (Intel SDM vol. 3, chapter 17.2 and 17.3).

use squib_core::x86::bits::RFLAGS_RF;

use super::bits::CR4_DE;
use super::rflags::in_64;
use crate::env::{Env, Flush, Leave};
use crate::fault::{Exception, Stop};
use crate::state::CpuState;

/// DR6.BD: the debug registers were touched while DR7.GD was set.
pub const DR6_BD: u64 = 1 << 13;
/// DR6.BS: a single step.
pub const DR6_BS: u64 = 1 << 14;
/// The bits of DR6 that can be 0 or 1; those of RTM, bus lock and the reserved ones are fixed.
const DR6_WRITABLE: u64 = 0xe00f;
const DR6_FIXED: u64 = 0xffff_0ff0;
const DR7_WRITABLE: u64 = 0xffff_23ff;
const DR7_FIXED: u64 = 0x400;
const DR7_GD: u64 = 1 << 13;

/// What a breakpoint condition watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// The first byte of an instruction, before it runs.
    Execute,
    /// Bytes being written.
    Write,
    /// Bytes being read.
    Read,
    /// An I/O port.
    Port,
}

/// #DB with its conditions: breakpoint bits 0–3, [`DR6_BD`], [`DR6_BS`]. [`raise`](super::interrupt::raise)
/// puts them into DR6.
pub const fn exception(conditions: u64) -> Exception {
    Exception { address: conditions, ..Exception::DB }
}

/// Whether any breakpoint is on. Where none is, nothing needs to be compared.
#[inline(always)]
pub const fn armed(state: &CpuState) -> bool {
    state.dr7 & 0xff != 0
}

/// The breakpoints that are on: number, what the control field watches (0 to 3), address, and length in bytes.
fn enabled(state: &CpuState) -> impl Iterator<Item = (usize, u64, u64, u64)> {
    (0..4).map(|n| breakpoint(state, n)).filter(|(n, ..)| state.dr7 >> (2 * n) & 3 != 0)
}

/// Breakpoint `n`, on or not. Its address is aligned to its length.
fn breakpoint(state: &CpuState, n: usize) -> (usize, u64, u64, u64) {
    let control = state.dr7 >> (16 + 4 * n);
    let len = [1, 2, 8, 4][(control >> 2 & 3) as usize];
    (n, control & 3, state.dr[n] & !(len - 1), len)
}

/// Whether an enabled breakpoint watches data.
pub fn watches_data(state: &CpuState) -> bool {
    armed(state) && enabled(state).any(|(_, kind, ..)| kind & 1 != 0)
}

/// Whether an enabled breakpoint watches data in the 4 KiB page of `addr`.
pub fn watches_page(state: &CpuState, addr: u64) -> bool {
    enabled(state).any(|(_, kind, at, _)| kind & 1 != 0 && (at ^ addr) >> 12 == 0)
}

/// The conditions that `len` bytes (or a port access of that width) at `addr` meet: the bits for DR6, zero where
/// no enabled breakpoint is hit. Hardware then shows the disabled breakpoints that match as well.
pub fn conditions(state: &CpuState, watched: Watched, addr: u64, len: u64) -> u64 {
    if !armed(state) || watched == Watched::Execute && state.sys_flags & RFLAGS_RF != 0 {
        return 0;
    }
    let io = state.cr4 & CR4_DE != 0;
    let (mut met, mut fires) = (0, false);
    for (n, kind, start, bytes) in (0..4).map(|n| breakpoint(state, n)) {
        let watches = match (watched, kind) {
            (Watched::Execute, 0) => bytes == 1,
            (Watched::Write, 1 | 3) | (Watched::Read, 3) => true,
            (Watched::Port, 2) => io,
            _ => false,
        };
        // Two ranges overlap where either starts within the other, also around the top of the address space.
        let overlaps = addr.wrapping_sub(start) < bytes || start.wrapping_sub(addr) < len;
        if watches && overlaps {
            met |= 1 << n;
            fires |= state.dr7 >> (2 * n) & 3 != 0;
        }
    }
    if fires { met } else { 0 }
}

/// Puts the conditions of a #DB into DR6. Earlier BD and BS stay; DR7.GD is cleared for the handler.
pub fn record(state: &mut CpuState, conditions: u64) {
    state.dr6 = state.dr6 & !0xf | conditions & DR6_WRITABLE | DR6_FIXED;
    state.dr7 &= !DR7_GD;
}

/// The register that operand `n` names: DR4 and DR5 are other names of DR6 and DR7, unless CR4.DE is set.
fn check<E: Env + ?Sized>(env: &E, n: u8) -> Result<u8, Stop> {
    let state = env.state_ref();
    let n = match n {
        4 | 5 if state.cr4 & CR4_DE != 0 => return Err(Exception::UD.into()),
        4 | 5 => n + 2,
        0..=7 => n,
        _ => return Err(Exception::UD.into()),
    };
    if state.cpl != 0 {
        return Err(Exception::GP0.into());
    }
    if state.dr7 & DR7_GD != 0 {
        return Err(exception(DR6_BD).into());
    }
    Ok(n)
}

/// MOV from DR`n`.
///
/// # Errors
/// #UD, #GP(0), #DB by DR7.GD.
pub fn mov_from<E: Env + ?Sized>(env: &E, n: u8) -> Result<u64, Stop> {
    let n = check(env, n)?;
    let state = env.state_ref();
    Ok(match n {
        6 => state.dr6,
        7 => state.dr7,
        _ => state.dr[n as usize & 3],
    })
}

/// MOV to DR`n`. Outside of 64-bit mode the operand is 32 bits wide.
///
/// # Errors
/// #UD, #GP(0), #DB by DR7.GD.
pub fn mov_to<E: Env + ?Sized>(env: &mut E, n: u8, value: u64) -> Result<(), Stop> {
    let n = check(env, n)?;
    let value = if in_64(env) { value } else { value & 0xffff_ffff };
    if n >= 6 && value >> 32 != 0 {
        return Err(Exception::GP0.into());
    }
    let state = env.state();
    match n {
        6 => state.dr6 = value & DR6_WRITABLE | DR6_FIXED,
        7 => state.dr7 = value & DR7_WRITABLE | DR7_FIXED,
        _ => state.dr[n as usize & 3] = value,
    }
    changed(env);
    Ok(())
}

/// Tells that a debug register was written. Accesses to what is watched must not pass unseen.
pub fn changed<E: Env + ?Sized>(env: &mut E) {
    if armed(env.state_ref()) {
        env.flush(Flush::All);
        env.leave(Leave::Recheck);
    }
    env.mode_changed();
}

#[cfg(test)]
mod tests {
    use super::super::mock::Mock;
    use super::*;

    #[test]
    fn data_breakpoints_match_by_range_and_kind() {
        let mut s = CpuState::reset();
        s.dr[1] = 0x1006;
        // DR1: 4 bytes (aligned down to 0x1004), writes, enabled.
        s.dr7 = 1 << 2 | 0b1101 << 20;
        for (addr, len, hit) in
            [(0x1004, 1, true), (0x1007, 8, true), (0x1000, 4, false), (0x1000, 5, true), (0x1008, 4, false)]
        {
            assert_eq!(conditions(&s, Watched::Write, addr, len), u64::from(hit) << 1, "{addr:#x}+{len}");
        }
        assert_eq!(conditions(&s, Watched::Read, 0x1004, 1), 0);
        s.dr7 |= 0b1111 << 20;
        assert_eq!(conditions(&s, Watched::Read, 0x1004, 1), 2);
        s.dr7 &= !0xff;
        assert_eq!(conditions(&s, Watched::Read, 0x1004, 1), 0, "disabled");
    }

    #[test]
    fn pages_with_watched_data_are_known() {
        let mut s = CpuState::reset();
        s.dr = [0x1ffe, 0x5000, 0x7000, 0];
        // DR0: 8 bytes, reads and writes; DR1: code; DR2: a port.
        s.dr7 = 0b01_0101 | 0b0010 << 24 | 0b1011 << 16;
        assert!(watches_data(&s));
        for (addr, watched) in
            [(0x1000, true), (0x1fff, true), (0x2000, false), (0x5000, false), (0x7000, false)]
        {
            assert_eq!(watches_page(&s, addr), watched, "{addr:#x}");
        }
        s.dr7 &= !1;
        assert!(!watches_data(&s) && !watches_page(&s, 0x1000));
    }

    #[test]
    fn arming_a_breakpoint_drops_translations() {
        let mut m = Mock::long();
        mov_to(&mut m, 0, 0x1000).unwrap();
        mov_to(&mut m, 7, 0x400).unwrap();
        assert_eq!((m.flushed.len(), m.left.len()), (0, 0));
        mov_to(&mut m, 7, 0x401).unwrap();
        assert_eq!((&m.flushed[..], &m.left[..]), (&[Flush::All][..], &[Leave::Recheck][..]));
    }

    #[test]
    fn disabled_breakpoints_show_with_enabled_ones() {
        let mut s = CpuState::reset();
        s.dr = [0x2000, 0x2000, 0, 0];
        s.dr7 = 1;
        assert_eq!(conditions(&s, Watched::Execute, 0x2000, 1), 3);
        s.sys_flags |= RFLAGS_RF;
        assert_eq!(conditions(&s, Watched::Execute, 0x2000, 1), 0);
    }

    #[test]
    fn ports_are_watched_with_debug_extensions() {
        let mut s = CpuState::reset();
        s.dr[3] = 0x3f8;
        s.dr7 = 1 << 6 | 0b0010 << 28;
        assert_eq!(conditions(&s, Watched::Port, 0x3f8, 1), 0);
        s.cr4 = CR4_DE;
        assert_eq!(conditions(&s, Watched::Port, 0x3f8, 1), 8);
    }

    #[test]
    fn registers_have_fixed_bits_and_aliases() {
        let mut m = Mock::long();
        mov_to(&mut m, 4, 0).unwrap();
        mov_to(&mut m, 5, 0xffff_dfff).unwrap();
        assert_eq!((mov_from(&m, 6), mov_from(&m, 7)), (Ok(DR6_FIXED), Ok(0xffff_07ff)));
        assert_eq!(m.attempt(|m| mov_to(m, 7, 1 << 32)), Err(Exception::GP0.into()));
        mov_to(&mut m, 2, u64::MAX).unwrap();
        assert_eq!(mov_from(&m, 2), Ok(u64::MAX));
        m.state.cr4 |= CR4_DE;
        assert_eq!(mov_from(&m, 4), Err(Exception::UD.into()));
        assert_eq!(mov_from(&Mock::long().user(), 0), Err(Exception::GP0.into()));
    }

    #[test]
    fn general_detect_guards_the_registers() {
        let mut m = Mock::long();
        mov_to(&mut m, 7, DR7_GD).unwrap();
        let Err(Stop::Fault(e)) = mov_from(&m, 0) else { panic!("no fault") };
        record(&mut m.state, e.address);
        assert_eq!(m.state.dr6, DR6_FIXED | DR6_BD);
        assert_eq!(mov_from(&m, 0), Ok(0));
    }
}
