//! MC146818 real-time clock and CMOS memory (Motorola MC146818A data sheet) as a PC has it at ports 0x70 and
//! 0x71.
//!
//! The clock is an offset from the machine's: nothing ticks. The update itself takes no time, so
//! update-in-progress is seen only in the 244 µs before it, in which the data sheet promises that a reader
//! has time to finish. Interrupts that a guest was late to acknowledge are merged.

mod calendar;

use calendar::DateTime;

/// Bytes of CMOS memory, the clock's registers among them.
pub const CMOS_SIZE: usize = 128;
/// CMOS index of the century, as the FADT's CENTURY field names it.
pub const CENTURY: u8 = 0x32;
/// Ports from the base on: index, data.
pub const PORTS: u16 = 2;

const NS_PER_S: i128 = 1_000_000_000;
const OSCILLATOR_HZ: i128 = 32_768;
/// From the start of update-in-progress to the update (t_BUC).
const UPDATE_WARNING_NS: i128 = 244_000;
/// The first update comes this long after the divider starts.
const FIRST_UPDATE_NS: i128 = 500_000_000;

const SECONDS: u8 = 0;
const SECONDS_ALARM: u8 = 1;
const MINUTES: u8 = 2;
const MINUTES_ALARM: u8 = 3;
const HOURS: u8 = 4;
const HOURS_ALARM: u8 = 5;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 0xa;
const STATUS_B: u8 = 0xb;
const STATUS_C: u8 = 0xc;
const STATUS_D: u8 = 0xd;

const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Divider bits 6:5 both set hold the divider in reset.
const A_DIVIDER_RESET: u8 = 0x60;
const B_SET: u8 = 1 << 7;
const B_UPDATE_INTERRUPT: u8 = 1 << 4;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
/// Interrupt flags in C, and their enables in B.
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATE: u8 = 1 << 4;
const INTERRUPTS: u8 = PERIODIC | ALARM | UPDATE;
const C_INTERRUPT: u8 = 1 << 7;
const D_VALID: u8 = 1 << 7;

const HOUR_PM: u8 = 1 << 7;
/// Alarm registers with both of these bits match every value.
const ALARM_ANY: u8 = 0xc0;

/// The clock and its memory.
///
/// `now_ns` is in nanoseconds on any clock that does not go back, the same one in every call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rtc {
    index: u8,
    cmos: [u8; CMOS_SIZE],
    /// Nanoseconds since 1970 in the guest's time zone, less `now_ns`.
    offset_ns: i128,
    /// The time while the guest holds the clock to set it.
    held: Option<DateTime>,
    /// Up to when interrupts have been looked for, in the guest's nanoseconds since 1970.
    seen_ns: i128,
}

impl Rtc {
    /// A clock that shows `unix_ns`, nanoseconds since 1970-01-01 00:00:00 UTC, when the machine's is at
    /// `now_ns`.
    pub fn new(now_ns: u64, unix_ns: u64) -> Self {
        let mut cmos = [0; CMOS_SIZE];
        // A 32.768 kHz crystal, periodic rate 1024 Hz; 24 hours, BCD.
        cmos[usize::from(STATUS_A)] = 0x26;
        cmos[usize::from(STATUS_B)] = B_24_HOURS;
        let offset_ns = i128::from(unix_ns) - i128::from(now_ns);
        Self { index: 0, cmos, offset_ns, held: None, seen_ns: unix_ns.into() }
    }

    /// Shows `unix_ns` from now on: the guest's time was stopped, or is another after a restore.
    pub fn set_time(&mut self, now_ns: u64, unix_ns: u64) {
        self.offset_ns = i128::from(unix_ns) - i128::from(now_ns);
        self.seen_ns = unix_ns.into();
    }

    /// System reset: disables the interrupts and clears their flags; time and memory stay (data sheet,
    /// "RESET").
    pub fn reset(&mut self) {
        self.index = 0;
        self.cmos[usize::from(STATUS_B)] &= !INTERRUPTS;
        self.cmos[usize::from(STATUS_C)] = 0;
    }

    /// Sets a byte of CMOS memory, as firmware finds it. Indices of the clock's registers and above 127 are
    /// ignored.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        if usize::from(index) < CMOS_SIZE && index > STATUS_D && index != CENTURY {
            self.cmos[usize::from(index)] = value;
        }
    }

    /// The interrupt output, IRQ 8.
    pub fn irq(&self) -> bool {
        self.control() & self.cmos[usize::from(STATUS_C)] & INTERRUPTS != 0
    }

    /// Finds the interrupts that are due at `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        let now = self.guest_ns(now_ns);
        let seen = self.seen_ns;
        if now <= seen {
            return;
        }
        self.seen_ns = now;
        let mut flags = 0;
        if self
            .period_cycles()
            .is_some_and(|period| cycles(seen).div_euclid(period) != cycles(now).div_euclid(period))
        {
            flags |= PERIODIC;
        }
        if self.held.is_none() {
            if seconds(seen) != seconds(now) {
                flags |= UPDATE;
            }
            if self.next_alarm(seconds(seen)).is_some_and(|alarm| alarm <= seconds(now)) {
                flags |= ALARM;
            }
        }
        self.cmos[usize::from(STATUS_C)] |= flags;
    }

    /// When [`Rtc::advance`] will next make [`Rtc::irq`] true; `None` when it is true already or nothing is
    /// enabled.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.irq() {
            return None;
        }
        let enabled = self.control() & INTERRUPTS;
        let periodic = self.period_cycles().filter(|_| enabled & PERIODIC != 0).map(|period| {
            let cycle = (cycles(self.seen_ns).div_euclid(period) + 1) * period;
            -(-cycle * NS_PER_S).div_euclid(OSCILLATOR_HZ)
        });
        let second = seconds(self.seen_ns);
        let runs = self.held.is_none();
        let update = (runs && enabled & UPDATE != 0).then(|| i128::from(second + 1) * NS_PER_S);
        let alarm = (runs && enabled & ALARM != 0).then(|| self.next_alarm(second)).flatten();
        let due = [periodic, update, alarm.map(|s| i128::from(s) * NS_PER_S)].into_iter().flatten().min()?;
        Some(u64::try_from((due - self.offset_ns).max(0)).unwrap_or(u64::MAX))
    }

    /// Reads the index port (`offset` 0, which is write-only and reads as ones) or the data port (1).
    pub fn read(&mut self, offset: u16, now_ns: u64) -> u8 {
        if offset & 1 == 0 {
            return 0xff;
        }
        self.advance(now_ns);
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => {
                let time = self.time(now_ns);
                self.show(self.index, &time)
            }
            STATUS_A => self.cmos[usize::from(STATUS_A)] | self.update_in_progress(now_ns),
            STATUS_C => {
                let interrupt = if self.irq() { C_INTERRUPT } else { 0 };
                std::mem::take(&mut self.cmos[usize::from(STATUS_C)]) | interrupt
            }
            STATUS_D => D_VALID,
            index => self.cmos[usize::from(index)],
        }
    }

    /// Writes the index port, which changes nothing else.
    pub fn select(&mut self, index: u8) {
        self.index = index & 0x7f;
    }

    /// Writes the index port (`offset` 0; bit 7, which disables NMIs on a PC, is ignored) or the data port
    /// (1).
    pub fn write(&mut self, offset: u16, value: u8, now_ns: u64) {
        if offset & 1 == 0 {
            self.select(value);
            return;
        }
        self.advance(now_ns);
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => {
                let mut time = self.time(now_ns);
                self.edit(self.index, value, &mut time);
                match &mut self.held {
                    Some(held) => *held = time,
                    None => self.show_from(now_ns, &time, self.guest_ns(now_ns).rem_euclid(NS_PER_S)),
                }
            }
            STATUS_A => self.control_clock(now_ns, value & !A_UPDATE_IN_PROGRESS, self.control()),
            STATUS_B => {
                // Holding the clock disables the update interrupt.
                let value = if value & B_SET != 0 { value & !B_UPDATE_INTERRUPT } else { value };
                self.control_clock(now_ns, self.cmos[usize::from(STATUS_A)], value);
            }
            STATUS_C | STATUS_D => {}
            index => self.cmos[usize::from(index)] = value,
        }
    }

    fn control(&self) -> u8 {
        self.cmos[usize::from(STATUS_B)]
    }

    fn guest_ns(&self, now_ns: u64) -> i128 {
        i128::from(now_ns) + self.offset_ns
    }

    fn divider_runs(&self) -> bool {
        self.cmos[usize::from(STATUS_A)] & A_DIVIDER_RESET != A_DIVIDER_RESET
    }

    fn update_in_progress(&self, now_ns: u64) -> u8 {
        let left = NS_PER_S - self.guest_ns(now_ns).rem_euclid(NS_PER_S);
        if self.held.is_none() && left <= UPDATE_WARNING_NS { A_UPDATE_IN_PROGRESS } else { 0 }
    }

    fn time(&self, now_ns: u64) -> DateTime {
        self.held.unwrap_or_else(|| DateTime::from_unix(seconds(self.guest_ns(now_ns))))
    }

    /// Makes the clock show `time` at `now_ns`, `fraction_ns` into the second.
    fn show_from(&mut self, now_ns: u64, time: &DateTime, fraction_ns: i128) {
        self.seen_ns = i128::from(time.to_unix()) * NS_PER_S + fraction_ns;
        self.offset_ns = self.seen_ns - i128::from(now_ns);
    }

    /// Writes A and B. The clock stands while SET or the divider's reset holds it.
    fn control_clock(&mut self, now_ns: u64, a: u8, b: u8) {
        let time = self.time(now_ns);
        let divider_ran = self.divider_runs();
        self.cmos[usize::from(STATUS_A)] = a;
        self.cmos[usize::from(STATUS_B)] = b;
        if b & B_SET != 0 || !self.divider_runs() {
            self.held = Some(time);
        }
        if self.held.is_some() && b & B_SET == 0 && self.divider_runs() {
            self.held = None;
            let fraction = self.guest_ns(now_ns).rem_euclid(NS_PER_S);
            self.show_from(now_ns, &time, if divider_ran { fraction } else { NS_PER_S - FIRST_UPDATE_NS });
        }
    }

    /// Oscillator cycles of a periodic interrupt's period (data sheet, table 5, for 32.768 kHz).
    fn period_cycles(&self) -> Option<i128> {
        match self.cmos[usize::from(STATUS_A)] & 0xf {
            _ if !self.divider_runs() => None,
            0 => None,
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// The first second after `after` at which the alarm matches.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let matches = |register: u8, value: i64| {
            let alarm = self.cmos[usize::from(register)];
            alarm & ALARM_ANY == ALARM_ANY || i64::from(self.decode(register - SECONDS_ALARM, alarm)) == value
        };
        let mut t = after.saturating_add(1);
        // Whole hours, then minutes, then seconds are skipped: at most 59 + 59 + 24 + 59 + 59 steps lead to a
        // match.
        for _ in 0..300 {
            let of_day = t.rem_euclid(86_400);
            t = if !matches(HOURS_ALARM, of_day / 3600) {
                t + 3600 - of_day % 3600
            } else if !matches(MINUTES_ALARM, of_day / 60 % 60) {
                t + 60 - of_day % 60
            } else if !matches(SECONDS_ALARM, of_day % 60) {
                t + 1
            } else {
                return Some(t);
            };
        }
        None
    }

    /// A clock register's contents as a number; hours on the 24-hour clock.
    fn decode(&self, index: u8, raw: u8) -> u8 {
        let is_binary = self.control() & B_BINARY != 0;
        let number = |raw: u8| if is_binary { raw } else { (raw >> 4) * 10 + (raw & 0xf) };
        if index != HOURS || self.control() & B_24_HOURS != 0 {
            return number(raw);
        }
        number(raw & !HOUR_PM) % 12 + if raw & HOUR_PM != 0 { 12 } else { 0 }
    }

    fn encode(&self, index: u8, value: u8) -> u8 {
        let is_binary = self.control() & B_BINARY != 0;
        let number = |value: u8| if is_binary { value } else { ((value / 10) << 4) | (value % 10) };
        if index != HOURS || self.control() & B_24_HOURS != 0 {
            return number(value);
        }
        let pm = if value >= 12 { HOUR_PM } else { 0 };
        let hour = match value % 12 {
            0 => 12,
            hour => hour,
        };
        number(hour) | pm
    }

    fn show(&self, index: u8, time: &DateTime) -> u8 {
        let value = match index {
            SECONDS => time.second,
            MINUTES => time.minute,
            HOURS => time.hour,
            WEEKDAY => time.weekday(),
            DAY => time.day,
            MONTH => time.month,
            YEAR => time.year_of_century,
            _ => time.century,
        };
        self.encode(index, value)
    }

    fn edit(&self, index: u8, raw: u8, time: &mut DateTime) {
        let value = self.decode(index, raw);
        match index {
            SECONDS => time.second = value,
            MINUTES => time.minute = value,
            HOURS => time.hour = value,
            DAY => time.day = value,
            MONTH => time.month = value,
            YEAR => time.year_of_century = value,
            CENTURY => time.century = value,
            // The weekday follows from the date.
            _ => {}
        }
    }
}

fn seconds(guest_ns: i128) -> i64 {
    // Within i64: a u64 of nanoseconds and a date of at most year 25,855 apart.
    guest_ns.div_euclid(NS_PER_S) as i64
}

fn cycles(guest_ns: i128) -> i128 {
    (guest_ns * OSCILLATOR_HZ).div_euclid(NS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    /// 2024-02-29 23:59:58.5, a Thursday.
    const EVENING: u64 = 1_709_251_198 * SECOND + SECOND / 2;

    fn get(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
        rtc.write(0, index | 0x80, now);
        rtc.read(1, now)
    }

    fn set(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
        rtc.write(0, index, now);
        rtc.write(1, value, now);
    }

    fn clock(rtc: &mut Rtc, now: u64) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|index| get(rtc, index, now))
    }

    #[test]
    fn shows_bcd_and_carries_into_the_next_month() {
        let mut rtc = Rtc::new(1000, EVENING);
        assert_eq!(clock(&mut rtc, 1000), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
        assert_eq!(clock(&mut rtc, 1000 + 2 * SECOND), [0x20, 0x24, 0x03, 0x01, 6, 0, 0, 0]);
    }

    #[test]
    fn binary_and_twelve_hours() {
        let mut rtc = Rtc::new(0, EVENING);
        set(&mut rtc, STATUS_B, B_BINARY, 0);
        assert_eq!(clock(&mut rtc, 0), [20, 24, 2, 29, 5, 11 | HOUR_PM, 59, 58]);
        set(&mut rtc, STATUS_B, 0, 0);
        assert_eq!(get(&mut rtc, HOURS, 0), 0x11 | HOUR_PM);
        assert_eq!(get(&mut rtc, HOURS, 2 * SECOND), 0x12, "midnight");
        set(&mut rtc, HOURS, 0x12 | HOUR_PM, 0);
        set(&mut rtc, STATUS_B, B_24_HOURS, 0);
        assert_eq!(get(&mut rtc, HOURS, 0), 0x12, "noon");
    }

    #[test]
    fn a_guest_sets_the_time_as_linux_does() {
        let mut rtc = Rtc::new(0, EVENING);
        set(&mut rtc, STATUS_B, B_SET | B_24_HOURS, 0);
        set(&mut rtc, STATUS_A, 0x76, 0);
        for (index, value) in [
            (YEAR, 0x31),
            (MONTH, 0x01),
            (DAY, 0x31),
            (HOURS, 7),
            (MINUTES, 8),
            (SECONDS, 9),
            (CENTURY, 0x19),
        ] {
            set(&mut rtc, index, value, SECOND);
        }
        assert_eq!(clock(&mut rtc, 9 * SECOND), [0x19, 0x31, 1, 0x31, 7, 7, 8, 9], "held");
        let start = 10 * SECOND + SECOND / 5;
        set(&mut rtc, STATUS_B, B_24_HOURS, start);
        set(&mut rtc, STATUS_A, 0x26, start);
        assert_eq!(get(&mut rtc, SECONDS, start + SECOND / 2 - 1), 9);
        assert_eq!(get(&mut rtc, SECONDS, start + SECOND / 2), 0x10, "half a second after the divider");
    }

    #[test]
    fn update_in_progress_lasts_244_microseconds() {
        let mut rtc = Rtc::new(0, EVENING);
        let update = SECOND / 2;
        for (now, expected) in
            [(0, 0), (update - 244_001, 0), (update - 244_000, 0x80), (update - 1, 0x80), (update, 0)]
        {
            assert_eq!(get(&mut rtc, STATUS_A, now), 0x26 | expected, "{now}");
        }
    }

    #[test]
    fn update_interrupt() {
        let mut rtc = Rtc::new(0, EVENING);
        set(&mut rtc, STATUS_B, B_24_HOURS | UPDATE, 0);
        assert_eq!(rtc.next_deadline(), Some(SECOND / 2));
        rtc.advance(SECOND / 2);
        assert!(rtc.irq());
        assert_eq!(rtc.next_deadline(), None);
        assert_eq!(get(&mut rtc, STATUS_C, SECOND / 2) & (C_INTERRUPT | UPDATE), 0x90);
        assert!(!rtc.irq());
        assert_eq!(get(&mut rtc, STATUS_C, SECOND / 2), 0);
        assert_eq!(rtc.next_deadline(), Some(SECOND / 2 + SECOND));
        set(&mut rtc, STATUS_B, B_SET | B_24_HOURS | UPDATE, SECOND);
        assert_eq!(get(&mut rtc, STATUS_B, SECOND), B_SET | B_24_HOURS, "holding the clock disables it");
        assert_eq!(rtc.next_deadline(), None);
    }

    #[test]
    fn periodic_interrupt_rates() {
        for (rate, hz) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)] {
            let mut rtc = Rtc::new(0, 0);
            set(&mut rtc, STATUS_A, 0x20 | rate, 0);
            set(&mut rtc, STATUS_B, PERIODIC, 0);
            let due = rtc.next_deadline().unwrap();
            assert_eq!(due, SECOND.div_ceil(hz), "rate {rate}");
            rtc.advance(due - 1);
            assert!(!rtc.irq());
            rtc.advance(due);
            assert!(rtc.irq());
        }
        let mut rtc = Rtc::new(0, 0);
        set(&mut rtc, STATUS_A, 0x20, 0);
        set(&mut rtc, STATUS_B, PERIODIC, 0);
        assert_eq!(rtc.next_deadline(), None);
    }

    #[test]
    fn alarm_at_a_time_and_with_wildcards() {
        let mut rtc = Rtc::new(0, EVENING);
        for (index, value) in [(SECONDS_ALARM, 0x05), (MINUTES_ALARM, 0), (HOURS_ALARM, 0)] {
            set(&mut rtc, index, value, 0);
        }
        set(&mut rtc, STATUS_B, B_24_HOURS | ALARM, 0);
        assert_eq!(rtc.next_deadline(), Some(6 * SECOND + SECOND / 2));
        rtc.advance(400 * 86_400 * SECOND);
        assert_eq!(get(&mut rtc, STATUS_C, 400 * 86_400 * SECOND) & ALARM, ALARM);
        let now = 400 * 86_400 * SECOND;
        set(&mut rtc, HOURS_ALARM, 0xff, now);
        set(&mut rtc, MINUTES_ALARM, 0xc0, now);
        assert_eq!(rtc.next_deadline(), Some(now + 6 * SECOND + SECOND / 2));
        set(&mut rtc, SECONDS_ALARM, 0x77, now);
        assert_eq!(rtc.next_deadline(), None, "never matches");
    }

    #[test]
    fn memory_and_fixed_registers() {
        let mut rtc = Rtc::new(0, EVENING);
        set(&mut rtc, 0x7f, 0xa5, 0);
        assert_eq!(get(&mut rtc, 0x7f, 0), 0xa5);
        rtc.set_cmos(0x34, 9);
        rtc.set_cmos(STATUS_B, 0xff);
        rtc.set_cmos(200, 1);
        assert_eq!((get(&mut rtc, 0x34, 0), get(&mut rtc, STATUS_B, 0)), (9, B_24_HOURS));
        set(&mut rtc, STATUS_D, 0, 0);
        assert_eq!(get(&mut rtc, STATUS_D, 0), D_VALID);
        assert_eq!(rtc.read(0, 0), 0xff);
    }

    proptest! {
        #[test]
        fn the_next_alarm_is_the_first_that_matches(
            h in 0_u8..30,
            m in 0_u8..70,
            s in 0_u8..70,
            now in 0_u64..200_000,
        ) {
            let mut rtc = Rtc::new(0, now * SECOND);
            set(&mut rtc, STATUS_B, B_24_HOURS | B_BINARY | ALARM, 0);
            // Large values stand for "any".
            let any = |value, limit| if value >= limit { 0xff } else { value };
            for (index, value) in [(HOURS_ALARM, any(h, 24)), (MINUTES_ALARM, any(m, 60)), (SECONDS_ALARM, any(s, 60))] {
                set(&mut rtc, index, value, 0);
            }
            let matches = |t: u64| {
                (h >= 24 || t / 3600 % 24 == h.into())
                    && (m >= 60 || t / 60 % 60 == m.into())
                    && (s >= 60 || t % 60 == s.into())
            };
            let expected = (now + 1..).find(|t| matches(*t)).unwrap();
            prop_assert_eq!(rtc.next_deadline(), Some((expected - now) * SECOND));
        }
    }
}
