//! FXSAVE and XSAVE with their kin (Intel SDM vol. 1, 10.5 and chapter 13): x87 and SSE state and PKRU in memory.
//!
//! x87 and SSE state lie in the legacy region, and PKRU is all that follows the header, so the compacted format has the
//! same layout as the standard one. A further component adds its number and place here.

use squib_core::x86::{CpuidResult, bits::*};

use super::rflags::in_64;
use super::{keys, privileged};
use crate::env::{Env, Rights};
use crate::fault::{Exception, Stop};
use crate::fp::mxcsr::Mxcsr;
use crate::model::{CpuModel, Feature, Word};
use crate::size::Size;
use crate::state::CpuState;
use crate::x87::X87;
use crate::x87::fx::{self, Width};

/// State component bits of XCR0 and XSTATE_BV.
const X87_STATE: u64 = 1 << 0;
const SSE_STATE: u64 = 1 << 1;
const PKRU_STATE: u64 = 1 << 9;
const LEGACY_COMPONENTS: u64 = X87_STATE | SSE_STATE;
const COMPONENTS: u64 = LEGACY_COMPONENTS | PKRU_STATE;
/// XCOMP_BV: the compacted format.
const COMPACTED: u64 = 1 << 63;

/// Legacy region and header.
const AREA: usize = fx::SIZE + 64;
const XSTATE_BV: usize = fx::SIZE;
const XCOMP_BV: usize = fx::SIZE + 8;

/// Where PKRU's component lies, and its size: the register, and four bytes that are reserved.
const PKRU: usize = AREA;
const PKRU_SIZE: usize = 8;

type Legacy = [u8; fx::SIZE];

/// The components that a model has.
fn components(model: &CpuModel) -> u64 {
    LEGACY_COMPONENTS | if model.has(Feature::PKU) { PKRU_STATE } else { 0 }
}

/// Bytes of an area with these components.
const fn area_size(components: u64) -> usize {
    if components & PKRU_STATE != 0 { PKRU + PKRU_SIZE } else { AREA }
}

/// The width of the x87 pointers: 64 bits by REX.W.
fn width(wide: bool) -> Width {
    if wide { Width::Bits64 } else { Width::Bits32 }
}

/// How many XMM registers the current mode has.
fn xmm_count<E: Env + ?Sized>(env: &E) -> usize {
    if in_64(env) { 16 } else { 8 }
}

/// The x87 state after FNINIT with empty registers: its initial configuration.
fn initial_x87() -> X87 {
    let mut unit = X87::RESET;
    unit.initialize();
    unit
}

fn read<const N: usize, E: Env + ?Sized>(env: &mut E, addr: u64) -> Result<[u8; N], Stop> {
    let mut area = [0; N];
    for (at, slot) in (0..).step_by(8).zip(area.chunks_exact_mut(8)) {
        let word = env.read(addr.wrapping_add(at), Size::B8, Rights::Current)?;
        slot.copy_from_slice(&word.to_le_bytes());
    }
    Ok(area)
}

/// Writes bytes `from..to` of an area, multiples of 8.
fn write<E: Env + ?Sized>(env: &mut E, addr: u64, area: &Legacy, from: usize, to: usize) -> Result<(), Stop> {
    for (at, slot) in (from as u64..).step_by(8).zip(area[from..to].chunks_exact(8)) {
        let word = slot.iter().rev().fold(0, |v, byte| v << 8 | u64::from(*byte));
        env.write(addr.wrapping_add(at), Size::B8, word, Rights::Current)?;
    }
    Ok(())
}

/// Writes `components` of the state to an area that has been checked for writing, and nothing else.
fn write_components<E: Env + ?Sized>(
    env: &mut E,
    addr: u64,
    components: u64,
    mxcsr: bool,
    wide: bool,
) -> Result<(), Stop> {
    let xmm = xmm_count(env);
    let state = env.state_ref();
    let mut area = [0; fx::SIZE];
    fx::save_x87(&state.x87, width(wide), &mut area);
    fx::save_mxcsr(state.mxcsr, &mut area);
    fx::save_xmm(&state.xmm[..xmm], &mut area);
    if components & X87_STATE != 0 {
        write(env, addr, &area, 0, fx::MXCSR)?;
        write(env, addr, &area, fx::ST, fx::XMM)?;
    }
    if mxcsr {
        write(env, addr, &area, fx::MXCSR, fx::ST)?;
    }
    if components & SSE_STATE != 0 {
        write(env, addr, &area, fx::XMM, fx::XMM + 16 * xmm)?;
    }
    if components & PKRU_STATE != 0 {
        let pkru = u64::from(env.state_ref().pkru);
        env.write(addr.wrapping_add(PKRU as u64), Size::B8, pkru, Rights::Current)?;
    }
    Ok(())
}

/// FXSAVE, `wide` with REX.W, to linear address `addr`. The bytes of registers that the mode does not have, and those
/// that are free for software, stay as they are.
///
/// # Errors
/// #NM by CR0.EM or CR0.TS, #GP(0) where the address is not a multiple of 16, #PF.
pub fn fxsave<E: Env + ?Sized>(env: &mut E, addr: u64, wide: bool) -> Result<(), Stop> {
    check_fx(env, addr)?;
    env.probe_write(addr, fx::SIZE as u64, Rights::Current)?;
    write_components(env, addr, LEGACY_COMPONENTS, true, wide)
}

/// FXRSTOR.
///
/// # Errors
/// As [`fxsave`]; #GP(0) for a reserved bit of MXCSR.
pub fn fxrstor<E: Env + ?Sized>(env: &mut E, addr: u64, wide: bool) -> Result<(), Stop> {
    check_fx(env, addr)?;
    let area: Legacy = read(env, addr)?;
    let mxcsr = fx::restore_mxcsr(&area).ok_or(Exception::GP0)?;
    let xmm = xmm_count(env);
    let state = env.state();
    state.mxcsr = mxcsr;
    state.x87 = fx::restore_x87(&area, width(wide));
    fx::restore_xmm(&area, &mut state.xmm[..xmm]);
    Ok(())
}

fn check_fx<E: Env + ?Sized>(env: &E, addr: u64) -> Result<(), Stop> {
    if env.state_ref().cr0 & (CR0_EM | CR0_TS) != 0 {
        return Err(Exception::NM.into());
    }
    if addr & 15 != 0 { Err(Exception::GP0.into()) } else { Ok(()) }
}

/// A member of the XSAVE family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// XSAVE and XRSTOR: the standard format.
    Standard,
    /// XSAVEOPT: components in their initial configuration are left out.
    Optimised,
    /// XSAVEC: the compacted format.
    Compacted,
    /// XSAVES and XRSTORS: the compacted format with supervisor components.
    Supervisor,
}

impl Form {
    fn feature(self) -> Feature {
        match self {
            Self::Standard => Feature::XSAVE,
            Self::Optimised => Feature::XSAVEOPT,
            Self::Compacted => Feature::XSAVEC,
            Self::Supervisor => Feature::XSAVES,
        }
    }
}

/// The checks of the family, and the components that EDX:EAX asks for and XCR0 has.
fn requested<E: Env + ?Sized>(env: &E, addr: u64, form: Form) -> Result<u64, Stop> {
    let state = env.state_ref();
    if state.cr4 & CR4_OSXSAVE == 0 || !env.model().has(form.feature()) {
        return Err(Exception::UD.into());
    }
    if form == Form::Supervisor {
        privileged::check(env)?;
    }
    if state.cr0 & CR0_TS != 0 {
        return Err(Exception::NM.into());
    }
    if addr & 63 != 0 {
        return Err(Exception::GP0.into());
    }
    Ok(state.xcr0 & (state.r[2] << 32 | state.r[0] & 0xffff_ffff))
}

/// XINUSE: the components that are not in their initial configuration.
fn in_use<E: Env + ?Sized>(env: &E) -> u64 {
    let state = env.state_ref();
    let xmm = &state.xmm[..xmm_count(env)];
    let x87 = if state.x87 == initial_x87() { 0 } else { X87_STATE };
    let pkru = if state.pkru == 0 { 0 } else { PKRU_STATE };
    x87 | pkru | if xmm.iter().all(|r| *r == 0) { 0 } else { SSE_STATE }
}

/// XSAVE, XSAVEOPT, XSAVEC or XSAVES to linear address `addr`.
///
/// # Errors
/// #UD where it is not offered or CR4.OSXSAVE is clear, #NM by CR0.TS, #GP(0) where the address is not a multiple of
/// 64 and for XSAVES above ring 0, #PF.
pub fn xsave<E: Env + ?Sized>(env: &mut E, addr: u64, form: Form, wide: bool) -> Result<(), Stop> {
    let wanted = requested(env, addr, form)?;
    env.probe_write(addr, area_size(wanted) as u64, Rights::Current)?;
    let header = addr.wrapping_add(XSTATE_BV as u64);
    let mut used = in_use(env);
    let compacted = matches!(form, Form::Compacted | Form::Supervisor);
    if compacted && env.state_ref().mxcsr != Mxcsr::RESET {
        used |= SSE_STATE;
    }
    let bits = if compacted {
        env.write(addr.wrapping_add(XCOMP_BV as u64), Size::B8, wanted | COMPACTED, Rights::Current)?;
        wanted & used
    } else {
        env.read(header, Size::B8, Rights::Current)? & !wanted | wanted & used
    };
    env.write(header, Size::B8, bits, Rights::Current)?;
    let written = if form == Form::Standard { wanted } else { wanted & used };
    let mxcsr = if compacted { written } else { wanted } & SSE_STATE != 0;
    write_components(env, addr, written, mxcsr, wide)
}

/// XRSTOR ([`Form::Standard`], which takes both formats) or XRSTORS ([`Form::Supervisor`]) from linear address `addr`.
///
/// # Errors
/// As [`xsave`]; #GP(0) for a header that is not in order and for a reserved bit of MXCSR.
pub fn xrstor<E: Env + ?Sized>(env: &mut E, addr: u64, form: Form, wide: bool) -> Result<(), Stop> {
    let wanted = requested(env, addr, form)?;
    let area: [u8; AREA] = read(env, addr)?;
    let state = env.state_ref();
    let compaction = env.model().has(Feature::XSAVEC);
    let header = Header::parse(&area, state.xcr0, compaction).ok_or(Exception::GP0)?;
    if form == Form::Supervisor && !header.compacted {
        return Err(Exception::GP0.into());
    }
    let pkru = match wanted & header.state & PKRU_STATE {
        0 => 0,
        _ => env.read(addr.wrapping_add(PKRU as u64), Size::B4, Rights::Current)? as u32,
    };
    let xmm = xmm_count(env);
    if !restore(env.state(), &area, &header, wanted, xmm, width(wide)) {
        return Err(Exception::GP0.into());
    }
    if wanted & PKRU_STATE != 0 {
        keys::set(env, pkru);
    }
    Ok(())
}

/// The header of an area.
struct Header {
    state: u64,
    compacted: bool,
}

impl Header {
    /// Checks it (Intel SDM vol. 1, 13.8 and 13.12); `allowed` is XCR0.
    fn parse(area: &[u8; AREA], allowed: u64, compaction: bool) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| area[at + i]));
        let (state, layout) = (word(XSTATE_BV), word(XCOMP_BV));
        let zero = |from: usize, to: usize| area[from..to].iter().all(|byte| *byte == 0);
        let compacted = layout & COMPACTED != 0;
        let fits = if compacted {
            let layout = layout & !COMPACTED;
            compaction && layout & !allowed == 0 && state & !layout == 0 && zero(XCOMP_BV + 8, AREA)
        } else {
            state & !allowed == 0 && zero(XCOMP_BV, XCOMP_BV + 16)
        };
        fits.then_some(Self { state, compacted })
    }
}

/// Loads the legacy components of `wanted`: those that the header has from the area, the others with their initial configuration.
/// Changes nothing and gives `false` where MXCSR has a reserved bit.
fn restore(
    state: &mut CpuState,
    area: &[u8; AREA],
    header: &Header,
    wanted: u64,
    xmm: usize,
    width: Width,
) -> bool {
    let mut legacy = [0; fx::SIZE];
    legacy.copy_from_slice(&area[..fx::SIZE]);
    let load = wanted & header.state;
    if wanted & SSE_STATE != 0 {
        // The standard format has MXCSR whatever the header says.
        let mxcsr = if header.compacted && load & SSE_STATE == 0 {
            Some(Mxcsr::RESET)
        } else {
            fx::restore_mxcsr(&legacy)
        };
        let Some(mxcsr) = mxcsr else { return false };
        state.mxcsr = mxcsr;
        state.xmm[..xmm].fill(0);
        if load & SSE_STATE != 0 {
            fx::restore_xmm(&legacy, &mut state.xmm[..xmm]);
        }
    }
    if wanted & X87_STATE != 0 {
        state.x87 = if load & X87_STATE != 0 { fx::restore_x87(&legacy, width) } else { initial_x87() };
    }
    true
}

/// XGETBV: ECX names the register, EDX:EAX gets its value.
///
/// # Errors
/// #UD where CR4.OSXSAVE is clear, #GP(0) for a register that does not exist.
pub fn xgetbv<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    let state = env.state_ref();
    if state.cr4 & CR4_OSXSAVE == 0 {
        return Err(Exception::UD.into());
    }
    let value = match state.r[1] as u32 {
        0 => state.xcr0,
        1 if env.model().has(Feature::XGETBV1) => state.xcr0 & in_use(env),
        _ => return Err(Exception::GP0.into()),
    };
    let r = &mut env.state().r;
    (r[0], r[2]) = (value & 0xffff_ffff, value >> 32);
    Ok(())
}

/// XSETBV.
///
/// # Errors
/// #UD where CR4.OSXSAVE is clear; #GP(0) above ring 0, for a register that does not exist, and for a value without x87 or
/// with what there is not.
pub fn xsetbv<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    let state = env.state();
    if state.cr4 & CR4_OSXSAVE == 0 {
        return Err(Exception::UD.into());
    }
    let value = state.r[2] << 32 | state.r[0] & 0xffff_ffff;
    let invalid = state.cpl != 0 || state.r[1] as u32 != 0 || value & X87_STATE == 0;
    if invalid || value & !components(env.model()) != 0 {
        return Err(Exception::GP0.into());
    }
    env.state().xcr0 = value;
    Ok(())
}

/// CPUID leaf 0xD of a model that has XSAVE.
pub(super) fn cpuid(model: &CpuModel, state: &CpuState, subleaf: u32) -> CpuidResult {
    let all = components(model);
    let (now, most) = (area_size(state.xcr0) as u32, area_size(all) as u32);
    match subleaf {
        0 => CpuidResult { eax: all as u32, ebx: now, ecx: most, edx: 0 },
        1 => CpuidResult { eax: model.features.word(Word::Ld1Eax), ebx: now, ecx: 0, edx: 0 },
        9 if all & PKRU_STATE != 0 => CpuidResult { eax: PKRU_SIZE as u32, ebx: PKRU as u32, ecx: 0, edx: 0 },
        _ => CpuidResult::default(),
    }
}

/// All of the state in the standard format, whatever XCR0 is: for the embedder.
pub fn image(state: &CpuState) -> Vec<u8> {
    let mut area = [0; fx::SIZE];
    fx::save_x87(&state.x87, Width::Bits64, &mut area);
    fx::save_mxcsr(state.mxcsr, &mut area);
    fx::save_xmm(&state.xmm, &mut area);
    let mut out = area.to_vec();
    let pkru = if state.pkru == 0 { 0 } else { PKRU_STATE };
    out.extend_from_slice(&(LEGACY_COMPONENTS | pkru).to_le_bytes());
    out.resize(PKRU, 0);
    out.extend_from_slice(&u64::from(state.pkru).to_le_bytes());
    out
}

/// Loads such an image, of which PKRU may be missing. Gives `false` and changes nothing where it is too short, compacted,
/// has components that there are not, or a reserved bit.
pub fn set_image(state: &mut CpuState, image: &[u8]) -> bool {
    let Some(area) = image.first_chunk::<AREA>() else { return false };
    let Some(header) = Header::parse(area, COMPONENTS, false) else { return false };
    let pkru = match header.state & PKRU_STATE {
        0 => Some(0),
        _ => image[PKRU..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes)),
    };
    let Some(pkru) = pkru else { return false };
    let done = restore(state, area, &header, LEGACY_COMPONENTS, 16, Width::Bits64);
    if done {
        state.pkru = pkru;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::super::mock::Mock;
    use super::*;

    const AT: u64 = 0x6000;

    fn gp<T>() -> Result<T, Stop> {
        Err(Exception::GP0.into())
    }

    /// A machine with recognisable floating-point state.
    fn filled() -> Mock {
        let mut m = Mock::long();
        m.state.cr4 |= CR4_OSXSAVE;
        m.state.xcr0 = COMPONENTS;
        m.state.pkru = 0x5555_5554;
        for (i, r) in m.state.xmm.iter_mut().enumerate() {
            *r = u128::MAX / (i as u128 + 1);
        }
        m.state.x87 = initial_x87();
        m.state.x87.set_control(0x27f);
        m.state.x87.pointers.ip = 0xffff_8000_1234_5678;
        m.state.mxcsr = Mxcsr::from_bits(0x3f80).unwrap();
        (m.state.r[0], m.state.r[2]) = (u64::MAX, u64::MAX);
        m
    }

    fn same(a: &CpuState, b: &CpuState) -> bool {
        a.xmm == b.xmm && a.x87 == b.x87 && a.mxcsr == b.mxcsr && a.pkru == b.pkru
    }

    #[test]
    fn fxsave_and_back() {
        let mut m = filled();
        m.ram.put(AT + 464, 8, 0x55);
        fxsave(&mut m, AT, true).unwrap();
        assert_eq!((m.ram.get(AT, 2), m.ram.get(AT + 24, 8)), (0x27f, 0xffff << 32 | 0x3f80));
        assert_eq!((m.ram.get(AT + 8, 8), m.ram.get(AT + 464, 8)), (0xffff_8000_1234_5678, 0x55));
        let before = m.state.clone();
        m.state.xmm = [0; 16];
        m.state.x87 = X87::RESET;
        m.state.mxcsr = Mxcsr::RESET;
        fxrstor(&mut m, AT, true).unwrap();
        assert!(same(&before, &m.state));
        m.ram.put(AT + 26, 1, 1);
        assert_eq!(m.attempt(|m| fxrstor(m, AT, true)), gp(), "a reserved bit of MXCSR");
        assert_eq!(m.attempt(|m| fxsave(m, AT + 8, true)), gp());
        m.state.cr0 |= CR0_TS;
        assert_eq!(m.attempt(|m| fxsave(m, AT + 8, true)), Err(Exception::NM.into()));
    }

    #[test]
    fn other_modes_have_eight_registers() {
        let mut m = Mock::protected();
        m.state.xmm = [u128::MAX; 16];
        fxsave(&mut m, AT, false).unwrap();
        assert_eq!((m.ram.get(AT + 280, 8), m.ram.get(AT + 288, 8)), (u64::MAX, 0));
        m.ram.put(AT + 160, 8, 1);
        fxrstor(&mut m, AT, false).unwrap();
        assert_eq!((m.state.xmm[0] as u64, m.state.xmm[8]), (1, u128::MAX));
    }

    #[test]
    fn every_form_restores_what_it_saves() {
        for form in [Form::Standard, Form::Optimised, Form::Compacted, Form::Supervisor] {
            let mut m = filled();
            xsave(&mut m, AT, form, true).unwrap();
            let before = m.state.clone();
            m.state.xmm = [7; 16];
            m.state.x87 = X87::RESET;
            m.state.mxcsr = Mxcsr::RESET;
            m.state.pkru = 1;
            let back = if form == Form::Supervisor { form } else { Form::Standard };
            xrstor(&mut m, AT, back, true).unwrap();
            assert!(same(&before, &m.state), "{form:?}");
        }
    }

    #[test]
    fn initial_components_are_marked() {
        let mut m = filled();
        m.state.xmm = [0; 16];
        m.state.mxcsr = Mxcsr::RESET;
        (m.state.pkru, m.state.xcr0) = (0, LEGACY_COMPONENTS);
        m.ram.put(AT + 512, 8, 1 << 9);
        m.ram.put(AT + 160, 8, 0x77);
        xsave(&mut m, AT, Form::Optimised, true).unwrap();
        assert_eq!((m.ram.get(AT + 512, 8), m.ram.get(AT + 160, 8)), (1 << 9 | 1, 0x77), "left out");
        xsave(&mut m, AT, Form::Standard, true).unwrap();
        assert_eq!((m.ram.get(AT + 512, 8), m.ram.get(AT + 160, 8)), (1 << 9 | 1, 0));
        xsave(&mut m, AT, Form::Compacted, true).unwrap();
        assert_eq!((m.ram.get(AT + 512, 8), m.ram.get(AT + 520, 8)), (1, COMPACTED | 3));
        m.state.xmm = [5; 16];
        xrstor(&mut m, AT, Form::Standard, true).unwrap();
        assert_eq!(m.state.xmm, [0; 16], "what the header lacks becomes initial");
        m.state.r[1] = 1;
        xgetbv(&mut m).unwrap();
        assert_eq!(m.state.r[0], 1);
    }

    #[test]
    fn the_mask_selects() {
        let mut m = filled();
        (m.state.r[0], m.state.r[2]) = (1, 0);
        xsave(&mut m, AT, Form::Standard, true).unwrap();
        assert_eq!((m.ram.get(AT + 512, 8), m.ram.get(AT + 160, 8), m.ram.get(AT + 24, 4)), (1, 0, 0));
        m.state.xmm[3] = 9;
        xrstor(&mut m, AT, Form::Standard, true).unwrap();
        assert_eq!(m.state.xmm[3], 9);
    }

    #[test]
    fn headers_are_checked() {
        let bad = [(512, 4), (512, 1 << 10), (520, 1), (528, 1), (520, COMPACTED | 4), (520, COMPACTED | 1)];
        for (at, value) in bad {
            let mut m = filled();
            xsave(&mut m, AT, Form::Standard, true).unwrap();
            m.ram.put(AT + at, 8, value);
            assert_eq!(m.attempt(|m| xrstor(m, AT, Form::Standard, true)), gp(), "{at} = {value:#x}");
        }
        let mut m = filled();
        xsave(&mut m, AT, Form::Standard, true).unwrap();
        assert_eq!(
            m.attempt(|m| xrstor(m, AT, Form::Supervisor, true)),
            gp(),
            "XRSTORS wants the compacted format"
        );
        assert_eq!(m.attempt(|m| xsave(m, AT + 16, Form::Standard, true)), gp());
        m.state.cr4 &= !CR4_OSXSAVE;
        assert_eq!(m.attempt(|m| xsave(m, AT, Form::Standard, true)), Err(Exception::UD.into()));
        let mut m = filled().user();
        assert_eq!(m.attempt(|m| xsave(m, AT, Form::Supervisor, true)), gp());
    }

    #[test]
    fn xcr0_takes_what_there_is() {
        let mut m = filled();
        let mut set = |value: u64| {
            (m.state.r[0], m.state.r[1], m.state.r[2]) = (value & 0xffff_ffff, 0, value >> 32);
            m.attempt(xsetbv)
        };
        assert_eq!(set(1), Ok(()));
        assert_eq!(set(3), Ok(()));
        assert_eq!(set(PKRU_STATE | 3), Ok(()));
        for value in [0, 2, 7, 1 << 32 | 1] {
            assert_eq!(set(value), gp(), "{value:#x}");
        }
        m.state.r[1] = 0;
        xgetbv(&mut m).unwrap();
        assert_eq!((m.state.r[0], m.state.r[2]), (PKRU_STATE | 3, 0));
    }

    #[test]
    fn areas_are_as_large_as_their_components() {
        let (max, v1) = (CpuModel::max(), CpuModel::parse("v1,+xsave").unwrap());
        let mut state = CpuState::reset();
        state.xcr0 = LEGACY_COMPONENTS;
        let leaf = |model, state: &CpuState, subleaf| {
            let r = cpuid(model, state, subleaf);
            (r.eax, r.ebx, r.ecx)
        };
        assert_eq!(leaf(&max, &state, 0), (0x203, 576, 584));
        assert_eq!(leaf(&v1, &state, 0), (3, 576, 576));
        assert_eq!((leaf(&max, &state, 9), leaf(&v1, &state, 9)), ((8, 576, 0), (0, 0, 0)));
        state.xcr0 = COMPONENTS;
        assert_eq!(leaf(&max, &state, 0), (0x203, 584, 584));
    }

    #[test]
    fn images_go_there_and_back() {
        let m = filled();
        let image = image(&m.state);
        assert_eq!(image.len(), 584);
        let mut other = CpuState::reset();
        assert!(set_image(&mut other, &image));
        assert!(same(&m.state, &other));
        assert!(!set_image(&mut other, &image[..575]));
        assert!(!set_image(&mut other, &image[..579]), "half of PKRU");
        let mut bad = image.clone();
        bad[27] = 1;
        assert!(!set_image(&mut other, &bad));
    }
}
