//! System registers, as tests of supervisor code name them.

use std::fmt;

use squib_core::x86::X86State;
use squib_core::{Result, Vcpu};

/// Linear address of guest-physical 0, for the supervisor only.
pub const SUPERVISOR: u64 = 0xffff_8000_0000_0000;

/// A system register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub enum Register {
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
    Efer,
    Xcr0,
    Dr6,
    Dr7,
    /// DR0 to DR3.
    Dr(u8),
    /// Selector of the task register.
    Tr,
    /// Selector of the local descriptor table.
    Ldtr,
    /// A model-specific register by its number.
    Msr(u32),
}

const NAMES: [(&str, Register); 15] = [
    ("cr0", Register::Cr0),
    ("cr2", Register::Cr2),
    ("cr3", Register::Cr3),
    ("cr4", Register::Cr4),
    ("cr8", Register::Cr8),
    ("efer", Register::Efer),
    ("xcr0", Register::Xcr0),
    ("dr0", Register::Dr(0)),
    ("dr1", Register::Dr(1)),
    ("dr2", Register::Dr(2)),
    ("dr3", Register::Dr(3)),
    ("dr6", Register::Dr6),
    ("dr7", Register::Dr7),
    ("tr", Register::Tr),
    ("ldtr", Register::Ldtr),
];

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, r)| r == self) {
            Some((name, _)) => f.write_str(name),
            None => match self {
                Self::Msr(index) => write!(f, "msr_{index:x}"),
                other => write!(f, "{other:?}"),
            },
        }
    }
}

impl Register {
    /// The register with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        let known = NAMES.iter().find(|(n, _)| *n == name).map(|(_, r)| *r);
        known.or_else(|| u32::from_str_radix(name.strip_prefix("msr_")?, 16).ok().map(Self::Msr))
    }

    /// Its value.
    ///
    /// # Errors
    /// The backend's.
    pub fn get(self, vcpu: &mut dyn Vcpu) -> Result<u64> {
        let x86 = vcpu.x86()?;
        match self {
            Self::Xcr0 => return x86.xcr0(),
            Self::Msr(index) => return x86.msr(index),
            Self::Dr(_) | Self::Dr6 | Self::Dr7 => {
                let d = x86.debug_registers()?;
                return Ok(match self {
                    Self::Dr(i) => d.db[usize::from(i & 3)],
                    Self::Dr6 => d.dr6,
                    _ => d.dr7,
                });
            }
            _ => {}
        }
        let s = x86.system_registers()?;
        Ok(match self {
            Self::Cr0 => s.cr0,
            Self::Cr2 => s.cr2,
            Self::Cr3 => s.cr3,
            Self::Cr4 => s.cr4,
            Self::Cr8 => s.cr8,
            Self::Efer => s.efer,
            Self::Tr => s.tr.selector.into(),
            _ => s.ldt.selector.into(),
        })
    }

    /// Sets it.
    ///
    /// # Errors
    /// The backend's. TR and LDTR are not for setting.
    pub fn set(self, x86: &mut dyn X86State, value: u64) -> Result<()> {
        match self {
            Self::Xcr0 => return x86.set_xcr0(value),
            Self::Msr(index) => return x86.set_msr(index, value),
            Self::Dr(_) | Self::Dr6 | Self::Dr7 => {
                let mut d = x86.debug_registers()?;
                match self {
                    Self::Dr(i) => d.db[usize::from(i & 3)] = value,
                    Self::Dr6 => d.dr6 = value,
                    _ => d.dr7 = value,
                }
                return x86.set_debug_registers(&d);
            }
            _ => {}
        }
        let mut s = x86.system_registers()?;
        match self {
            Self::Cr0 => s.cr0 = value,
            Self::Cr2 => s.cr2 = value,
            Self::Cr3 => s.cr3 = value,
            Self::Cr4 => s.cr4 = value,
            Self::Cr8 => s.cr8 = value,
            Self::Efer => s.efer = value,
            _ => {
                let what = format!("{self} cannot be set at the start of a case");
                return Err(squib_core::Error::new(squib_core::ErrorCode::InvalidArgument, what));
            }
        }
        x86.set_system_registers(&s)
    }
}
