//! Segment registers: loads and their checks, what descriptors allow, FS and GS bases
//! (Intel SDM vol. 3, 5.4 to 5.9; vol. 2, "MOV", "POP", "LAR", "LSL", "VERR", "ARPL").

use super::bits::CR4_FSGSBASE;
use super::descriptor::{self, Descriptor, code, kind};
use super::is_canonical;
use super::rflags::{in_64, set_zf};
use crate::env::{Env, Leave};
use crate::fault::{Exception, Stop};
use crate::model::Vendor;
use crate::size::Size;
use crate::state::{Seg, Shadow, sreg};

/// Loads ES, SS, DS, FS or GS, as MOV, POP and LDS…LGS do. `which` is a [`sreg`] number; CS is #UD.
///
/// # Errors
/// #GP, #NP, #SS with the selector, #PF; #UD for CS.
pub fn load<E: Env + ?Sized>(env: &mut E, which: usize, selector: u16) -> Result<(), Stop> {
    if which == sreg::CS || which > sreg::GS {
        return Err(Exception::UD.into());
    }
    let state = env.state_ref();
    let seg = if !state.protected() || state.v86() {
        real_mode(&state.seg[which], selector)
    } else if which == sreg::SS {
        stack(env, selector)?
    } else {
        data(env, which, selector)?
    };
    set(env, which, seg);
    Ok(())
}

/// MOV or POP to a segment register: like [`load`], and SS holds off interrupts and debug traps for one instruction.
///
/// # Errors
/// As [`load`].
pub fn mov<E: Env + ?Sized>(env: &mut E, which: usize, selector: u16) -> Result<(), Stop> {
    load(env, which, selector)?;
    if which == sreg::SS {
        env.state().shadow = Shadow::MovSs;
        env.leave(Leave::Recheck);
    }
    Ok(())
}

/// A segment of real mode. The hidden limit stays what it was, which is how "unreal mode" comes about.
pub(super) fn real_mode(old: &Seg, selector: u16) -> Seg {
    let limit = if old.has(Seg::UNUSABLE) { 0xffff } else { old.limit };
    let attr = old.attr & (Seg::G | Seg::DB) | Seg::P | Seg::S | 3;
    Seg { base: u64::from(selector) << 4, limit, selector, attr }
}

/// What a null selector loads.
pub(super) fn null(selector: u16) -> Seg {
    Seg { selector, attr: Seg::UNUSABLE, ..Seg::default() }
}

/// Puts `seg` into a data or stack segment register.
pub(super) fn set<E: Env + ?Sized>(env: &mut E, which: usize, seg: Seg) {
    let state = env.state();
    let width = state.stack_size();
    state.seg[which] = seg;
    if state.stack_size() == width {
        state.update_mode();
    } else {
        env.mode_changed();
    }
}

fn data<E: Env + ?Sized>(env: &mut E, which: usize, selector: u16) -> Result<Seg, Stop> {
    if descriptor::is_null(selector) {
        let old = env.state_ref().seg[which];
        return Ok(match env.model().vendor {
            Vendor::Intel => null(selector),
            // Base and limit stay, unless CPUID says "NullSelectClearsBase" (AMD APM vol. 3, E.4.17).
            Vendor::Amd => Seg { base: old.base, limit: old.limit, ..null(selector) },
        });
    }
    let gp = Exception::gp(code(selector));
    let d = descriptor::read(env, selector, Exception::gp, 0)?;
    let highest = env.state_ref().cpl.max(selector as u8 & 3);
    if !d.is_readable() || !d.is_conforming() && highest > d.dpl() {
        return Err(gp.into());
    }
    if !d.is_present() {
        return Err(Exception::np(code(selector)).into());
    }
    Ok(d.mark_accessed(env)?.segment(selector))
}

fn stack<E: Env + ?Sized>(env: &mut E, selector: u16) -> Result<Seg, Stop> {
    let cpl = env.state_ref().cpl;
    if descriptor::is_null(selector) {
        if in_64(env) && cpl != 3 && selector as u8 & 3 == cpl {
            return Ok(null_stack(selector, cpl));
        }
        return Err(Exception::GP0.into());
    }
    let d = stack_descriptor(env, selector, cpl, Exception::gp, 0)?;
    Ok(d.mark_accessed(env)?.segment(selector))
}

/// The null stack segment that 64-bit code may have below ring 3.
pub(super) fn null_stack(selector: u16, cpl: u8) -> Seg {
    Seg { selector, attr: Seg::UNUSABLE | u16::from(cpl) << 5, ..Seg::default() }
}

/// The descriptor of a stack segment for privilege level `cpl`. `bad` is the exception for all that is wrong with it
/// except absence, which is #SS.
pub(super) fn stack_descriptor<E: Env + ?Sized>(
    env: &mut E,
    selector: u16,
    cpl: u8,
    bad: fn(u32) -> Exception,
    external: u32,
) -> Result<Descriptor, Stop> {
    let d = descriptor::read(env, selector, bad, external)?;
    if selector as u8 & 3 != cpl || d.dpl() != cpl || !d.is_writable_data() {
        return Err(bad(code(selector) | external).into());
    }
    if !d.is_present() {
        return Err(Exception::ss(code(selector) | external).into());
    }
    Ok(d)
}

/// Makes those data segment registers null that ring `cpl`, less privileged than before, must not use.
pub(super) fn drop_privileged<E: Env + ?Sized>(env: &mut E, cpl: u8) {
    for which in [sreg::ES, sreg::DS, sreg::FS, sreg::GS] {
        let seg = &mut env.state().seg[which];
        let conforming = seg.is_code() && seg.kind() & 4 != 0;
        if !seg.has(Seg::UNUSABLE) && seg.dpl() < cpl && !conforming {
            // The base stays: in 64-bit mode FS and GS are used with a null selector.
            *seg = Seg { base: seg.base, ..null(0) };
        }
    }
}

/// The descriptor of `selector` as VERR, LAR and their kin see it: `None` where they only clear ZF.
fn visible<E: Env + ?Sized>(env: &mut E, selector: u16) -> Result<Option<Descriptor>, Stop> {
    let state = env.state_ref();
    if !state.protected() || state.v86() {
        return Err(Exception::UD.into());
    }
    if descriptor::is_null(selector) || descriptor::locate(env, selector, 8).is_none() {
        return Ok(None);
    }
    let d = descriptor::read(env, selector, Exception::gp, 0)?;
    let highest = env.state_ref().cpl.max(selector as u8 & 3);
    Ok((d.is_conforming() || highest <= d.dpl()).then_some(d))
}

/// LAR: the access rights that go to the destination, which stays where it is `None`. Sets ZF.
///
/// # Errors
/// #UD outside of protected mode, #PF.
pub fn lar<E: Env + ?Sized>(env: &mut E, selector: u16) -> Result<Option<u32>, Stop> {
    let long = env.state_ref().long_mode();
    let found = visible(env, selector)?.filter(|d| {
        d.is_segment()
            || match d.kind() {
                kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL_GATE => true,
                kind::TSS16 | kind::TSS16_BUSY | kind::CALL_GATE16 | kind::TASK_GATE => !long,
                _ => false,
            }
    });
    set_zf(env, found.is_some());
    Ok(found.map(Descriptor::access_rights))
}

/// LSL: the limit in bytes that goes to the destination, which stays where it is `None`. Sets ZF.
///
/// # Errors
/// #UD outside of protected mode, #PF.
pub fn lsl<E: Env + ?Sized>(env: &mut E, selector: u16) -> Result<Option<u32>, Stop> {
    let long = env.state_ref().long_mode();
    let found = visible(env, selector)?.filter(|d| {
        d.is_segment()
            || match d.kind() {
                kind::LDT | kind::TSS | kind::TSS_BUSY => true,
                kind::TSS16 | kind::TSS16_BUSY => !long,
                _ => false,
            }
    });
    set_zf(env, found.is_some());
    Ok(found.map(Descriptor::limit))
}

/// VERR (`write` is `false`) and VERW. Sets ZF where the segment can be used that way.
///
/// # Errors
/// #UD outside of protected mode, #PF.
pub fn verify<E: Env + ?Sized>(env: &mut E, selector: u16, write: bool) -> Result<(), Stop> {
    let found = visible(env, selector)?;
    set_zf(env, found.is_some_and(|d| if write { d.is_writable_data() } else { d.is_readable() }));
    Ok(())
}

/// ARPL: the selector for the destination, which stays where it is `None`. Sets ZF.
///
/// # Errors
/// #UD outside of protected mode.
pub fn arpl<E: Env + ?Sized>(env: &mut E, dest: u16, src: u16) -> Result<Option<u16>, Stop> {
    let state = env.state_ref();
    if !state.protected() || state.v86() {
        return Err(Exception::UD.into());
    }
    let raised = (dest & 3 < src & 3).then_some(dest & !3 | src & 3);
    set_zf(env, raised.is_some());
    Ok(raised)
}

/// RDFSBASE and RDGSBASE; `which` is FS or GS.
///
/// # Errors
/// #UD outside of 64-bit mode or without CR4.FSGSBASE.
pub fn read_base<E: Env + ?Sized>(env: &E, which: usize, size: Size) -> Result<u64, Stop> {
    may_use_bases(env)?;
    Ok(size.trunc(env.state_ref().seg[which].base))
}

/// WRFSBASE and WRGSBASE.
///
/// # Errors
/// As [`read_base`]; #GP(0) for an address that is not canonical.
pub fn write_base<E: Env + ?Sized>(env: &mut E, which: usize, size: Size, value: u64) -> Result<(), Stop> {
    may_use_bases(env)?;
    let value = size.trunc(value);
    if !is_canonical(value) {
        return Err(Exception::GP0.into());
    }
    let state = env.state();
    state.seg[which].base = value;
    state.update_mode();
    Ok(())
}

fn may_use_bases<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    if in_64(env) && env.state_ref().cr4 & CR4_FSGSBASE != 0 { Ok(()) } else { Err(Exception::UD.into()) }
}

/// SWAPGS.
///
/// # Errors
/// #UD outside of 64-bit mode, #GP(0) above ring 0.
pub fn swapgs<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    if !in_64(env) {
        return Err(Exception::UD.into());
    }
    let state = env.state();
    if state.cpl != 0 {
        return Err(Exception::GP0.into());
    }
    std::mem::swap(&mut state.seg[sreg::GS].base, &mut state.msr.kernel_gs_base);
    state.update_mode();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::mock::{GDT, Mock, sel};
    use super::*;

    fn fault<T: std::fmt::Debug>(r: Result<T, Stop>) -> Exception {
        match r.unwrap_err() {
            Stop::Fault(e) => e,
            Stop::Exit => panic!("an exit"),
        }
    }

    #[test]
    fn real_mode_loads_keep_the_limit() {
        let mut m = Mock::new();
        m.state.seg[sreg::DS].limit = u32::MAX;
        mov(&mut m, sreg::DS, 0x1234).unwrap();
        let ds = m.state.seg[sreg::DS];
        assert_eq!((ds.base, ds.limit, ds.selector), (0x12340, u32::MAX, 0x1234));
        assert_eq!(m.state.shadow, Shadow::None);
        mov(&mut m, sreg::SS, 1).unwrap();
        assert_eq!(m.state.shadow, Shadow::MovSs);
        assert_eq!(fault(load(&mut m, sreg::CS, 0)), Exception::UD);
    }

    #[test]
    fn data_segments_check_type_and_privilege() {
        let mut m = Mock::long().user();
        let mut load_ds = |s| m.attempt(|m| load(m, sreg::DS, s));
        assert_eq!(load_ds(sel::USER_DATA), Ok(()));
        assert_eq!(load_ds(sel::READ_ONLY | 3), Ok(()));
        assert_eq!(load_ds(sel::CONFORMING), Ok(()));
        assert_eq!(load_ds(3), Ok(()));
        assert_eq!(fault(load_ds(sel::DATA)), Exception::gp(sel::DATA.into()));
        assert_eq!(fault(load_ds(sel::EXECUTE_ONLY)), Exception::gp(sel::EXECUTE_ONLY.into()));
        assert_eq!(fault(load_ds(sel::TSS)), Exception::gp(sel::TSS.into()));
        assert_eq!(fault(load_ds(0x107)), Exception::gp(0x104), "no LDT");
        assert_eq!(fault(load_ds(0x103)), Exception::gp(0x100), "beyond the limit");
        let mut m = Mock::long();
        assert_eq!(fault(load(&mut m, sreg::DS, sel::ABSENT_DATA)), Exception::np(sel::ABSENT_DATA.into()));
        assert_eq!(
            fault(load(&mut m, sreg::DS, sel::DATA | 3)),
            Exception::gp(sel::DATA.into()),
            "RPL counts"
        );
    }

    #[test]
    fn loads_set_the_accessed_bit() {
        let mut m = Mock::long();
        load(&mut m, sreg::FS, sel::READ_ONLY | 3).unwrap();
        assert_eq!(m.ram.get(GDT + u64::from(sel::READ_ONLY) + 5, 1), 0xf1);
        assert_eq!(m.state.seg[sreg::FS].kind(), 1);
    }

    #[test]
    fn the_stack_segment_is_stricter() {
        let mut m = Mock::long();
        let mut load_ss = |s| m.attempt(|m| load(m, sreg::SS, s));
        assert_eq!(load_ss(sel::DATA), Ok(()));
        assert_eq!(load_ss(0), Ok(()), "64-bit code below ring 3");
        assert_eq!(fault(load_ss(1)), Exception::GP0, "RPL differs from CPL");
        assert_eq!(fault(load_ss(sel::DATA | 1)), Exception::gp(sel::DATA.into()));
        assert_eq!(fault(load_ss(sel::USER_DATA & !3)), Exception::gp(0x20));
        assert_eq!(fault(load_ss(sel::CODE)), Exception::gp(sel::CODE.into()));
        assert_eq!(fault(load_ss(sel::ABSENT_DATA)), Exception::ss(sel::ABSENT_DATA.into()));
        assert_eq!(fault(load(&mut Mock::protected(), sreg::SS, 0)), Exception::GP0);
        assert_eq!(fault(load(&mut Mock::long().user(), sreg::SS, 3)), Exception::GP0);
    }

    #[test]
    fn null_clears_the_base() {
        let mut m = Mock::long();
        m.state.seg[sreg::FS].base = 0x1234_5678;
        load(&mut m, sreg::FS, 0).unwrap();
        assert_eq!((m.state.seg[sreg::FS].base, m.state.seg[sreg::FS].attr), (0, Seg::UNUSABLE));
        m.model.vendor = Vendor::Amd;
        m.state.seg[sreg::FS].base = 0x1234_5678;
        load(&mut m, sreg::FS, 0).unwrap();
        let fs = m.state.seg[sreg::FS];
        assert_eq!((fs.base, fs.attr), (0x1234_5678, Seg::UNUSABLE), "AMD's does not");
    }

    #[test]
    fn rights_and_limits_are_told_by_flag() {
        let mut m = Mock::long();
        assert_eq!(lar(&mut m, sel::DATA), Ok(Some(0xcf_9300)));
        assert!(m.state.lazy.zf());
        assert_eq!(lsl(&mut m, sel::DATA), Ok(Some(u32::MAX)));
        assert_eq!(lsl(&mut m, sel::TSS), Ok(Some(0x67)));
        assert_eq!(lar(&mut m, 0), Ok(None));
        assert!(!m.state.lazy.zf());
        for (selector, read, write) in [
            (sel::DATA, true, true),
            (sel::READ_ONLY, true, false),
            (sel::EXECUTE_ONLY, false, false),
            (sel::TSS, false, false),
        ] {
            verify(&mut m, selector, false).unwrap();
            assert_eq!(m.state.lazy.zf(), read, "{selector:#x}");
            verify(&mut m, selector, true).unwrap();
            assert_eq!(m.state.lazy.zf(), write, "{selector:#x}");
        }
        let mut m = Mock::long().user();
        assert_eq!(lar(&mut m, sel::DATA), Ok(None), "not visible from ring 3");
        assert_eq!(fault(lar(&mut Mock::new(), 8)), Exception::UD);
        let mut m = Mock::protected();
        assert_eq!(arpl(&mut m, 0x10, 3), Ok(Some(0x13)));
        assert_eq!(arpl(&mut m, 0x13, 1), Ok(None));
        assert!(!m.state.lazy.zf());
    }

    #[test]
    fn bases_are_read_written_and_swapped() {
        let mut m = Mock::long();
        assert_eq!(fault(read_base(&m, sreg::FS, Size::B8)), Exception::UD);
        m.state.cr4 |= CR4_FSGSBASE;
        write_base(&mut m, sreg::GS, Size::B8, 0xffff_8000_0000_1000).unwrap();
        assert_eq!(read_base(&m, sreg::GS, Size::B4), Ok(0x1000));
        assert_eq!(fault(m.attempt(|m| write_base(m, sreg::GS, Size::B8, 1 << 47))), Exception::GP0);
        m.state.msr.kernel_gs_base = 7;
        swapgs(&mut m).unwrap();
        assert_eq!((m.state.seg[sreg::GS].base, m.state.msr.kernel_gs_base), (7, 0xffff_8000_0000_1000));
        assert_eq!(m.state.r[crate::state::REG_GS as usize], 7);
        assert_eq!(fault(Mock::long().user().attempt(swapgs)), Exception::GP0);
        assert_eq!(fault(Mock::protected().attempt(swapgs)), Exception::UD);
    }
}
