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

    /// Writes port 0x40–0x43 or 0x61; others are ignored. Returns whether that made the output of channel 0 rise.
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
