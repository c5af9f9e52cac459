//! Interval timer 8254 (Intel 8254 data sheet, order number 231164) and the PC's port 0x61.
//!
//! Nothing ticks: every count and output is computed from the time at which it was programmed.
//! Channel 0 drives IRQ 0, channel 1 nothing, channel 2 the speaker; the gates of 0 and 1 are wired high.

mod channel;

use channel::Channel;

/// Frequency of the clock input.
pub const FREQUENCY_HZ: u64 = 1_193_182;
/// Port of channel 0's counter; those of channels 1 and 2 and the control word register follow.
pub const PORT_BASE: u16 = 0x40;
/// Port of the speaker control register.
pub const PORT_SPEAKER: u16 = 0x61;

const NS_PER_S: u128 = 1_000_000_000;
const SPEAKER_CHANNEL: usize = 2;
/// The memory refresh request toggles port 0x61 bit 4 this often.
const REFRESH_TOGGLE_NS: u64 = 15_085;

/// Clock pulses until `now_ns`.
fn ticks(now_ns: u64) -> u64 {
    (u128::from(now_ns) * u128::from(FREQUENCY_HZ) / NS_PER_S) as u64
}

/// The first nanosecond at which [`ticks`] says `tick`.
fn tick_to_ns(tick: u64) -> u64 {
    let ns = (u128::from(tick) * NS_PER_S).div_ceil(u128::from(FREQUENCY_HZ));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// The 8254 with port 0x61.
///
/// `now_ns` is in nanoseconds on any clock that does not go back, the same one in every call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pit {
    channels: [Channel; 3],
    /// Bits 3:0 of port 0x61: gate of channel 2, speaker enable, two NMI disables.
    speaker: u8,
    next_edge_ns: Option<u64>,
    /// Output of channel 0 when last seen.
    output: bool,
}

impl Default for Pit {
    fn default() -> Self {
        let mut channels = [Channel::default(), Channel::default(), Channel::default()];
        channels[SPEAKER_CHANNEL].set_gate(false, 0);
        Self { channels, speaker: 0, next_edge_ns: None, output: true }
    }
}

impl Pit {
    /// Power-up reset: no channel is programmed.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether the output of channel 0 has risen since the last call, once or more often.
    pub fn advance(&mut self, now_ns: u64) -> bool {
        if self.next_edge_ns.is_none_or(|edge| now_ns < edge) {
            return false;
        }
        self.observe(ticks(now_ns), true)
    }

    /// When [`Pit::advance`] will next be true.
    pub fn next_deadline(&self) -> Option<u64> {
        self.next_edge_ns
    }

    /// The output of channel 0 when it was last looked at.
    pub fn output(&self) -> bool {
        self.output
    }

    fn observe(&mut self, tick: u64, edge_passed: bool) -> bool {
        let channel = &mut self.channels[0];
        let output = channel.output(tick);
        let rose = edge_passed || (output && !self.output);
        self.output = output;
        self.next_edge_ns = channel.next_rising_edge(tick).map(tick_to_ns);
        rose
    }

    /// Reads port 0x40–0x43 or 0x61; others read as ones.
    pub fn read(&mut self, port: u16, now_ns: u64) -> u8 {
        let tick = ticks(now_ns);
        match port {
            0x40..=0x42 => self.channels[usize::from(port & 3)].read(tick),
            PORT_SPEAKER => {
                let refresh = (now_ns / REFRESH_TOGGLE_NS) as u8 & 1;
                let output = self.channels[SPEAKER_CHANNEL].output(tick);
                self.speaker | refresh << 4 | u8::from(output) << 5
            }
            _ => 0xff,
        }
    }

    /// Writes port 0x40–0x43 or 0x61; others are ignored. Returns whether that made the output of channel 0
    /// rise.
    pub fn write(&mut self, port: u16, value: u8, now_ns: u64) -> bool {
        let edge = self.advance(now_ns);
        let tick = ticks(now_ns);
        match port {
            0x40..=0x42 => self.channels[usize::from(port & 3)].write(value, tick),
            0x43 => self.control(value, tick),
            PORT_SPEAKER => {
                self.speaker = value & 0xf;
                self.channels[SPEAKER_CHANNEL].set_gate(value & 1 != 0, tick);
            }
            _ => {}
        }
        self.observe(tick, false) || edge
    }

    fn control(&mut self, value: u8, tick: u64) {
        match value >> 6 {
            // Read-back: the low bits choose channels; a clear bit asks for the count or the status.
            3 => {
                for (i, channel) in self.channels.iter_mut().enumerate() {
                    if value >> (i + 1) & 1 != 0 {
                        if value & 0x20 == 0 {
                            channel.latch_count(tick);
                        }
                        if value & 0x10 == 0 {
                            channel.latch_status(tick);
                        }
                    }
                }
            }
            index => {
                let channel = &mut self.channels[usize::from(index)];
                if value & 0x30 == 0 {
                    channel.latch_count(tick);
                } else {
                    channel.set_control(value, tick);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn program(pit: &mut Pit, control: u8, port: u16, count: u16, now: u64) {
        pit.write(0x43, control, now);
        for byte in count.to_le_bytes() {
            pit.write(port, byte, now);
        }
    }

    #[test]
    fn ticks_and_nanoseconds() {
        assert_eq!(ticks(1_000_000_000), FREQUENCY_HZ);
        for tick in [0, 1, 2, 1000, FREQUENCY_HZ, 1 << 40] {
            let ns = tick_to_ns(tick);
            assert_eq!(ticks(ns), tick);
            assert!(ns == 0 || ticks(ns - 1) == tick - 1);
        }
        let _ = tick_to_ns(ticks(u64::MAX) + (1 << 20));
    }

    #[test]
    fn a_hundred_hertz() {
        let mut pit = Pit::default();
        program(&mut pit, 0x34, 0x40, 11_932, 0);
        let mut now = 0;
        for _ in 0..100 {
            now = pit.next_deadline().unwrap();
            assert!(!pit.advance(now - 1));
            assert!(pit.advance(now));
        }
        assert!((999 * MS..1001 * MS).contains(&now), "{now}");
        assert!(pit.advance(now + 31_536_000_000 * MS), "a year later: one tick");
        assert!(!pit.advance(now + 31_536_000_000 * MS));
    }

    #[test]
    fn one_shot_on_channel_0() {
        let mut pit = Pit::default();
        program(&mut pit, 0x30, 0x40, 1193, 5 * MS);
        assert!(!pit.output());
        let due = pit.next_deadline().unwrap();
        assert!(due.abs_diff(6 * MS) < 2000, "{due}");
        assert!(pit.advance(due) && pit.output());
        assert_eq!(pit.next_deadline(), None);
    }

    #[test]
    fn linux_calibrates_the_tsc_with_channel_2() {
        let mut pit = Pit::default();
        pit.write(PORT_SPEAKER, 1, 0);
        program(&mut pit, 0xb0, 0x42, 0xffff, 0);
        assert_eq!(pit.read(PORT_SPEAKER, MS) & 0x23, 0x01);
        pit.write(0x43, 0x80, MS);
        let low = pit.read(0x42, MS);
        let latched = u16::from_le_bytes([low, pit.read(0x42, 2 * MS)]);
        assert_eq!(latched, 0xffff - 1192, "1193 ticks since the write, the first of them loaded the count");
        assert_eq!(pit.read(PORT_SPEAKER, 54 * MS) & 0x20, 0);
        assert_eq!(pit.read(PORT_SPEAKER, 55 * MS) & 0x20, 0x20);
        assert_eq!(pit.next_deadline(), None, "channel 2 interrupts nobody");
    }

    #[test]
    fn read_back_of_several_channels() {
        let mut pit = Pit::default();
        program(&mut pit, 0x34, 0x40, 100, 0);
        program(&mut pit, 0x76, 0x41, 5000, 0);
        pit.write(0x43, 0xc6, MS);
        for (port, status, count) in [(0x40, 0xb4, 8), (0x41, 0xb6, 5000 - 2 * 1192)] {
            assert_eq!(pit.read(port, 2 * MS), status);
            let low = pit.read(port, 2 * MS);
            assert_eq!(u16::from_le_bytes([low, pit.read(port, 2 * MS)]), count);
        }
        pit.write(0x43, 0xe8, 3 * MS);
        assert_eq!(pit.read(0x42, 3 * MS) & 0x40, 0x40, "only the status, of channel 2: no count");
    }

    #[test]
    fn speaker_port_and_refresh() {
        let mut pit = Pit::default();
        pit.write(PORT_SPEAKER, 0xff, 0);
        assert_eq!(pit.read(PORT_SPEAKER, 0) & 0x1f, 0x0f);
        assert_eq!(pit.read(PORT_SPEAKER, REFRESH_TOGGLE_NS) & 0x10, 0x10);
        assert_eq!(pit.read(0x43, 0), 0xff);
    }
}
