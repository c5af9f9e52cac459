//! One counter of the 8254 (data sheet, "Mode Definitions"). Times are in clock pulses ("ticks").
//!
//! A count that is written between two pulses is loaded by the next one.

/// Which bytes of the 16-bit counter the guest accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

/// Whether the counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    /// No count, or none triggered yet.
    Idle,
    /// Stopped by the gate after this many pulses.
    Paused(u64),
    /// At tick `start` it had counted `offset` pulses; before, it waits for the load.
    Running { start: u64, offset: u64 },
}

/// A new count for a counter that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reload {
    count: u32,
    /// When it is taken over; `u64::MAX` when only a trigger does it.
    at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Channel {
    mode: u8,
    bcd: bool,
    access: Access,
    gate: bool,
    /// 1–65536 (10000 in BCD); 0 when none has been written since the control word.
    count: u32,
    reload: Option<Reload>,
    run: Run,
    /// The first of two bytes, when written.
    low_byte: Option<u8>,
    reads_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Default for Channel {
    /// Before a control word the data sheet leaves everything open; here the output is high and nothing
    /// counts.
    fn default() -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: Access::LowThenHigh,
            gate: true,
            count: 0,
            reload: None,
            run: Run::Idle,
            low_byte: None,
            reads_high: false,
            latched_count: None,
            latched_status: None,
        }
    }
}

/// Half of a square wave during which the output is high.
fn high_half(period: u64) -> u64 {
    period.div_ceil(2)
}

impl Channel {
    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// The period of modes 2 and 3. A count of 1 is illegal there and acts as 2.
    fn period(&self) -> u64 {
        u64::from(self.count.max(2))
    }

    fn elapsed(&self, tick: u64) -> Option<u64> {
        match self.run {
            Run::Idle => None,
            Run::Paused(elapsed) => Some(elapsed),
            Run::Running { start, offset } => Some(offset.saturating_add(tick.saturating_sub(start))),
        }
    }

    /// Takes over a new count whose time has come.
    fn sync(&mut self, tick: u64) {
        let Some(reload) = self.reload.filter(|r| r.at <= tick) else { return };
        let was_high = self.mode == 3 && self.phase(reload.at.saturating_sub(1)) < high_half(self.period());
        self.count = reload.count;
        let offset = if was_high { high_half(self.period()) } else { 0 };
        self.run = Run::Running { start: reload.at, offset };
        self.reload = None;
    }

    fn phase(&self, tick: u64) -> u64 {
        self.elapsed(tick).unwrap_or(0) % self.period()
    }

    /// The OUT pin.
    pub(super) fn output(&mut self, tick: u64) -> bool {
        self.sync(tick);
        let Some(elapsed) = self.elapsed(tick) else { return self.mode != 0 };
        let count = u64::from(self.count);
        match (self.mode, self.run) {
            (2 | 3, Run::Paused(_)) => true,
            (2, _) => self.phase(tick) != self.period() - 1,
            (3, _) => self.phase(tick) < high_half(self.period()),
            (4 | 5, _) => elapsed != count,
            _ => elapsed >= count,
        }
    }

    /// The first tick after `tick` at which OUT rises.
    pub(super) fn next_rising_edge(&mut self, tick: u64) -> Option<u64> {
        self.sync(tick);
        let Run::Running { start, offset } = self.run else { return None };
        let elapsed = self.elapsed(tick)?;
        if self.is_periodic() {
            let period = self.period();
            let edge = start + (elapsed / period + 1) * period - offset;
            // A square wave's new count begins with the other half: with the low one when that is before the
            // edge.
            return Some(match self.reload {
                Some(r) if r.at < edge => r.at + u64::from(r.count.max(2)) / 2,
                _ => edge,
            });
        }
        let strobe = u64::from(matches!(self.mode, 4 | 5));
        let rises_after = u64::from(self.count) + strobe;
        (elapsed < rises_after).then(|| start + rises_after - offset)
    }

    /// The counter's value as the guest reads it.
    fn value(&self, tick: u64) -> u16 {
        let elapsed = self.elapsed(tick).unwrap_or(0);
        let period = self.period();
        let (count, phase) = (u64::from(self.count), elapsed % period);
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let value = match self.mode {
            2 => period - phase,
            3 => {
                let high = high_half(period);
                let in_half = if phase < high { phase } else { phase - high };
                (period & !1) - 2 * in_half
            }
            _ => count + modulus - elapsed % modulus,
        } % modulus;
        if self.bcd { to_bcd(value as u16) } else { value as u16 }
    }

    pub(super) fn latch_count(&mut self, tick: u64) {
        self.sync(tick);
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
        }
    }

    /// Status byte of the read-back command: OUT, null count, access, mode, BCD.
    pub(super) fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_some() {
            return;
        }
        let output = self.output(tick);
        let not_loaded = match self.run {
            Run::Idle => true,
            Run::Running { start, .. } => tick < start || self.reload.is_some(),
            Run::Paused(_) => self.reload.is_some(),
        };
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowThenHigh => 3,
        };
        self.latched_status = Some(
            u8::from(output) << 7
                | u8::from(not_loaded) << 6
                | access << 4
                | self.mode << 1
                | u8::from(self.bcd),
        );
    }

    pub(super) fn set_control(&mut self, value: u8, tick: u64) {
        self.sync(tick);
        let access = match value >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        let mode = match value >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode - 4,
        };
        *self = Self { mode, bcd: value & 1 != 0, access, gate: self.gate, ..Self::default() };
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        self.sync(tick);
        let [low, high] = self.latched_count.unwrap_or_else(|| self.value(tick)).to_le_bytes();
        let is_high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::LowThenHigh => {
                self.reads_high = !self.reads_high;
                !self.reads_high
            }
        };
        if is_high || self.access == Access::Low {
            self.latched_count = None;
        }
        if is_high { high } else { low }
    }

    pub(super) fn write(&mut self, value: u8, tick: u64) {
        self.sync(tick);
        let raw = match self.access {
            Access::Low => u16::from(value),
            Access::High => u16::from(value) << 8,
            Access::LowThenHigh => match self.low_byte.take() {
                Some(low) => u16::from_le_bytes([low, value]),
                None => {
                    self.low_byte = Some(value);
                    // The first byte stops mode 0 and makes its output low.
                    if self.mode == 0 {
                        self.run = Run::Idle;
                    }
                    return;
                }
            },
        };
        self.load(if self.bcd { from_bcd(raw) } else { raw }, tick);
    }

    fn load(&mut self, count: u16, tick: u64) {
        let full = if self.bcd { 10_000 } else { 0x1_0000 };
        let count = if count == 0 { full } else { u32::from(count) };
        match (self.mode, self.run) {
            (2 | 3, Run::Running { start, .. }) if tick >= start => {
                let (phase, period) = (self.phase(tick), self.period());
                let high = high_half(period);
                let left = if self.mode == 3 && phase < high { high - phase } else { period - phase };
                self.reload = Some(Reload { count, at: tick + left });
            }
            (1 | 5, Run::Running { .. }) => self.reload = Some(Reload { count, at: u64::MAX }),
            (1 | 5, _) => self.count = count,
            _ => {
                self.count = count;
                self.run =
                    if self.gate { Run::Running { start: tick + 1, offset: 0 } } else { Run::Paused(0) };
            }
        }
    }

    pub(super) fn set_gate(&mut self, level: bool, tick: u64) {
        self.sync(tick);
        if std::mem::replace(&mut self.gate, level) == level {
            return;
        }
        let elapsed = self.elapsed(tick).unwrap_or(0);
        match (self.mode, self.run) {
            (0 | 4, Run::Running { .. }) => self.run = Run::Paused(elapsed),
            (0 | 4, Run::Paused(offset)) => self.run = Run::Running { start: tick, offset },
            (2 | 3, Run::Running { .. }) => {
                self.take_reload();
                self.run = Run::Paused(0);
            }
            (2 | 3, Run::Paused(_)) => self.run = Run::Running { start: tick + 1, offset: 0 },
            (1 | 5, _) if level && self.count != 0 => {
                self.take_reload();
                self.run = Run::Running { start: tick + 1, offset: 0 };
            }
            _ => {}
        }
    }

    fn take_reload(&mut self) {
        if let Some(reload) = self.reload.take() {
            self.count = reload.count;
        }
    }
}

/// Four decimal digits; digits above 9 count as what they are worth.
fn from_bcd(raw: u16) -> u16 {
    (0..4).rev().fold(0, |value, digit| value * 10 + (raw >> (4 * digit) & 0xf))
}

fn to_bcd(value: u16) -> u16 {
    (0..4).fold((0, value), |(bcd, rest), digit| (bcd | (rest % 10) << (4 * digit), rest / 10)).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A counter as the data sheet describes it, clock pulse by clock pulse: what the formulas above must
    /// agree with.
    struct Pulses {
        mode: u8,
        /// The count register, to be loaded.
        register: u32,
        to_load: bool,
        value: u32,
        high: bool,
    }

    impl Pulses {
        fn new(mode: u8) -> Self {
            Self { mode, register: 0, to_load: false, value: 0, high: mode != 0 }
        }

        fn write(&mut self, count: u32) {
            let first = self.register == 0;
            self.register = count;
            // Modes 2 and 3 go on with the old count.
            self.to_load |= first || !matches!(self.mode, 2 | 3);
            if self.mode == 0 {
                self.high = false;
            }
        }

        fn load(&mut self) {
            self.value = match self.mode {
                3 => self.register & !1,
                _ => self.register,
            };
            self.to_load = false;
        }

        fn pulse(&mut self) {
            if self.to_load {
                self.load();
                return;
            }
            match self.mode {
                0 => {
                    self.value = self.value.wrapping_sub(1) & 0xffff;
                    self.high |= self.value == 0;
                }
                2 => {
                    self.high = true;
                    self.value -= 1;
                    if self.value == 0 {
                        self.load();
                    } else {
                        self.high = self.value != 1;
                    }
                }
                // An odd count stays at 0 for one pulse of the high half.
                _ => {
                    let odd_and_high = self.register & 1 != 0 && self.high;
                    if self.value == if odd_and_high { 0 } else { 2 } {
                        self.high = !self.high;
                        self.load();
                    } else {
                        self.value -= 2;
                    }
                }
            }
        }
    }

    fn programmed(control: u8, count: u16) -> Channel {
        let mut c = Channel::default();
        c.set_control(control, 0);
        for byte in count.to_le_bytes() {
            c.write(byte, 0);
        }
        c
    }

    fn count(c: &mut Channel, tick: u64) -> u16 {
        let low = c.read(tick);
        u16::from_le_bytes([low, c.read(tick)])
    }

    proptest! {
        #[test]
        fn formulas_agree_with_pulses(
            mode in prop::sample::select(vec![0_u8, 2, 3]),
            n in 2..40_u16,
            ticks in 1..300_u64,
        ) {
            let mut c = programmed(0x30 | mode << 1, n);
            let mut p = Pulses::new(mode);
            p.write(n.into());
            let mut edge = c.next_rising_edge(0);
            for tick in 1..ticks {
                let before = p.high;
                p.pulse();
                prop_assert_eq!(c.output(tick), p.high, "output at {}", tick);
                prop_assert_eq!(count(&mut c, tick), p.value as u16, "count at {}", tick);
                if p.high && !before {
                    prop_assert_eq!(edge, Some(tick));
                    edge = c.next_rising_edge(tick);
                }
            }
            prop_assert!(edge.is_none_or(|edge| edge >= ticks));
        }

        #[test]
        fn a_new_rate_takes_over_at_the_end_of_the_period(n in 2..20_u16, m in 2..20_u16, at in 1..60_u64) {
            let mut c = programmed(0x34, n);
            let mut p = Pulses::new(2);
            p.write(n.into());
            for tick in 1..150 {
                p.pulse();
                prop_assert_eq!((c.output(tick), count(&mut c, tick)), (p.high, p.value as u16), "at {}", tick);
                if tick == at {
                    for byte in m.to_le_bytes() {
                        c.write(byte, tick);
                    }
                    p.write(m.into());
                }
            }
        }

        #[test]
        fn the_next_edge_is_where_the_output_rises(
            mode in prop::sample::select(vec![0_u8, 1, 2, 3, 3, 3, 4, 5]),
            n in 1..50_u16,
            m in 1..50_u16,
            at in 0..120_u64,
            after in 0..12_u64,
        ) {
            let mut c = programmed(0x30 | mode << 1, n);
            c.set_gate(false, 3);
            c.set_gate(true, 4);
            for byte in m.to_le_bytes() {
                c.write(byte, 4 + at);
            }
            let start = 4 + at + after;
            let edge = c.clone().next_rising_edge(start);
            let mut levels = (start..start + 200).map(|tick| (tick, c.output(tick)));
            let mut low = false;
            let rises = levels.find(|(_, high)| std::mem::replace(&mut low, !high) && *high).map(|(tick, _)| tick);
            prop_assert_eq!(edge, rises);
        }
    }

    #[test]
    fn full_count_is_zero() {
        let mut c = programmed(0x34, 0);
        assert_eq!(count(&mut c, 1), 0);
        assert_eq!(count(&mut c, 2), 0xffff);
        assert_eq!(c.next_rising_edge(1), Some(65_537));
        let mut bcd = programmed(0x35, 0);
        assert_eq!(count(&mut bcd, 2), 0x9999);
        assert_eq!(bcd.next_rising_edge(1), Some(10_001));
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let mut c = programmed(0x31, 0x1000);
        assert_eq!(count(&mut c, 2), 0x0999);
        assert_eq!(c.next_rising_edge(0), Some(1001));
        assert!(c.output(1001) && !c.output(1000));
        assert_eq!(count(&mut c, 1002), 0x9999, "wraps after the terminal count");
    }

    #[test]
    fn latches_hold_and_are_read_status_first() {
        let mut c = programmed(0x34, 1000);
        c.latch_count(101);
        c.latch_count(500);
        c.latch_status(101);
        assert_eq!(c.read(600), 0xb4, "OUT high, loaded, both bytes, mode 2");
        assert_eq!(count(&mut c, 600), 900);
        assert_eq!(count(&mut c, 601), 400, "not latched any more");
        c.set_control(0x34, 601);
        c.latch_status(601);
        assert_eq!(c.read(601), 0xf4, "null count");
    }

    #[test]
    fn single_byte_access() {
        let mut c = Channel::default();
        c.set_control(0x14, 0);
        c.write(100, 0);
        assert_eq!((c.read(11), c.read(11)), (90, 90));
        c.set_control(0x24, 11);
        c.write(2, 11);
        assert_eq!(c.next_rising_edge(11), Some(12 + 512));
        assert_eq!((c.read(13), c.read(13)), (1, 1));
    }

    #[test]
    fn the_first_byte_stops_mode_0() {
        let mut c = programmed(0x30, 5);
        assert!(c.output(6));
        c.write(9, 7);
        assert!(!c.output(100));
        c.write(0, 100);
        assert_eq!(c.next_rising_edge(100), Some(110));
    }

    #[test]
    fn gate_pauses_mode_0_and_4_restarts_2_and_3_and_triggers_1_and_5() {
        let mut c = programmed(0x30, 100);
        c.set_gate(false, 11);
        assert_eq!((count(&mut c, 50), c.next_rising_edge(50)), (90, None));
        c.set_gate(true, 60);
        assert_eq!(c.next_rising_edge(60), Some(150));

        let mut c = programmed(0x36, 10);
        assert!(!c.output(7));
        c.set_gate(false, 7);
        assert!(c.output(8), "a low gate makes the output high");
        c.set_gate(true, 20);
        assert_eq!((c.output(25), c.output(26)), (true, false));

        let mut c = Channel::default();
        c.set_gate(false, 0);
        c.set_control(0x32, 0);
        c.write(5, 0);
        c.write(0, 0);
        assert!(c.output(50), "one-shot not triggered");
        c.set_gate(true, 50);
        assert_eq!((c.output(51), c.output(55), c.output(56)), (false, false, true));
        c.set_gate(false, 60);
        assert!(c.output(60));
        c.set_gate(true, 61);
        c.set_gate(false, 62);
        c.set_gate(true, 63);
        assert_eq!((c.output(68), c.output(69)), (false, true), "retriggered");

        let mut c = Channel::default();
        c.set_gate(false, 0);
        c.set_control(0x3a, 0);
        c.write(5, 0);
        c.write(0, 0);
        c.set_gate(true, 10);
        assert_eq!([15, 16, 17].map(|tick| c.output(tick)), [true, false, true]);
    }

    #[test]
    fn software_strobe() {
        let mut c = programmed(0x38, 5);
        assert_eq!([5, 6, 7].map(|tick| c.output(tick)), [true, false, true]);
        let mut c = programmed(0x38, 5);
        assert_eq!((c.next_rising_edge(0), c.next_rising_edge(7)), (Some(7), None));
    }
}
