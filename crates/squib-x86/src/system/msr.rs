//! Model-specific registers (Intel SDM vol. 4; AMD APM vol. 2, appendix A; Linux `Documentation/virt/kvm/x86/msr.rst` for the
//! paravirtual clock).
//!
//! [`read`] and [`write()`] are RDMSR and WRMSR; [`get`] and [`set`] are the same registers for the embedder. What is
//! not here (local APIC, deadline timer, the embedder's own) goes to [`Env::platform_rdmsr`], and #GP where nobody has it.

use squib_core::x86::bits::*;

use super::{is_canonical, privileged};
use crate::env::{Env, Flush};
use crate::fault::{Exception, Stop};
use crate::model::{CpuModel, Feature, Vendor};
use crate::state::{CpuState, sreg};

/// Register indices.
#[expect(missing_docs, reason = "named as in the manual")]
pub mod index {
    pub const TSC: u32 = 0x10;
    pub const KVM_WALL_CLOCK: u32 = 0x11;
    pub const KVM_SYSTEM_TIME: u32 = 0x12;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const MISC_FEATURE_ENABLES: u32 = 0x140;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const MTRR_PHYS_BASE0: u32 = 0x200;
    pub const MTRR_PHYS_MASK7: u32 = 0x20f;
    pub const MTRR_FIX_64K: u32 = 0x250;
    pub const MTRR_FIX_16K: u32 = 0x258;
    pub const MTRR_FIX_4K: u32 = 0x268;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const XSS: u32 = 0xda0;
    pub const KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
    pub const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const PERF_CTL0: u32 = 0xc001_0000;
    pub const PERF_CTR3: u32 = 0xc001_0007;
    pub const SYSCFG: u32 = 0xc001_0010;
    pub const HWCR: u32 = 0xc001_0015;
    pub const NB_CFG: u32 = 0xc001_001f;
    pub const DE_CFG: u32 = 0xc001_1029;
}
use index::*;

/// The registers that make up the state of a processor. Read-only ones, and the platform's, are not among them.
pub const STATE_MSRS: &[u32] = &[
    TSC,
    TSC_ADJUST,
    SYSENTER_CS,
    SYSENTER_ESP,
    SYSENTER_EIP,
    MISC_ENABLE,
    0x200,
    0x201,
    0x202,
    0x203,
    0x204,
    0x205,
    0x206,
    0x207,
    0x208,
    0x209,
    0x20a,
    0x20b,
    0x20c,
    0x20d,
    0x20e,
    0x20f,
    0x250,
    0x258,
    0x259,
    0x268,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,
    PAT,
    MTRR_DEF_TYPE,
    KVM_WALL_CLOCK_NEW,
    KVM_SYSTEM_TIME_NEW,
    EFER,
    STAR,
    LSTAR,
    CSTAR,
    FMASK,
    FS_BASE,
    GS_BASE,
    KERNEL_GS_BASE,
    TSC_AUX,
];

/// Those of [`STATE_MSRS`] that a model has.
pub fn state_msrs(model: &CpuModel) -> impl Iterator<Item = u32> {
    STATE_MSRS.iter().copied().filter(|index| exists(model, *index))
}

/// Microcode revision 1, in the upper half.
const MICROCODE: u64 = 1 << 32;
/// IA32_FEATURE_CONTROL: locked, with nothing enabled.
const FEATURES_LOCKED: u64 = 1;
/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write combining.
const MTRR_CAP_VALUE: u64 = 0x508;
/// IA32_MISC_ENABLE: CPUID has no leaf above 2.
pub const LIMIT_CPUID: u64 = 1 << 22;
/// IA32_MISC_ENABLE: there is no NX.
pub const XD_DISABLE: u64 = 1 << 34;
/// IA32_MISC_ENABLE: besides those two fast strings, automatic thermal control, SpeedStep, MONITOR and xTPR messages,
/// which are kept and switch nothing; branch trace and precise sampling are not there.
const MISC_WRITABLE: u64 = 1 << 0 | 1 << 3 | 1 << 16 | 1 << 18 | LIMIT_CPUID | 1 << 23 | XD_DISABLE;
const MISC_FIXED: u64 = 3 << 11;

/// AMD's HWCR: TscFreqSel, the counter runs at the frequency of P0. Of the others, those that Linux and firmware write switch
/// nothing: TlbCacheDis, FFDis, IgnneEm, McStatusWrEn.
const TSC_FREQ_SEL: u64 = 1 << 24;
const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 18;
/// AMD's DE_CFG: LFENCE serializes.
const LFENCE_SERIALIZES: u64 = 1 << 1;
/// AMD's NB_CFG: configuration space by port 0xCF8 has its extended registers.
const EXTENDED_CONFIG: u64 = 1 << 46;

/// What a write means for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The base of FS or GS: [`CpuState::update_mode`] is due.
    Bases,
    /// EFER: [`Env::mode_changed`] is due, and cached translations are void.
    Mode,
    /// The paravirtual clock or the time-stamp counter: [`Env::pv_clock_changed`] is due.
    Clock,
}

/// Why a write was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The processor has no such register; the platform may.
    Unknown,
    /// It does not take this value, or none.
    Value,
}

/// The place of a fixed-range MTRR among the eleven.
const fn fixed_mtrr(index: u32) -> Option<usize> {
    Some(match index {
        MTRR_FIX_64K => 0,
        0x258..=0x259 => 1 + (index - MTRR_FIX_16K) as usize,
        0x268..=0x26f => 3 + (index - MTRR_FIX_4K) as usize,
        _ => return None,
    })
}

/// Whether the model has a register whose presence is a feature.
fn exists(model: &CpuModel, index: u32) -> bool {
    match index {
        TSC_ADJUST => model.has(Feature::TSC_ADJUST),
        SYSENTER_CS..=SYSENTER_EIP => model.has(Feature::SEP),
        MTRR_CAP | MTRR_PHYS_BASE0..=MTRR_PHYS_MASK7 | 0x250..=0x26f | MTRR_DEF_TYPE => {
            model.has(Feature::MTRR)
        }
        PAT => model.has(Feature::PAT),
        XSS => model.has(Feature::XSAVES),
        STAR..=FMASK => model.has(Feature::SYSCALL),
        EFER => model.has(Feature::SYSCALL) || model.has(Feature::LM) || model.has(Feature::NX),
        FS_BASE..=KERNEL_GS_BASE => model.has(Feature::LM),
        TSC_AUX => model.has(Feature::RDTSCP) || model.has(Feature::RDPID),
        PLATFORM_ID | FEATURE_CONTROL | PLATFORM_INFO | MISC_FEATURE_ENABLES | MISC_ENABLE => {
            model.vendor == Vendor::Intel
        }
        PERF_CTL0..=PERF_CTR3 | SYSCFG | HWCR | NB_CFG | DE_CFG => model.vendor == Vendor::Amd,
        _ => true,
    }
}

/// A register of the processor; `host_tsc` is the counter without the guest's offset. `None` where there is none.
pub fn get(state: &CpuState, model: &CpuModel, host_tsc: u64, index: u32) -> Option<u64> {
    if !exists(model, index) {
        return None;
    }
    let m = &state.msr;
    Some(match index {
        TSC => host_tsc.wrapping_add(m.tsc_offset),
        TSC_ADJUST => m.tsc_adjust,
        // No banks that report machine checks.
        MCG_CAP | MCG_STATUS | PLATFORM_ID | PLATFORM_INFO | MISC_FEATURE_ENABLES => 0,
        // The counters that all of AMD's processors have; nothing is counted.
        PERF_CTL0..=PERF_CTR3 | SYSCFG | NB_CFG => 0,
        HWCR => TSC_FREQ_SEL,
        DE_CFG => LFENCE_SERIALIZES,
        FEATURE_CONTROL => FEATURES_LOCKED,
        BIOS_SIGN_ID => MICROCODE,
        MTRR_CAP => MTRR_CAP_VALUE,
        SYSENTER_CS => m.sysenter_cs,
        SYSENTER_ESP => m.sysenter_esp,
        SYSENTER_EIP => m.sysenter_eip,
        MISC_ENABLE => m.misc_enable & MISC_WRITABLE | MISC_FIXED,
        MTRR_PHYS_BASE0..=MTRR_PHYS_MASK7 => m.mtrr_var[(index - MTRR_PHYS_BASE0) as usize],
        PAT => m.pat,
        MTRR_DEF_TYPE => m.mtrr_def_type,
        XSS => m.xss,
        KVM_WALL_CLOCK | KVM_WALL_CLOCK_NEW => m.pv_wall_clock,
        KVM_SYSTEM_TIME | KVM_SYSTEM_TIME_NEW => m.pv_system_time,
        EFER => state.efer,
        STAR => m.star,
        LSTAR => m.lstar,
        CSTAR => m.cstar,
        FMASK => m.fmask,
        FS_BASE => state.seg[sreg::FS].base,
        GS_BASE => state.seg[sreg::GS].base,
        KERNEL_GS_BASE => m.kernel_gs_base,
        TSC_AUX => m.tsc_aux,
        _ => m.mtrr_fixed[fixed_mtrr(index)?],
    })
}

/// Sets a register of the processor, with every check that a value can fail by itself. TSC and TSC_ADJUST do not
/// change each other here, so that both can be restored.
///
/// # Errors
/// [`Refused`]; nothing has changed then.
pub fn set(
    state: &mut CpuState,
    model: &CpuModel,
    host_tsc: u64,
    index: u32,
    value: u64,
) -> Result<Effect, Refused> {
    if !exists(model, index) {
        return Err(Refused::Unknown);
    }
    let m = &mut state.msr;
    let canonical = || if is_canonical(value) { Ok(value) } else { Err(Refused::Value) };
    let within = |mask: u64| if value & !mask == 0 { Ok(value) } else { Err(Refused::Value) };
    let typed = |pat| if memory_types(value, pat) { Ok(value) } else { Err(Refused::Value) };
    match index {
        FS_BASE => {
            state.seg[sreg::FS].base = canonical()?;
            return Ok(Effect::Bases);
        }
        GS_BASE => {
            state.seg[sreg::GS].base = canonical()?;
            return Ok(Effect::Bases);
        }
        KERNEL_GS_BASE => m.kernel_gs_base = canonical()?,
        TSC => {
            m.tsc_offset = value.wrapping_sub(host_tsc);
            return Ok(Effect::Clock);
        }
        TSC_ADJUST => m.tsc_adjust = value,
        // A microcode update's signature is cleared before CPUID fills it in again: nothing to keep.
        BIOS_SIGN_ID => {}
        MISC_FEATURE_ENABLES => {
            within(0)?;
        }
        SYSENTER_CS => m.sysenter_cs = within(0xffff_ffff)?,
        SYSENTER_ESP => m.sysenter_esp = canonical()?,
        SYSENTER_EIP => m.sysenter_eip = canonical()?,
        MISC_ENABLE => m.misc_enable = within(MISC_WRITABLE | MISC_FIXED)?,
        MTRR_PHYS_BASE0..=MTRR_PHYS_MASK7 => {
            let frame = model.physical_mask() & !0xfff;
            let is_mask = index & 1 != 0;
            within(frame | if is_mask { 1 << 11 } else { 0xff })?;
            if !is_mask && !memory_type(value as u8, false) {
                return Err(Refused::Value);
            }
            m.mtrr_var[(index - MTRR_PHYS_BASE0) as usize] = value;
        }
        PAT => m.pat = typed(true)?,
        MTRR_DEF_TYPE => {
            within(0xcff)?;
            if !memory_type(value as u8, false) {
                return Err(Refused::Value);
            }
            m.mtrr_def_type = value;
        }
        XSS => m.xss = within(0)?,
        KVM_WALL_CLOCK | KVM_WALL_CLOCK_NEW => {
            m.pv_wall_clock = value;
            return Ok(Effect::Clock);
        }
        KVM_SYSTEM_TIME | KVM_SYSTEM_TIME_NEW => {
            m.pv_system_time = value;
            return Ok(Effect::Clock);
        }
        EFER => {
            let has = |feature, bits| if model.has(feature) { bits } else { 0 };
            let long = has(Feature::LM, EFER_LME | EFER_LMA);
            let nx = if m.misc_enable & XD_DISABLE == 0 { has(Feature::NX, EFER_NXE) } else { 0 };
            state.efer = within(has(Feature::SYSCALL, EFER_SCE) | nx | long)?;
            return Ok(Effect::Mode);
        }
        STAR => m.star = value,
        LSTAR => m.lstar = canonical()?,
        CSTAR => m.cstar = canonical()?,
        FMASK => m.fmask = within(0xffff_ffff)?,
        TSC_AUX => m.tsc_aux = within(0xffff_ffff)?,
        MCG_STATUS | PERF_CTL0..=PERF_CTR3 | SYSCFG => {
            within(0)?;
        }
        HWCR => {
            within(TSC_FREQ_SEL | HWCR_IGNORED)?;
        }
        NB_CFG => {
            within(EXTENDED_CONFIG)?;
        }
        DE_CFG => {
            within(LFENCE_SERIALIZES)?;
        }
        MCG_CAP | PLATFORM_ID | PLATFORM_INFO | FEATURE_CONTROL | MTRR_CAP => return Err(Refused::Value),
        _ => match fixed_mtrr(index) {
            Some(n) => m.mtrr_fixed[n] = typed(false)?,
            None => return Err(Refused::Unknown),
        },
    }
    Ok(Effect::None)
}

/// Whether a byte is a memory type: of an MTRR, or of a PAT entry, which has UC- besides (SDM vol. 3, 11.11 and 11.12).
const fn memory_type(byte: u8, pat: bool) -> bool {
    matches!(byte, 0 | 1 | 4 | 5 | 6) || pat && byte == 7
}

fn memory_types(value: u64, pat: bool) -> bool {
    value.to_le_bytes().into_iter().all(|byte| memory_type(byte, pat))
}

/// RDMSR of `index`.
///
/// # Errors
/// #GP(0) where there is no such register.
pub fn read<E: Env + ?Sized>(env: &mut E, index: u32) -> Result<u64, Stop> {
    let now = if index == TSC { env.host_tsc() } else { 0 };
    match get(env.state_ref(), env.model(), now, index) {
        Some(value) => Ok(value),
        None => env.platform_rdmsr(index),
    }
}

/// WRMSR of `index`.
///
/// # Errors
/// #GP(0) where there is no such register, or it does not take the value.
pub fn write<E: Env + ?Sized>(env: &mut E, index: u32, mut value: u64) -> Result<(), Stop> {
    let model = *env.model();
    let now = if index == TSC { env.host_tsc() } else { 0 };
    let (offset, adjust) = (env.state_ref().msr.tsc_offset, env.state_ref().msr.tsc_adjust);
    if index == EFER {
        let state = env.state_ref();
        if state.paging() && (state.efer ^ value) & EFER_LME != 0 {
            return Err(Exception::GP0.into());
        }
        // LMA only tells.
        value = value & !EFER_LMA | state.efer & EFER_LMA;
    }
    let result = set(env.state(), &model, now, index, value);
    // The guest moves counter and adjustment together (Intel SDM vol. 3, 17.17.3).
    let msr = &mut env.state().msr;
    match index {
        TSC => msr.tsc_adjust = adjust.wrapping_add(msr.tsc_offset.wrapping_sub(offset)),
        TSC_ADJUST => msr.tsc_offset = offset.wrapping_add(msr.tsc_adjust.wrapping_sub(adjust)),
        _ => {}
    }
    match result {
        Ok(Effect::None) if index == TSC_ADJUST => env.pv_clock_changed(),
        Ok(Effect::None) => {}
        Ok(Effect::Bases) => env.state().update_mode(),
        Ok(Effect::Mode) => {
            env.flush(Flush::All);
            env.mode_changed();
        }
        Ok(Effect::Clock) => env.pv_clock_changed(),
        Err(Refused::Unknown) => return env.platform_wrmsr(index, value),
        Err(Refused::Value) => return Err(Exception::GP0.into()),
    }
    Ok(())
}

/// The RDMSR instruction: ECX names the register, EDX:EAX gets its value.
///
/// # Errors
/// #GP(0) above ring 0 and as [`read`].
pub fn rdmsr<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    privileged::check(env)?;
    let index = env.state_ref().r[1] as u32;
    let value = read(env, index)?;
    let r = &mut env.state().r;
    (r[0], r[2]) = (value & 0xffff_ffff, value >> 32);
    Ok(())
}

/// The WRMSR instruction.
///
/// # Errors
/// #GP(0) above ring 0 and as [`write()`].
pub fn wrmsr<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    privileged::check(env)?;
    let r = &env.state_ref().r;
    let (index, value) = (r[1] as u32, r[2] << 32 | r[0] & 0xffff_ffff);
    write(env, index, value)
}

#[cfg(test)]
mod tests {
    use super::super::mock::Mock;
    use super::super::tsc;
    use super::*;

    fn gp<T>() -> Result<T, Stop> {
        Err(Exception::GP0.into())
    }

    #[test]
    fn every_state_register_can_be_written_back() {
        let mut m = Mock::long();
        for &index in STATE_MSRS {
            let value = read(&mut m, index).unwrap();
            write(&mut m, index, value).unwrap_or_else(|e| panic!("{index:#x} = {value:#x}: {e:?}"));
            assert_eq!(read(&mut m, index), Ok(value), "{index:#x}");
        }
    }

    #[test]
    fn the_embedder_restores_them_in_any_order() {
        let model = CpuModel::max();
        let mut from = CpuState::reset();
        (from.msr.tsc_offset, from.msr.tsc_adjust) = (500, 70);
        let list: Vec<_> = state_msrs(&model).map(|i| (i, get(&from, &model, 1000, i).unwrap())).collect();
        let mut to = CpuState::reset();
        for &(index, value) in list.iter().rev() {
            set(&mut to, &model, 4000, index, value).unwrap();
        }
        for (index, value) in list {
            assert_eq!(get(&to, &model, 4000, index), Some(value), "{index:#x}");
        }
        assert!(!state_msrs(&CpuModel::v1()).any(|i| i == TSC_AUX));
    }

    #[test]
    fn addresses_must_be_canonical() {
        let mut m = Mock::long();
        for index in [LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE, SYSENTER_ESP, SYSENTER_EIP] {
            write(&mut m, index, 0xffff_8000_0000_0000).unwrap();
            assert_eq!(m.attempt(|m| write(m, index, 1 << 47)), gp(), "{index:#x}");
        }
        assert_eq!(m.state.r[crate::state::REG_FS as usize], 0xffff_8000_0000_0000);
    }

    #[test]
    fn memory_types_are_checked() {
        let mut m = Mock::long();
        write(&mut m, PAT, 0x0407_0506_0007_0106).unwrap();
        for (index, bad) in [
            (PAT, 2),
            (PAT, 8 << 56),
            (0x250, 7),
            (0x26f, 3 << 8),
            (0x200, 2),
            (0x200, 1 << 46),
            (0x201, 1),
            (MTRR_DEF_TYPE, 7),
            (MTRR_DEF_TYPE, 1 << 9),
        ] {
            assert_eq!(m.attempt(|m| write(m, index, bad)), gp(), "{index:#x} = {bad:#x}");
        }
        write(&mut m, MTRR_DEF_TYPE, 0xc06).unwrap();
        write(&mut m, 0x259, 0x0605_0401_0006_0504).unwrap();
        assert_eq!(read(&mut m, 0x259), Ok(0x0605_0401_0006_0504));
    }

    #[test]
    fn efer_keeps_its_rules() {
        let mut m = Mock::long();
        write(&mut m, EFER, EFER_SCE | EFER_LME | EFER_NXE).unwrap();
        assert_eq!(m.state.efer, EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE, "LMA is not written");
        assert_eq!(m.flushed, [Flush::All]);
        m.state.cr0 |= CR0_PG;
        assert_eq!(m.attempt(|m| write(m, EFER, EFER_SCE)), gp(), "LME cannot change while paging is on");
        for bit in [1 << 1, 1 << 12, 1 << 14, 1 << 63] {
            assert_eq!(m.attempt(|m| write(m, EFER, m.state.efer | bit)), gp());
        }
    }

    #[test]
    fn the_counter_can_be_set_and_adjusted() {
        let mut m = Mock::long();
        m.tsc = 1000;
        write(&mut m, TSC, 50).unwrap();
        assert_eq!((tsc::now(&mut m), read(&mut m, TSC_ADJUST)), (50, Ok(950u64.wrapping_neg())));
        write(&mut m, TSC_ADJUST, 0).unwrap();
        assert_eq!(tsc::now(&mut m), 1000);
        assert_eq!(m.clocks_changed, 2);
    }

    #[test]
    fn vendors_have_registers_of_their_own() {
        let mut m = Mock::long();
        for index in [PERF_CTL0, PERF_CTR3, SYSCFG, HWCR, NB_CFG, DE_CFG] {
            assert_eq!(m.attempt(|m| read(m, index)), gp(), "{index:#x}");
        }
        m.model.vendor = Vendor::Amd;
        for index in [PERF_CTL0, PERF_CTR3, SYSCFG, HWCR, NB_CFG, DE_CFG] {
            let value = read(&mut m, index).unwrap();
            write(&mut m, index, value).unwrap();
            assert_eq!(m.attempt(|m| write(m, index, 1 << 63)), gp(), "{index:#x}");
        }
        write(&mut m, HWCR, TSC_FREQ_SEL | 1 << 6).unwrap();
        assert_eq!(read(&mut m, HWCR), Ok(TSC_FREQ_SEL));
        for index in [PLATFORM_ID, FEATURE_CONTROL, PLATFORM_INFO, MISC_FEATURE_ENABLES, MISC_ENABLE] {
            assert_eq!(m.attempt(|m| read(m, index)), gp(), "{index:#x}");
        }
        assert!(!state_msrs(&m.model).any(|i| i == MISC_ENABLE));
    }

    #[test]
    fn paravirtual_clock_registers_have_two_names() {
        let mut m = Mock::long();
        write(&mut m, KVM_SYSTEM_TIME, 0x1001).unwrap();
        write(&mut m, KVM_WALL_CLOCK_NEW, 0x2000).unwrap();
        assert_eq!(
            (read(&mut m, KVM_SYSTEM_TIME_NEW), read(&mut m, KVM_WALL_CLOCK)),
            (Ok(0x1001), Ok(0x2000))
        );
        assert_eq!(m.clocks_changed, 2);
    }

    #[test]
    fn strangers_go_to_the_platform() {
        let mut m = Mock::long();
        m.platform_msrs.insert(0x1b, 0xfee0_0900);
        m.state.r[1] = 0xffff_ffff_0000_001b;
        rdmsr(&mut m).unwrap();
        assert_eq!((m.state.r[0], m.state.r[2]), (0xfee0_0900, 0));
        (m.state.r[0], m.state.r[2]) = (u64::MAX, 0xffff_ffff_0000_0001);
        wrmsr(&mut m).unwrap();
        assert_eq!(m.platform_msrs[&0x1b], 0x1_ffff_ffff);
        for index in [0x400, 0xc001_0015, 0x251, u32::MAX] {
            assert_eq!(m.attempt(|m| read(m, index)), gp(), "{index:#x}");
            assert_eq!(m.attempt(|m| write(m, index, 0)), gp(), "{index:#x}");
        }
        for index in [FEATURE_CONTROL, MTRR_CAP, MCG_CAP, PLATFORM_INFO] {
            assert_eq!(m.attempt(|m| write(m, index, 0)), gp(), "{index:#x} is read-only");
        }
        m.model = CpuModel::v1();
        assert_eq!(read(&mut m, TSC_AUX), gp(), "v1 has no RDTSCP");
        assert_eq!(Mock::long().user().attempt(rdmsr), gp());
        assert_eq!(Mock::long().user().attempt(wrmsr), gp());
    }
}
