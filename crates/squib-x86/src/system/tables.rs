//! GDTR, IDTR, LDTR and the task register (Intel SDM vol. 3, 2.4; vol. 2, "LGDT/LIDT", "LLDT", "LTR", "SGDT", "SLDT").

use super::control::check_umip;
use super::descriptor::{self, Descriptor, code, is_null, kind};
use super::rflags::in_64;
use super::{is_canonical, privileged};
use crate::env::{Env, Rights};
use crate::fault::{Exception, Stop};
use crate::size::Size;
use crate::state::{Seg, Table};

/// Reads the operand of LGDT and LIDT: 6 bytes at linear address `addr`, in 64-bit mode 10. A 16-bit operand
/// has 24 bits of base.
fn operand<E: Env + ?Sized>(env: &mut E, addr: u64, size: Size) -> Result<Table, Stop> {
    privileged::check(env)?;
    let wide = in_64(env);
    let limit = env.read(addr, Size::B2, Rights::Current)? as u16;
    let base = env.read(addr.wrapping_add(2), if wide { Size::B8 } else { Size::B4 }, Rights::Current)?;
    if wide && !is_canonical(base) {
        return Err(Exception::GP0.into());
    }
    let base = if !wide && size == Size::B2 { base & 0xff_ffff } else { base };
    Ok(Table { base, limit })
}

/// LGDT.
///
/// # Errors
/// #GP(0) above ring 0 and for a base that is not canonical, #PF.
pub fn lgdt<E: Env + ?Sized>(env: &mut E, addr: u64, size: Size) -> Result<(), Stop> {
    env.state().gdt = operand(env, addr, size)?;
    Ok(())
}

/// LIDT.
///
/// # Errors
/// As [`lgdt`].
pub fn lidt<E: Env + ?Sized>(env: &mut E, addr: u64, size: Size) -> Result<(), Stop> {
    env.state().idt = operand(env, addr, size)?;
    Ok(())
}

/// Stores the operand of SGDT and SIDT, whole or not at all.
fn store<E: Env + ?Sized>(env: &mut E, addr: u64, table: Table) -> Result<(), Stop> {
    check_umip(env)?;
    let size = if in_64(env) { Size::B8 } else { Size::B4 };
    env.probe_write(addr, 2 + size.bytes(), Rights::Current)?;
    env.write(addr, Size::B2, table.limit.into(), Rights::Current)?;
    env.write(addr.wrapping_add(2), size, size.trunc(table.base), Rights::Current)
}

/// SGDT.
///
/// # Errors
/// #GP(0) by CR4.UMIP, #PF.
pub fn sgdt<E: Env + ?Sized>(env: &mut E, addr: u64) -> Result<(), Stop> {
    let table = env.state_ref().gdt;
    store(env, addr, table)
}

/// SIDT.
///
/// # Errors
/// As [`sgdt`].
pub fn sidt<E: Env + ?Sized>(env: &mut E, addr: u64) -> Result<(), Stop> {
    let table = env.state_ref().idt;
    store(env, addr, table)
}

/// Reads the descriptor that LLDT and LTR name: one of the kinds given, in the GDT, in IA-32e mode 16 bytes long.
fn system_segment<E: Env + ?Sized>(
    env: &mut E,
    selector: u16,
    kinds: &[u8],
) -> Result<(Descriptor, Seg), Stop> {
    let long = env.state_ref().long_mode();
    let bad = Exception::gp(code(selector));
    if selector & 4 != 0 || descriptor::locate(env, selector, if long { 16 } else { 8 }).is_none() {
        return Err(bad.into());
    }
    let d = descriptor::read(env, selector, Exception::gp, 0)?;
    if d.is_segment() || !kinds.contains(&d.kind()) {
        return Err(bad.into());
    }
    if !d.is_present() {
        return Err(Exception::np(code(selector)).into());
    }
    let mut seg = d.segment(selector);
    if long {
        let upper = d.upper(env)?;
        seg.base |= upper << 32;
        // The type field of the upper half must be zero, and so an ordinary descriptor is not taken for one.
        if upper >> 40 & 0x1f != 0 || !is_canonical(seg.base) {
            return Err(bad.into());
        }
    }
    Ok((d, seg))
}

/// Checks for protected mode and, for a load, for ring 0.
fn protected<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    let state = env.state_ref();
    if state.protected() && !state.v86() { Ok(()) } else { Err(Exception::UD.into()) }
}

/// LLDT.
///
/// # Errors
/// #UD outside of protected mode; #GP, #NP, #PF.
pub fn lldt<E: Env + ?Sized>(env: &mut E, selector: u16) -> Result<(), Stop> {
    protected(env)?;
    privileged::check(env)?;
    env.state().ldt = if is_null(selector) {
        Seg { selector, attr: Seg::UNUSABLE, ..Seg::default() }
    } else {
        system_segment(env, selector, &[kind::LDT])?.1
    };
    Ok(())
}

/// LTR: the descriptor becomes busy.
///
/// # Errors
/// As [`lldt`].
pub fn ltr<E: Env + ?Sized>(env: &mut E, selector: u16) -> Result<(), Stop> {
    protected(env)?;
    privileged::check(env)?;
    if is_null(selector) {
        return Err(Exception::GP0.into());
    }
    let kinds: &[u8] = if env.state_ref().long_mode() { &[kind::TSS] } else { &[kind::TSS, kind::TSS16] };
    let (descriptor, seg) = system_segment(env, selector, kinds)?;
    descriptor.mark_busy(env)?;
    env.state().tr = Seg { attr: seg.attr | 2, ..seg };
    Ok(())
}

/// SLDT: the selector, zero-extended to the operand by the caller.
///
/// # Errors
/// #UD outside of protected mode, #GP(0) by CR4.UMIP.
pub fn sldt<E: Env + ?Sized>(env: &E) -> Result<u16, Stop> {
    protected(env)?;
    check_umip(env)?;
    Ok(env.state_ref().ldt.selector)
}

/// STR, likewise.
///
/// # Errors
/// As [`sldt`].
pub fn str<E: Env + ?Sized>(env: &E) -> Result<u16, Stop> {
    protected(env)?;
    check_umip(env)?;
    Ok(env.state_ref().tr.selector)
}

#[cfg(test)]
mod tests {
    use super::super::bits::CR4_UMIP;
    use super::super::mock::{GDT, Mock, TSS, sel};
    use super::*;

    fn err<T>(e: Exception) -> Result<T, Stop> {
        Err(e.into())
    }

    #[test]
    fn tables_are_loaded_and_stored() {
        let mut m = Mock::long();
        m.ram.put(0x5000, 2, 0x1ff);
        m.ram.put(0x5002, 8, 0xffff_8000_0000_3000);
        lgdt(&mut m, 0x5000, Size::B8).unwrap();
        lidt(&mut m, 0x5000, Size::B8).unwrap();
        assert_eq!(m.state.gdt, Table { base: 0xffff_8000_0000_3000, limit: 0x1ff });
        assert_eq!(m.state.idt, m.state.gdt);
        sgdt(&mut m, 0x6000).unwrap();
        assert_eq!((m.ram.get(0x6000, 2), m.ram.get(0x6002, 8)), (0x1ff, 0xffff_8000_0000_3000));
        m.ram.put(0x5002, 8, 1 << 47);
        assert_eq!(m.attempt(|m| lgdt(m, 0x5000, Size::B8)), err(Exception::GP0));
        let mut m = Mock::protected();
        m.ram.put(0x5002, 4, 0x8765_4321);
        lidt(&mut m, 0x5000, Size::B2).unwrap();
        assert_eq!(m.state.idt.base, 0x65_4321);
        lidt(&mut m, 0x5000, Size::B4).unwrap();
        m.ram.put(0x6006, 4, 0x55);
        sidt(&mut m, 0x6000).unwrap();
        assert_eq!((m.ram.get(0x6002, 4), m.ram.get(0x6006, 4)), (0x8765_4321, 0x55));
        assert_eq!(m.user().attempt(|m| lgdt(m, 0x5000, Size::B4)), err(Exception::GP0));
    }

    #[test]
    fn the_task_register_becomes_busy() {
        for (mut m, base) in [(Mock::long(), 0xffff_8000_0000_4000), (Mock::protected(), TSS)] {
            m.state.tr = Seg::default();
            m.ram.put(GDT + u64::from(sel::TSS) + 8, 8, base >> 32);
            ltr(&mut m, sel::TSS).unwrap();
            assert_eq!((m.state.tr.base, m.state.tr.limit, m.state.tr.kind()), (base, 0x67, 11));
            assert_eq!(m.ram.get(GDT + u64::from(sel::TSS) + 5, 1), 0x8b);
            assert_eq!(m.attempt(|m| ltr(m, sel::TSS)), err(Exception::gp(sel::TSS.into())), "busy already");
            assert_eq!(m.attempt(|m| ltr(m, 0)), err(Exception::GP0));
            assert_eq!(str(&m), Ok(sel::TSS));
        }
    }

    #[test]
    fn the_local_table_is_checked() {
        let mut m = Mock::long();
        lldt(&mut m, sel::LDT).unwrap();
        assert_eq!((m.state.ldt.base, m.state.ldt.limit, sldt(&m)), (0x3000, 0x1f, Ok(sel::LDT)));
        m.ram.put(0x3008, 8, super::super::mock::flat(0xc93));
        super::super::segment::load(&mut m, 3, 0xc).unwrap();
        assert_eq!(
            m.attempt(|m| super::super::segment::load(m, 3, 0x24)),
            err(Exception::gp(0x24)),
            "beyond the local table"
        );
        for (selector, e) in [
            (sel::LDT | 4, Exception::gp(sel::LDT as u32 | 4)),
            (sel::DATA, Exception::gp(sel::DATA as u32)),
            (sel::TSS, Exception::gp(sel::TSS as u32)),
            (0xf8, Exception::gp(0xf8)),
        ] {
            assert_eq!(m.attempt(|m| lldt(m, selector)), err(e), "{selector:#x}");
        }
        m.ram.put(GDT + u64::from(sel::LDT) + 12, 4, 0x1f00);
        assert_eq!(
            m.attempt(|m| lldt(m, sel::LDT)),
            err(Exception::gp(sel::LDT.into())),
            "the upper type field"
        );
        lldt(&mut m, 0).unwrap();
        assert!(m.state.ldt.has(Seg::UNUSABLE));
        m.ram.put(GDT + u64::from(sel::LDT) + 5, 1, 2);
        assert_eq!(m.attempt(|m| lldt(m, sel::LDT)), err(Exception::np(sel::LDT.into())));
    }

    #[test]
    fn real_mode_and_rings_are_refused() {
        let mut m = Mock::new();
        assert_eq!(lldt(&mut m, 0), err(Exception::UD));
        assert_eq!(sldt(&m), err(Exception::UD));
        let mut m = Mock::long().user();
        assert_eq!(ltr(&mut m, sel::TSS), err(Exception::GP0));
        assert_eq!(str(&m), Ok(sel::TSS));
        m.state.cr4 |= CR4_UMIP;
        assert_eq!(str(&m), err(Exception::GP0));
        assert_eq!(sidt(&mut m, 0x6000), err(Exception::GP0));
    }
}
