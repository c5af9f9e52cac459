//! Control registers (Intel SDM vol. 3, 2.5 to 2.6, 4.1 and 9.8; vol. 2, "MOV—Move to/from Control Registers").

use squib_core::x86::bits::*;

use super::bits::*;
use super::descriptor::kind;
use super::privileged;
use super::rflags::in_64;
use crate::env::{Env, Flush, Leave};
use crate::fault::{Exception, Stop};
use crate::model::{CpuModel, Feature};
use crate::state::{CpuState, Seg, sreg};

const CR0_WRITABLE: u64 =
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;

/// MOV from CR`n`.
///
/// # Errors
/// #UD for a register that does not exist, #GP(0) above ring 0.
pub fn mov_from<E: Env + ?Sized>(env: &mut E, n: u8) -> Result<u64, Stop> {
    check(env, n)?;
    let state = env.state_ref();
    Ok(match n {
        0 => state.cr0,
        2 => state.cr2,
        3 => state.cr3,
        4 => state.cr4,
        _ => env.task_priority().into(),
    })
}

/// MOV to CR`n`. Outside of 64-bit mode the operand is 32 bits wide.
///
/// # Errors
/// #UD for a register that does not exist; #GP(0) above ring 0 and for a value that the processor does not take.
pub fn mov_to<E: Env + ?Sized>(env: &mut E, n: u8, value: u64) -> Result<(), Stop> {
    check(env, n)?;
    let value = if in_64(env) { value } else { value & 0xffff_ffff };
    match n {
        0 => set_cr0(env, value),
        2 => {
            env.state().cr2 = value;
            Ok(())
        }
        3 => set_cr3(env, value),
        4 => set_cr4(env, value),
        _ => set_cr8(env, value),
    }
}

fn check<E: Env + ?Sized>(env: &E, n: u8) -> Result<(), Stop> {
    if !matches!(n, 0 | 2 | 3 | 4 | 8) {
        return Err(Exception::UD.into());
    }
    privileged::check(env)
}

/// #GP(0) unless `ok`.
fn require(ok: bool) -> Result<(), Stop> {
    if ok { Ok(()) } else { Err(Exception::GP0.into()) }
}

fn set_cr0<E: Env + ?Sized>(env: &mut E, value: u64) -> Result<(), Stop> {
    let state = env.state_ref();
    let (old, was_64) = (state.cr0, in_64(env));
    let set = |bit| value & bit != 0;
    require(value >> 32 == 0)?;
    require((!set(CR0_PG) || set(CR0_PE)) && (!set(CR0_NW) || set(CR0_CD)))?;
    let value = value & CR0_WRITABLE | CR0_ET;
    let changed = old ^ value;
    let mut efer = state.efer;
    if changed & CR0_PG != 0 {
        if set(CR0_PG) {
            if efer & EFER_LME != 0 {
                let tss16 = matches!(state.tr.kind(), kind::TSS16 | kind::TSS16_BUSY);
                require(state.cr4 & CR4_PAE != 0 && !state.seg[sreg::CS].has(Seg::L) && !tss16)?;
                efer |= EFER_LMA;
            }
        } else {
            require(!was_64 && state.cr4 & CR4_PCIDE == 0)?;
            efer &= !EFER_LMA;
        }
    }
    let pdpte = (changed & (CR0_PG | CR0_CD | CR0_NW) != 0)
        .then(|| load_pdptes(env, Registers { cr0: value, efer, ..Registers::of(env.state_ref()) }))
        .transpose()?
        .flatten();
    let state = env.state();
    state.cr0 = value;
    state.efer = efer;
    state.pdpte = pdpte.unwrap_or(state.pdpte);
    // Translations are cached with what may be done by them: a supervisor's writes to read-only pages no longer may.
    if changed & (CR0_PG | value & CR0_WP) != 0 {
        env.flush(Flush::All);
    }
    if changed & (CR0_PE | CR0_PG | CR0_WP | CR0_AM) != 0 {
        env.mode_changed();
    }
    if changed & (CR0_PE | CR0_PG) != 0 {
        env.leave(Leave::Recheck);
    }
    Ok(())
}

fn set_cr3<E: Env + ?Sized>(env: &mut E, value: u64) -> Result<(), Stop> {
    let state = env.state_ref();
    // Bit 63 asks to keep translations. They may go all the same, so it only is not stored.
    let value = if state.cr4 & CR4_PCIDE != 0 { value & !(1 << 63) } else { value };
    require(value & !env.model().physical_mask() == 0)?;
    let pdpte = load_pdptes(env, Registers { cr3: value, ..Registers::of(env.state_ref()) })?;
    let state = env.state();
    state.cr3 = value;
    state.pdpte = pdpte.unwrap_or(state.pdpte);
    env.mode_changed();
    env.flush(Flush::NonGlobal);
    Ok(())
}

/// The bits of CR4 that a model has.
fn cr4_writable(model: &CpuModel) -> u64 {
    let always = CR4_TSD | CR4_PCE;
    [
        (Feature::DE, CR4_DE),
        (Feature::PSE, CR4_PSE),
        (Feature::PAE, CR4_PAE),
        (Feature::PGE, CR4_PGE),
        (Feature::FXSR, CR4_OSFXSR),
        (Feature::SSE, CR4_OSXMMEXCPT),
        (Feature::UMIP, CR4_UMIP),
        (Feature::FSGSBASE, CR4_FSGSBASE),
        (Feature::PCID, CR4_PCIDE),
        (Feature::XSAVE, CR4_OSXSAVE),
        (Feature::SMEP, CR4_SMEP),
        (Feature::SMAP, CR4_SMAP),
        (Feature::PKU, CR4_PKE),
    ]
    .into_iter()
    .filter(|(feature, _)| model.has(*feature))
    .fold(always, |mask, (_, bit)| mask | bit)
}

fn set_cr4<E: Env + ?Sized>(env: &mut E, value: u64) -> Result<(), Stop> {
    require(value & !cr4_writable(env.model()) == 0)?;
    let state = env.state_ref();
    let changed = state.cr4 ^ value;
    let long = state.long_mode();
    require(!long || value & CR4_PAE != 0)?;
    if changed & value & CR4_PCIDE != 0 {
        require(long && state.cr3 & 0xfff == 0)?;
    }
    let pdpte = (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP) != 0)
        .then(|| load_pdptes(env, Registers { cr4: value, ..Registers::of(env.state_ref()) }))
        .transpose()?
        .flatten();
    let state = env.state();
    state.cr4 = value;
    state.pdpte = pdpte.unwrap_or(state.pdpte);
    // Translations are cached with what may be done by them, which SMAP and PKE are part of.
    if changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE | CR4_PKE) != 0 {
        env.flush(Flush::All);
    }
    if changed != 0 {
        env.mode_changed();
    }
    Ok(())
}

fn set_cr8<E: Env + ?Sized>(env: &mut E, value: u64) -> Result<(), Stop> {
    require(value <= 15)?;
    let lowered = value < env.task_priority().into();
    env.set_task_priority(value as u8);
    if lowered {
        env.leave(Leave::Recheck);
    }
    Ok(())
}

/// The registers that say whether PAE paging is on.
struct Registers {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

impl Registers {
    fn of(state: &CpuState) -> Self {
        Self { cr0: state.cr0, cr3: state.cr3, cr4: state.cr4, efer: state.efer }
    }
}

/// Reads the four page-directory-pointer-table entries where these registers mean PAE paging
/// (Intel SDM vol. 3, 4.4.1).
fn load_pdptes<E: Env + ?Sized>(env: &mut E, r: Registers) -> Result<Option<[u64; 4]>, Stop> {
    if r.cr0 & CR0_PG == 0 || r.cr4 & CR4_PAE == 0 || r.efer & EFER_LMA != 0 {
        return Ok(None);
    }
    let table = r.cr3 & 0xffff_ffe0;
    let entries: [u64; 4] = std::array::from_fn(|i| env.load_physical(table + 8 * i as u64));
    let reserved = !env.model().physical_mask() | 0x1e6;
    require(entries.iter().all(|e| e & 1 == 0 || e & reserved == 0))?;
    Ok(Some(entries))
}

/// CLTS.
///
/// # Errors
/// #GP(0) above ring 0.
pub fn clts<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    privileged::check(env)?;
    env.state().cr0 &= !CR0_TS;
    Ok(())
}

/// LMSW: the low four bits of CR0, of which PE can be set but not cleared.
///
/// # Errors
/// #GP(0) above ring 0.
pub fn lmsw<E: Env + ?Sized>(env: &mut E, value: u16) -> Result<(), Stop> {
    privileged::check(env)?;
    let old = env.state_ref().cr0;
    let low = CR0_MP | CR0_EM | CR0_TS;
    set_cr0(env, old & !low | u64::from(value) & (low | CR0_PE))
}

/// SMSW: CR0, of which the caller stores as many bits as the operand has.
///
/// # Errors
/// #GP(0) above ring 0 where CR4.UMIP is set.
pub fn smsw<E: Env + ?Sized>(env: &E) -> Result<u64, Stop> {
    check_umip(env)?;
    Ok(env.state_ref().cr0)
}

/// What CR4.UMIP forbids: SGDT, SIDT, SLDT, SMSW and STR above ring 0.
pub(super) fn check_umip<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    let state = env.state_ref();
    require(state.cpl == 0 || state.cr4 & CR4_UMIP == 0)
}

#[cfg(test)]
mod tests {
    use super::super::mock::Mock;
    use super::*;
    use crate::state::CodeMode;

    fn gp<T>() -> Result<T, Stop> {
        Err(Exception::GP0.into())
    }

    #[test]
    fn protection_and_paging_go_together() {
        let mut m = Mock::new();
        m.state.cr0 = CR0_ET;
        let mut set = |v| m.attempt(|m| mov_to(m, 0, v));
        assert_eq!(set(CR0_PG), gp());
        assert_eq!(set(CR0_NW), gp());
        assert_eq!(set(CR0_PE | CR0_CD | CR0_NW), Ok(()));
        assert_eq!(set(CR0_PE | CR0_PG | 1 << 7), Ok(()));
        assert_eq!(m.state.cr0, CR0_PE | CR0_PG | CR0_ET, "reserved bits are ignored, ET is fixed");
        assert_eq!(m.flushed, [Flush::All]);
        assert!(m.left.contains(&Leave::Recheck));
    }

    #[test]
    fn long_mode_is_entered_and_left() {
        let mut m = Mock::protected();
        m.state.efer = EFER_LME;
        let on = CR0_PE | CR0_PG;
        assert_eq!(m.attempt(|m| mov_to(m, 0, on)), gp(), "PAE is off");
        mov_to(&mut m, 4, CR4_PAE).unwrap();
        m.state.seg[sreg::CS].attr |= Seg::L;
        assert_eq!(m.attempt(|m| mov_to(m, 0, on)), gp(), "CS is 64-bit already");
        m.state.seg[sreg::CS].attr &= !Seg::L;
        mov_to(&mut m, 0, on).unwrap();
        assert!(m.state.long_mode());
        assert_eq!(m.state.mode, CodeMode::Bits32);
        assert_eq!(m.attempt(|m| mov_to(m, 4, 0)), gp(), "PAE must stay");
        mov_to(&mut m, 0, CR0_PE).unwrap();
        assert!(!m.state.long_mode());
        let mut m = Mock::long();
        m.state.cr0 |= CR0_PG;
        assert_eq!(m.attempt(|m| mov_to(m, 0, CR0_PE)), gp(), "not from 64-bit code");
        assert_eq!(m.attempt(|m| mov_to(m, 0, on | 1 << 32)), gp());
    }

    #[test]
    fn cr4_takes_what_the_model_offers() {
        let mut m = Mock::long();
        let all = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_FSGSBASE;
        mov_to(&mut m, 4, all).unwrap();
        assert_eq!(m.flushed, [Flush::All]);
        for bit in [CR4_VME, 1 << 6, 1 << 12, 1 << 13, 1 << 24, 1 << 63] {
            assert_eq!(m.attempt(|m| mov_to(m, 4, all | bit)), gp(), "{bit:#x}");
        }
        m.model = CpuModel::v1();
        assert_eq!(m.attempt(|m| mov_to(m, 4, all)), gp());
    }

    #[test]
    fn cr3_checks_its_width_and_flushes() {
        let mut m = Mock::long();
        mov_to(&mut m, 3, 0x1018).unwrap();
        assert_eq!((m.state.cr3, &m.flushed[..]), (0x1018, &[Flush::NonGlobal][..]));
        for bad in [1 << 46, 1 << 63] {
            assert_eq!(m.attempt(|m| mov_to(m, 3, bad)), gp());
        }
        let mut m = Mock::protected();
        mov_to(&mut m, 3, 0xffff_ffff_0000_1000).unwrap();
        assert_eq!(m.state.cr3, 0x1000, "32 bits outside of 64-bit mode");
    }

    #[test]
    fn process_contexts_need_long_mode_and_context_0() {
        let mut m = Mock::long();
        m.state.cr0 |= CR0_PG;
        m.state.cr3 = 0x1018;
        let on = CR4_PAE | CR4_PCIDE;
        assert_eq!(m.attempt(|m| mov_to(m, 4, on)), gp(), "CR3 names a context");
        m.state.cr3 = 0x1000;
        mov_to(&mut m, 4, on).unwrap();
        mov_to(&mut m, 3, 1 << 63 | 0x2fff).unwrap();
        assert_eq!(m.state.cr3, 0x2fff, "the wish to keep translations is not stored");
        m.state.mode = CodeMode::Bits32;
        assert_eq!(m.attempt(|m| mov_to(m, 0, CR0_PE)), gp(), "paging stays on");
        assert_eq!(Mock::protected().attempt(|m| mov_to(m, 4, on)), gp());
        m = Mock::long();
        m.model = CpuModel::v1();
        assert_eq!(m.attempt(|m| mov_to(m, 4, on)), gp());
    }

    #[test]
    fn pae_entries_are_loaded_and_checked() {
        let mut m = Mock::protected();
        mov_to(&mut m, 4, CR4_PAE).unwrap();
        m.state.cr3 = 0x5000;
        m.ram.put(0x5000, 8, 0x6001);
        m.ram.put(0x5008, 8, 0x7000 | 1 << 62);
        mov_to(&mut m, 0, CR0_PE | CR0_PG).unwrap();
        assert_eq!(m.state.pdpte, [0x6001, 0x7000 | 1 << 62, 0, 0], "an absent entry is not checked");
        m.ram.put(0x5020, 8, 0x6003);
        assert_eq!(m.attempt(|m| mov_to(m, 3, 0x5020)), gp());
    }

    #[test]
    fn task_priority_and_the_small_ones() {
        let mut m = Mock::long();
        mov_to(&mut m, 8, 9).unwrap();
        assert_eq!((mov_from(&mut m, 8), m.left.len()), (Ok(9), 0));
        mov_to(&mut m, 8, 3).unwrap();
        assert_eq!(m.left, [Leave::Recheck]);
        assert_eq!(m.attempt(|m| mov_to(m, 8, 16)), gp());
        assert_eq!(mov_from(&mut m, 1), Err(Exception::UD.into()));
        assert_eq!(mov_from(&mut Mock::long().user(), 0), gp());
        m.state.cr0 |= CR0_TS;
        clts(&mut m).unwrap();
        assert_eq!(m.state.cr0 & CR0_TS, 0);
        lmsw(&mut m, 0xfff4).unwrap();
        assert_eq!(m.state.cr0 & 15, CR0_PE | CR0_EM);
        assert_eq!(smsw(&m), Ok(m.state.cr0));
        let mut m = m.user();
        m.state.cr4 |= CR4_UMIP;
        assert_eq!(smsw(&m), gp());
    }
}
