//! Exits as words, and entries from numbers; `ts/wasm.ts` has the other half.

use squib_core::{
    Error, ErrorCode, ExitData, MsrReason, Result, SystemEventKind, VmEntry, VmExit, exit_value,
};

/// Most words that an exit has.
pub(crate) const WORDS: usize = 8;

/// An exit's payload: words, and for some exits a text.
#[derive(Default)]
pub(crate) struct Payload {
    pub(crate) words: [u64; WORDS],
    pub(crate) text: String,
}

impl Payload {
    /// The payload of `exit`, whose kind crosses on its own.
    pub(crate) fn of(exit: &VmExit) -> Self {
        match exit {
            VmExit::Mmio { addr, write, data } => Self::access(*addr, *write, data),
            VmExit::Pio { port, write, data } => Self::access((*port).into(), *write, data),
            VmExit::Hypercall { func, args } => {
                let [a, b, c, d, e, f] = *args;
                Self::words([*func, a, b, c, d, e, f])
            }
            VmExit::Debug(info) => Self::words([info.pc, info.syndrome]),
            VmExit::InternalError(text) => Self { text: text.clone(), ..Self::default() },
            VmExit::MsrRead { index, reason } => Self::words([(*index).into(), 0, msr_reason(*reason)]),
            VmExit::MsrWrite { index, value, reason } => {
                Self::words([(*index).into(), *value, msr_reason(*reason)])
            }
            VmExit::Eoi { vector } => Self::words([(*vector).into()]),
            VmExit::MemoryFault { addr, size, flags } => Self::words([*addr, *size, *flags]),
            VmExit::SystemEvent { kind, data } => {
                let (event, number) = system_event(*kind);
                let mut payload = Self::words([event, number, data.len().min(WORDS - 3) as u64]);
                for (word, value) in payload.words[3..].iter_mut().zip(data) {
                    *word = *value;
                }
                payload
            }
            VmExit::FailedEntry { reason, cpu } => Self::words([*reason, (*cpu).into()]),
            VmExit::Unsupported { what, rip } => Self { text: what.clone(), ..Self::words([*rip]) },
            VmExit::Unknown { reason } => Self::words([(*reason).into()]),
            _ => Self::default(),
        }
    }

    fn words<const N: usize>(given: [u64; N]) -> Self {
        let mut payload = Self::default();
        for (word, value) in payload.words.iter_mut().zip(given) {
            *word = value;
        }
        payload
    }

    fn access(addr: u64, write: bool, data: &ExitData) -> Self {
        Self::words([addr, write.into(), data.len() as u64, exit_value(data).unwrap_or(0)])
    }
}

fn msr_reason(reason: MsrReason) -> u64 {
    match reason {
        MsrReason::Invalid => 1,
        MsrReason::Filter => 2,
        _ => 0,
    }
}

fn system_event(kind: SystemEventKind) -> (u64, u64) {
    match kind {
        SystemEventKind::Shutdown => (0, 0),
        SystemEventKind::Reset => (1, 0),
        SystemEventKind::Crash => (2, 0),
        SystemEventKind::Wakeup => (3, 0),
        SystemEventKind::Suspend => (4, 0),
        SystemEventKind::Other(number) => (5, number.into()),
        _ => (5, 0),
    }
}

/// The entry of number `kind`, with `len` bytes of `value` where it carries data; for `complete` without data, `len`
/// is zero.
///
/// # Errors
/// [`ErrorCode::BadEntry`] for a number that no entry has, or more than 8 bytes.
pub(crate) fn entry(kind: u32, len: u32, value: u64) -> Result<VmEntry> {
    let bytes = value.to_le_bytes();
    let data = bytes.get(..len as usize).map(ExitData::from_slice).ok_or_else(|| {
        Error::new(ErrorCode::BadEntry, format!("an access has at most 8 bytes, and this answer has {len}"))
    })?;
    Ok(match kind {
        0 => VmEntry::Resume,
        1 => VmEntry::Read(data),
        2 => VmEntry::Hypercall(value),
        3 => VmEntry::Msr(value),
        4 => VmEntry::MsrFault,
        5 => VmEntry::Complete((len != 0).then_some(data)),
        _ => return Err(Error::new(ErrorCode::BadEntry, format!("no entry has number {kind}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_carry_address_direction_width_and_value() {
        let exit = VmExit::Pio { port: 0x510, write: true, data: ExitData::from_slice(&[0x22, 0x11]) };
        assert_eq!(Payload::of(&exit).words[..4], [0x510, 1, 2, 0x1122]);
    }

    #[test]
    fn a_long_system_event_is_cut_to_what_the_words_hold() {
        let exit = VmExit::SystemEvent { kind: SystemEventKind::Other(9), data: (1..=20).collect() };
        assert_eq!(Payload::of(&exit).words, [5, 9, 5, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn entries_that_do_not_exist_are_refused() {
        assert_eq!(entry(1, 2, 0x1_2345).unwrap(), VmEntry::Read(ExitData::from_slice(&[0x45, 0x23])));
        assert_eq!(entry(5, 0, 7).unwrap(), VmEntry::Complete(None));
        for (kind, len) in [(6, 0), (1, 9), (u32::MAX, 0), (5, u32::MAX)] {
            assert_eq!(entry(kind, len, 0).unwrap_err().code(), ErrorCode::BadEntry);
        }
    }
}
