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
    /// Before a control word the data sheet leaves everything open; here the output is high and nothing counts.
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
            // A square wave's new count begins with the other half: with the low one when that is before the edge.
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
