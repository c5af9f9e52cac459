//! The local APIC's timer (Intel SDM vol. 3, 11.5.4).

use super::TIMER_FREQUENCY_HZ;

/// The timer counts nanoseconds, so a count times its divisor is a duration.
const _: () = assert!(TIMER_FREQUENCY_HZ == 1_000_000_000);

/// LVT timer bits 18:17.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    #[default]
    OneShot,
    Periodic,
    TscDeadline,
    /// The reserved encoding 3: never fires.
    Reserved,
}

impl Mode {
    pub(super) fn from_lvt(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Timer {
    mode: Mode,
    initial_count: u32,
    divide_config: u32,
    tsc_deadline: u64,
    /// When it fires next; `None` when it is not armed.
    due_ns: Option<u64>,
}

impl Timer {
    /// Divide configuration bits 3, 1 and 0: 2, 4, 8, …, 128, 1.
    fn divisor(&self) -> u64 {
        let code = (self.divide_config >> 1 & 4) | (self.divide_config & 3);
        1 << ((code + 1) & 7)
    }

    fn period_ns(&self) -> u64 {
        u64::from(self.initial_count) * self.divisor()
    }

    pub(super) fn initial_count(&self) -> u32 {
        self.initial_count
    }

    pub(super) fn divide_config(&self) -> u32 {
        self.divide_config
    }

    pub(super) fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    /// Whether it fires at or before `now_ns`. A periodic timer that missed several periods fires once.
    pub(super) fn expire(&mut self, now_ns: u64) -> bool {
        let Some(due) = self.due_ns.filter(|due| *due <= now_ns) else { return false };
        self.due_ns = match self.mode {
            Mode::Periodic => {
                let period = self.period_ns().max(1);
                let periods = (now_ns - due) / period + 1;
                Some(due.saturating_add(periods.saturating_mul(period)))
            }
            _ => None,
        };
        self.tsc_deadline = 0;
        true
    }

    /// What is left to count: rounded up, so that it is 0 only once the timer has fired.
    pub(super) fn current_count(&self, now_ns: u64) -> u32 {
        let Some(due) = self.due_ns.filter(|_| self.mode.counts()) else { return 0 };
        let left = match due.checked_sub(now_ns) {
            Some(left) => left,
            None if self.mode == Mode::Periodic => {
                let period = self.period_ns().max(1);
                period - (now_ns - due) % period
            }
            None => 0,
        };
        u32::try_from(left.div_ceil(self.divisor())).unwrap_or(u32::MAX)
    }

    pub(super) fn set_initial_count(&mut self, count: u32, now_ns: u64) {
        if self.mode.counts() {
            self.initial_count = count;
            self.due_ns = (count != 0).then(|| now_ns.saturating_add(self.period_ns()));
        }
    }

    /// A new divisor applies to what is left of the count.
    pub(super) fn set_divide_config(&mut self, config: u32, now_ns: u64) {
        let left = self.current_count(now_ns);
        self.divide_config = config & 0b1011;
        if self.due_ns.is_some() && self.mode.counts() {
            self.due_ns = Some(now_ns.saturating_add(u64::from(left) * self.divisor()));
        }
    }

    /// One-shot and periodic go over into each other; any other change of mode disarms.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        if mode != self.mode && !(mode.counts() && self.mode.counts()) {
            *self = Self { mode, divide_config: self.divide_config, ..Self::default() };
        }
        self.mode = mode;
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    pub(super) fn set_tsc_deadline(&mut self, deadline: u64, due_ns: u64) {
        if self.mode == Mode::TscDeadline {
            self.tsc_deadline = deadline;
            self.due_ns = (deadline != 0).then_some(due_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(mode: Mode, divide: u32, count: u32) -> Timer {
        let mut t = Timer::default();
        t.set_mode(mode);
        t.set_divide_config(divide, 0);
        t.set_initial_count(count, 0);
        t
    }

    #[test]
    fn divisors() {
        for (config, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
            assert_eq!(timer(Mode::OneShot, config, 0).divisor(), divisor, "{config:#b}");
        }
    }

    #[test]
    fn one_shot_counts_down_and_fires_once() {
        let mut t = timer(Mode::OneShot, 1, 100);
        assert_eq!(t.current_count(0), 100);
        assert_eq!(t.current_count(1), 100);
        assert_eq!(t.current_count(4), 99);
        assert!(!t.expire(399));
        assert_eq!(t.current_count(399), 1);
        assert!(t.expire(400));
        assert_eq!(t.current_count(400), 0);
        assert!(!t.expire(u64::MAX));
    }

    #[test]
    fn a_year_of_missed_periods_is_one_tick_and_keeps_the_phase() {
        let mut t = timer(Mode::Periodic, 11, 7);
        let year = 365 * 86_400 * 1_000_000_000;
        assert!(t.expire(year));
        let due = t.due_ns().unwrap();
        assert!(due > year && due <= year + 7 && due.is_multiple_of(7));
        assert!(!t.expire(due - 1));
    }

    #[test]
    fn a_periodic_count_wraps_before_anyone_has_noticed() {
        let t = timer(Mode::Periodic, 11, 10);
        assert_eq!(t.current_count(10), 0);
        assert_eq!(t.current_count(11), 9);
        assert_eq!(t.current_count(39), 1);
    }

    #[test]
    fn a_new_divisor_scales_the_rest() {
        let mut t = timer(Mode::OneShot, 11, 100);
        t.set_divide_config(0, 40);
        assert_eq!(t.current_count(40), 60);
        assert_eq!(t.due_ns(), Some(160));
    }

    #[test]
    fn leaving_tsc_deadline_mode_disarms() {
        let mut t = timer(Mode::TscDeadline, 0, 5);
        assert_eq!((t.due_ns(), t.initial_count()), (None, 0));
        t.set_tsc_deadline(1000, 50);
        assert_eq!((t.tsc_deadline(), t.due_ns()), (1000, Some(50)));
        t.set_mode(Mode::OneShot);
        assert_eq!((t.tsc_deadline(), t.due_ns()), (0, None));
        t.set_tsc_deadline(1000, 50);
        assert_eq!(t.due_ns(), None);
    }

    #[test]
    fn the_deadline_register_reads_zero_after_it_fired() {
        let mut t = timer(Mode::TscDeadline, 0, 0);
        t.set_tsc_deadline(9, 50);
        assert!(t.expire(60));
        assert_eq!((t.tsc_deadline(), t.due_ns()), (0, None));
        t.set_tsc_deadline(9, 50);
        t.set_tsc_deadline(0, 70);
        assert_eq!(t.due_ns(), None);
    }
}
