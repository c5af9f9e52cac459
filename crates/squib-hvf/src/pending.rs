//! What an exit waits for, and its answer.

use squib_core::{Error, ErrorCode, Result, VmEntry};

use crate::exception::take_undefined;
use crate::registers::{Registers, advance, set_x};

/// What SMCCC says of a function that there is not (SMC Calling Convention, 5.2).
const NOT_SUPPORTED: u64 = -1_i64 as u64;

/// Which answer the last exit waits for, and where it goes. `len` is the instruction's: PC moves when the access is
/// complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// None.
    Nothing,
    /// The result of a hypercall, to X0.
    Hypercall,
    /// `MRS` into `register`.
    SystemRead {
        /// The register, 31 for the zero register.
        register: u8,
        /// Bytes of the instruction.
        len: u64,
    },
    /// `MSR`, accepted or not.
    SystemWrite {
        /// Bytes of the instruction.
        len: u64,
    },
    /// A load from memory that nothing backs.
    MemoryRead {
        /// The register, 31 for the zero register.
        register: u8,
        /// Bytes of the access: 1, 2, 4 or 8.
        width: usize,
        /// Whether the value is sign-extended.
        signed: bool,
        /// Whether it is extended to 64 bits; else to 32, and the rest of the register is zero.
        wide: bool,
        /// Bytes of the instruction.
        len: u64,
    },
    /// A store to such memory.
    MemoryWrite {
        /// Bytes of the instruction.
        len: u64,
    },
}

impl Pending {
    /// Puts `entry` into the registers.
    ///
    /// # Errors
    /// [`ErrorCode::BadEntry`] when it is no answer to the exit, and nothing has changed then; those of `registers`.
    pub fn answer(self, entry: &VmEntry, registers: &mut impl Registers) -> Result<()> {
        let unanswered = matches!(entry, VmEntry::Resume | VmEntry::Complete(None));
        match (self, entry) {
            (Self::Nothing, _) if unanswered => Ok(()),
            (Self::Hypercall, _) if unanswered => set_x(registers, 0, NOT_SUPPORTED),
            (Self::Hypercall, VmEntry::Hypercall(value)) => set_x(registers, 0, *value),
            (Self::SystemRead { register, len }, VmEntry::Msr(value)) => {
                set_x(registers, register, *value)?;
                advance(registers, len)
            }
            (Self::SystemRead { .. }, _) if unanswered => take_undefined(registers),
            (Self::SystemRead { .. } | Self::SystemWrite { .. }, VmEntry::MsrFault) => {
                take_undefined(registers)
            }
            (Self::SystemWrite { len } | Self::MemoryWrite { len }, _) if unanswered => {
                advance(registers, len)
            }
            (Self::MemoryRead { register, len, wide, .. }, _) if unanswered => {
                // All bits set, as an empty bus gives.
                set_x(registers, register, if wide { u64::MAX } else { u32::MAX.into() })?;
                advance(registers, len)
            }
            (
                Self::MemoryRead { register, width, signed, wide, len },
                VmEntry::Read(data) | VmEntry::Complete(Some(data)),
            ) if data.len() == width => {
                set_x(registers, register, extend(data, signed, wide))?;
                advance(registers, len)
            }
            _ => Err(Error::new(ErrorCode::BadEntry, format!("{entry:?} does not answer {self:?}"))),
        }
    }
}

/// The bytes of a load as the register's value.
fn extend(data: &[u8], signed: bool, wide: bool) -> u64 {
    let mut bytes = [0; 8];
    bytes[..data.len()].copy_from_slice(data);
    let value = u64::from_le_bytes(bytes);
    let unused = 64 - 8 * data.len() as u32;
    let value = if signed { ((value << unused) as i64 >> unused) as u64 } else { value };
    if wide { value } else { u64::from(value as u32) }
}
