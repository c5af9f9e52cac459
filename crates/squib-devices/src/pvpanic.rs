//! pvpanic: a guest's kernel says that it has panicked (QEMU documentation, "PVPANIC device").

/// Its port.
pub const PORT: u16 = 0x505;

/// What a read gives: the events that the device understands.
pub const SUPPORTED: u8 = PANICKED | CRASH_LOADED | SHUTDOWN;

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;
const SHUTDOWN: u8 = 1 << 2;

/// What a guest reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanicEvent {
    /// It has panicked and does not go on.
    Panicked,
    /// It has panicked and goes on with a crash kernel.
    CrashLoaded,
    /// It wants to be powered off.
    Shutdown,
}

/// The event that a write of `value` is; the gravest, when several bits are set.
pub fn event(value: u8) -> Option<PanicEvent> {
    [
        (PANICKED, PanicEvent::Panicked),
        (CRASH_LOADED, PanicEvent::CrashLoaded),
        (SHUTDOWN, PanicEvent::Shutdown),
    ]
    .into_iter()
    .find_map(|(bit, event)| (value & bit != 0).then_some(event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        assert_eq!(
            [0, 1, 2, 3, 4, 8].map(event),
            [
                None,
                Some(PanicEvent::Panicked),
                Some(PanicEvent::CrashLoaded),
                Some(PanicEvent::Panicked),
                Some(PanicEvent::Shutdown),
                None
            ]
        );
    }
}
