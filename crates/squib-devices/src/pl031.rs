//! PL031 real-time clock (Arm DDI 0224C, PrimeCell RTC): a counter of seconds, and an interrupt when it comes to a match.

use crate::primecell;

/// Offsets of the registers.
mod register {
    pub(super) const DATA: u64 = 0x00;
    pub(super) const MATCH: u64 = 0x04;
    pub(super) const LOAD: u64 = 0x08;
    pub(super) const CONTROL: u64 = 0x0c;
    pub(super) const INTERRUPT_MASK: u64 = 0x10;
    pub(super) const RAW_INTERRUPT: u64 = 0x14;
    pub(super) const MASKED_INTERRUPT: u64 = 0x18;
    pub(super) const INTERRUPT_CLEAR: u64 = 0x1c;
}

const SECOND: u64 = 1_000_000_000;
/// After so many seconds the counter begins again.
const WRAP: u64 = 1 << 32;

const PERIPHERAL: [u8; 4] = [0x31, 0x10, 0x04, 0x00];

/// The clock's registers. Times are in nanoseconds, of the monotonic clock unless said otherwise.
#[derive(Debug, Clone)]
pub struct Pl031 {
    /// What was last loaded, and when.
    load: u32,
    loaded_ns: u64,
    /// What of a second had passed then.
    phase_ns: u64,
    matches: u32,
    /// When the counter comes to the match; nothing beyond the end of time.
    due_ns: Option<u64>,
    mask: bool,
    raw: bool,
}

impl Pl031 {
    /// A clock that shows the wall-clock time `unix_ns` at `now_ns`.
    pub fn new(now_ns: u64, unix_ns: u64) -> Self {
        let mut clock = Self {
            load: (unix_ns / SECOND) as u32,
            loaded_ns: now_ns,
            phase_ns: unix_ns % SECOND,
            matches: 0,
            due_ns: None,
            mask: false,
            raw: false,
        };
        clock.await_match(now_ns);
        clock
    }

    /// Whether the interrupt output is active.
    pub fn irq(&self) -> bool {
        self.raw && self.mask
    }

    /// When [`Pl031::advance`] has something to do that shows.
    pub fn next_deadline(&self) -> Option<u64> {
        self.due_ns.filter(|_| self.mask && !self.raw)
    }

    /// Makes happen what has happened by `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        while let Some(due) = self.due_ns.filter(|due| *due <= now_ns) {
            self.raw = true;
            self.due_ns = due.checked_add(WRAP * SECOND);
        }
    }

    /// Reads the register at `offset`, a multiple of 4.
    pub fn read(&mut self, offset: u64, now_ns: u64) -> u32 {
        self.advance(now_ns);
        match offset {
            register::DATA => self.counter(now_ns),
            register::MATCH => self.matches,
            register::LOAD => self.load,
            // It runs and cannot be stopped.
            register::CONTROL => 1,
            register::INTERRUPT_MASK => self.mask.into(),
            register::RAW_INTERRUPT => self.raw.into(),
            register::MASKED_INTERRUPT => self.irq().into(),
            _ => primecell::identification(offset, PERIPHERAL),
        }
    }

    /// Writes the register at `offset`, a multiple of 4.
    pub fn write(&mut self, offset: u64, value: u32, now_ns: u64) {
        self.advance(now_ns);
        match offset {
            register::MATCH => {
                self.matches = value;
                self.await_match(now_ns);
            }
            register::LOAD => {
                (self.load, self.loaded_ns, self.phase_ns) = (value, now_ns, 0);
                self.await_match(now_ns);
            }
            register::INTERRUPT_MASK => self.mask = value & 1 != 0,
            register::INTERRUPT_CLEAR if value & 1 != 0 => self.raw = false,
            _ => {}
        }
        self.advance(now_ns);
    }

    /// Whole seconds since the load.
    fn seconds(&self, now_ns: u64) -> u64 {
        (now_ns.saturating_sub(self.loaded_ns).saturating_add(self.phase_ns)) / SECOND
    }

    fn counter(&self, now_ns: u64) -> u32 {
        self.load.wrapping_add(self.seconds(now_ns) as u32)
    }

    /// Works out when the counter, which may show the match already, next shows it.
    fn await_match(&mut self, now_ns: u64) {
        let ahead = u64::from(self.matches.wrapping_sub(self.counter(now_ns)));
        let seconds = self.seconds(now_ns) + ahead;
        let since_load = seconds.checked_mul(SECOND).map(|ns| ns.saturating_sub(self.phase_ns));
        self.due_ns = since_load.and_then(|ns| ns.checked_add(self.loaded_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use register::*;

    /// In 2026, half a second into a second.
    const UNIX: u64 = 1_795_000_000 * SECOND + SECOND / 2;
    const START: u64 = 5 * SECOND;

    #[test]
    fn it_counts_wall_clock_seconds() {
        let mut clock = Pl031::new(START, UNIX);
        for (later, expected) in [(0, 0), (SECOND / 2 - 1, 0), (SECOND / 2, 1), (10 * SECOND, 10)] {
            assert_eq!(clock.read(DATA, START + later), 1_795_000_000 + expected);
        }
        let id: Vec<_> = (0xfe0..0x1000).step_by(4).map(|at| clock.read(at, START)).collect();
        assert_eq!(id, [0x31, 0x10, 4, 0, 0x0d, 0xf0, 0x05, 0xb1]);
        assert_eq!(clock.read(CONTROL, START), 1);
    }

    #[test]
    fn a_second_that_began_before_the_clock_ends_in_time() {
        let mut clock = Pl031::new(0, UNIX);
        clock.write(MATCH, 1_795_000_001, 0);
        clock.write(INTERRUPT_MASK, 1, 0);
        assert_eq!(clock.next_deadline(), Some(SECOND / 2));
        assert_eq!(clock.read(DATA, SECOND / 2 - 1), 1_795_000_000);
        assert_eq!(clock.read(DATA, SECOND / 2), 1_795_000_001);
    }

    #[test]
    fn it_can_be_set() {
        let mut clock = Pl031::new(START, UNIX);
        clock.write(LOAD, u32::MAX, START);
        assert_eq!(clock.read(DATA, START + SECOND - 1), u32::MAX);
        assert_eq!(clock.read(DATA, START + SECOND), 0);
        assert_eq!(clock.read(LOAD, START + SECOND), u32::MAX);
    }

    #[test]
    fn a_match_interrupts_once() {
        let mut clock = Pl031::new(START, UNIX);
        clock.write(LOAD, 100, START);
        clock.write(MATCH, 103, START);
        assert_eq!(clock.next_deadline(), None, "masked");
        clock.write(INTERRUPT_MASK, 1, START);
        let due = START + 3 * SECOND;
        assert_eq!(clock.next_deadline(), Some(due));
        clock.advance(due - 1);
        assert!(!clock.irq());
        clock.advance(due);
        assert!(clock.irq());
        assert_eq!((clock.read(RAW_INTERRUPT, due), clock.read(MASKED_INTERRUPT, due)), (1, 1));
        assert_eq!(clock.next_deadline(), None);
        clock.write(INTERRUPT_CLEAR, 1, due);
        assert!(!clock.irq());
        assert_eq!(clock.next_deadline(), Some(due + WRAP * SECOND));
    }

    #[test]
    fn a_match_with_now_interrupts_at_once_and_one_in_the_past_after_the_wrap() {
        let mut clock = Pl031::new(START, UNIX);
        clock.write(INTERRUPT_MASK, 1, START);
        let now = clock.read(DATA, START);
        clock.write(MATCH, now - 1, START);
        assert!(!clock.irq());
        clock.write(MATCH, now, START);
        assert!(clock.irq());
        clock.write(INTERRUPT_MASK, 0, START);
        assert!(!clock.irq());
        assert_eq!(clock.read(RAW_INTERRUPT, START), 1);
    }

    #[test]
    fn the_end_of_time_is_no_match() {
        let mut clock = Pl031::new(u64::MAX, u64::MAX);
        clock.write(LOAD, 0, u64::MAX);
        clock.write(MATCH, u32::MAX, u64::MAX);
        assert_eq!(clock.next_deadline(), None);
        clock.advance(u64::MAX);
    }
}
