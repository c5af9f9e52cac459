//! A test case, and its form as one line of text.
//!
//! A line is a list of `name=hex`: registers (`rax`, `flags`, `xmm3`, `st0`, `fcw`, `mxcsr`, …), `code` with a dot
//! between instructions, which starts at `rip`, and memory by its address. What is not named is zero, or as after
//! FNINIT. After `=>` may follow what has to come of it: `event=vector:error:address`, and what changed.
//!
//! ```text
//! rip=20001100 code=480fafc1 rax=3 rcx=5 20004000=0102 => event=3:0:0 rip=20001105 rax=f
//! ```

use std::fmt::{self, Write};
use std::str::FromStr;

use iced_x86::{Decoder, DecoderOptions, FastFormatter};

use crate::layout;
use crate::state::{Event, Field, Outcome, State};

/// Code, and what it starts with.
#[derive(Clone, PartialEq, Eq)]
pub struct Case {
    /// Registers; RIP is the address of the first instruction.
    pub state: State,
    /// The instructions, one after the other.
    pub code: Vec<Vec<u8>>,
    /// Memory that is not as [`layout::pristine`] says.
    pub patches: Vec<(u64, Vec<u8>)>,
}

impl Case {
    /// The code in one piece.
    pub fn bytes(&self) -> Vec<u8> {
        self.code.concat()
    }

    /// Memory at the start.
    pub fn memory(&self) -> Box<[u8]> {
        let mut memory = layout::pristine();
        let code = (self.state.rip, self.bytes());
        for (addr, bytes) in self.patches.iter().chain([&code]) {
            for (i, byte) in bytes.iter().enumerate() {
                if let Some(at) = layout::offset(addr.wrapping_add(i as u64)) {
                    memory[at] = *byte;
                }
            }
        }
        memory
    }

    /// The instructions in Intel syntax.
    pub fn listing(&self) -> String {
        let bytes = self.bytes();
        let mut decoder = Decoder::with_ip(64, &bytes, self.state.rip, DecoderOptions::NONE);
        let mut out = String::new();
        let mut formatter = FastFormatter::new();
        while decoder.can_decode() {
            if !out.is_empty() {
                out.push_str("; ");
            }
            formatter.format(&decoder.decode(), &mut out);
        }
        out
    }

    /// The line with what has to come of it.
    pub fn with_outcome(&self, outcome: &Outcome) -> String {
        let mut line = format!("{self} =>");
        let Event { vector, error, address } = outcome.event;
        let _ = write!(line, " event={vector:x}:{error:x}:{address:x}");
        for field in Field::all() {
            if field.get(&outcome.state) != field.get(&self.state) {
                let _ = write!(line, " {}={:x}", field.name(), field.get(&outcome.state));
            }
        }
        for (addr, bytes) in differences(&self.memory(), &outcome.memory) {
            let _ = write!(line, " {addr:x}={}", hex(&bytes));
        }
        line
    }
}

/// Runs of bytes of `after` that differ from `before`, by address.
pub fn differences(before: &[u8], after: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut out: Vec<(u64, Vec<u8>)> = Vec::new();
    for (at, byte) in after.iter().enumerate().filter(|(at, byte)| before[*at] != **byte) {
        let addr = layout::address(at);
        match out.last_mut() {
            Some((start, bytes)) if *start + bytes.len() as u64 == addr => bytes.push(*byte),
            _ => out.push((addr, vec![*byte])),
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code: Vec<String> = self.code.iter().map(|bytes| hex(bytes)).collect();
        write!(f, "rip={:x} code={}", self.state.rip, code.join("."))?;
        let usual = State::default();
        for field in Field::all().filter(|f| *f != Field::Rip) {
            if field.get(&self.state) != field.get(&usual) {
                write!(f, " {}={:x}", field.name(), field.get(&self.state))?;
            }
        }
        self.patches.iter().try_for_each(|(addr, bytes)| write!(f, " {addr:x}={}", hex(bytes)))
    }
}

/// A case read from a line, and what has to come of it if the line says so.
#[derive(Clone)]
pub struct Line {
    /// The case.
    pub case: Case,
    /// What has to come of it.
    pub expected: Option<Outcome>,
}

fn event(text: &str) -> Option<Event> {
    let mut parts = text.split(':').map(|p| u64::from_str_radix(p, 16));
    let mut next = || parts.next()?.ok();
    let event = Event { vector: next()? as u8, error: next()? as u32, address: next()? };
    parts.next().is_none().then_some(event)
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut case = Case { state: State::default(), code: vec![], patches: vec![] };
        let (inputs, outputs) = line.split_once("=>").map_or((line, None), |(i, o)| (i, Some(o)));
        let pairs = |text: &'_ str| -> Result<Vec<(String, String)>, String> {
            let pair = |word: &str| {
                let (name, value) =
                    word.split_once('=').ok_or_else(|| format!("`{word}` is no name=value"))?;
                Ok((name.to_owned(), value.to_owned()))
            };
            text.split_whitespace().map(pair).collect()
        };
        let bad = |name: &str, value: &str| format!("`{name}={value}` says nothing");
        for (name, value) in pairs(inputs)? {
            if name == "code" {
                case.code = value
                    .split('.')
                    .map(from_hex)
                    .collect::<Option<_>>()
                    .ok_or_else(|| bad(&name, &value))?;
            } else if let Some(field) = Field::by_name(&name) {
                let number = u128::from_str_radix(&value, 16).map_err(|_| bad(&name, &value))?;
                field.set(&mut case.state, number);
            } else {
                let addr = u64::from_str_radix(&name, 16).map_err(|_| bad(&name, &value))?;
                case.patches.push((addr, from_hex(&value).ok_or_else(|| bad(&name, &value))?));
            }
        }
        let Some(outputs) = outputs else { return Ok(Self { case, expected: None }) };
        let mut expected =
            Outcome { state: case.state.clone(), memory: case.memory(), event: crate::state::BREAKPOINT };
        for (name, value) in pairs(outputs)? {
            if name == "event" {
                expected.event = event(&value).ok_or_else(|| bad(&name, &value))?;
            } else if let Some(field) = Field::by_name(&name) {
                let number = u128::from_str_radix(&value, 16).map_err(|_| bad(&name, &value))?;
                field.set(&mut expected.state, number);
            } else {
                let addr = u64::from_str_radix(&name, 16).map_err(|_| bad(&name, &value))?;
                for (i, byte) in from_hex(&value).ok_or_else(|| bad(&name, &value))?.into_iter().enumerate() {
                    let at = layout::offset(addr.wrapping_add(i as u64)).ok_or_else(|| bad(&name, &value))?;
                    expected.memory[at] = byte;
                }
            }
        }
        Ok(Self { case, expected: Some(expected) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back() {
        let line = "rip=20001100 code=480fafc1.90 rax=3 flags=246 fcw=27f st0=3fff8000000000000000 xmm15=1 \
                    20004000=0102ff";
        let parsed: Line = line.parse().unwrap();
        assert_eq!(parsed.case.to_string(), line);
        assert!(parsed.expected.is_none());
        assert_eq!(parsed.case.code.len(), 2);
        assert_eq!(parsed.case.memory()[layout::offset(0x2000_4002).unwrap()], 0xff);
    }

    #[test]
    fn an_outcome_comes_back() {
        let line = "rip=20001100 code=90 => event=e:6:20003ff8 rip=20001101 rax=7 mxcsr=1fa0 20005000=00";
        let parsed: Line = line.parse().unwrap();
        let outcome = parsed.expected.unwrap();
        assert_eq!(outcome.event, Event { vector: 14, error: 6, address: 0x2000_3ff8 });
        assert_eq!(parsed.case.with_outcome(&outcome), line);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["rax", "rax=xyz", "code=9", "zz=00", "rip=0 => event=1:2", "20004000=0"] {
            assert!(line.parse::<Line>().is_err(), "{line}");
        }
    }
}
