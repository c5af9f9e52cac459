//! A test case, and how it is written.
//!
//! A case is a list of words: `name=value` for registers in hexadecimal (`rax`, `xmm3`, `st0`, `mxcsr`, `ds`, …), `flags` by name
//! (`flags=if+cf+zf`), `code` with a dot between instructions, and memory by its address. What is not named is as
//! [`State::new`] and [`layout::pristine`] say. After `=>` comes what ends it (`BP`, `GP(0)`, `PF(6)@20003ff8`, `hlt`) and
//! what is then different from what the case began with; see [`Test`]. Line ends count as spaces, and a `#` starts a
//! comment.
//!
//! ```text
//! # imul rax,rcx
//! code=480fafc1 rax=3 rcx=5 20004000=0102
//! => rax=f
//! ```

use std::fmt::{self, Write};
use std::str::FromStr;

use iced_x86::{Decoder, DecoderOptions, FastFormatter};

use crate::layout::{self, Mode};
use crate::state::{BREAKPOINT, Event, Field, Outcome, RESUME, State};
use crate::system::{self, Register};

/// Code, and what it starts with.
#[derive(Clone, PartialEq, Eq)]
pub struct Case {
    /// How it runs.
    pub mode: Mode,
    /// Registers; RIP is the address of the first instruction.
    pub state: State,
    /// System registers that are not as [`crate::guest`] sets them up.
    pub system: Vec<(Register, u64)>,
    /// The instructions, one after the other.
    pub code: Vec<Vec<u8>>,
    /// Memory that is not as [`layout::pristine`] says, or not as the supervisor's is.
    pub patches: Vec<(u64, Vec<u8>)>,
}

impl Case {
    /// No code, and registers as they are at the start of this mode.
    pub fn new(mode: Mode) -> Self {
        Self { mode, state: State::new(mode), system: vec![], code: vec![], patches: vec![] }
    }

    /// Linear address of the first instruction.
    pub fn start(&self) -> u64 {
        self.mode.code_base(self.state.segments[1]).wrapping_add(self.state.rip)
    }

    /// The code in one piece.
    pub fn bytes(&self) -> Vec<u8> {
        self.code.concat()
    }

    /// A decoder of the code.
    pub fn decoder<'a>(&self, bytes: &'a [u8]) -> Decoder<'a> {
        Decoder::with_ip(self.mode.bits(), bytes, self.state.rip, DecoderOptions::NONE)
    }

    /// Memory at the start.
    pub fn memory(&self) -> Box<[u8]> {
        let mut memory: Box<[u8]> = layout::pristine().into();
        let code = (self.start(), self.bytes());
        for (addr, bytes) in self.patches.iter().chain([&code]) {
            for (i, byte) in bytes.iter().enumerate() {
                if let Some(at) = self.mode.offset(addr.wrapping_add(i as u64)) {
                    memory[at] = *byte;
                }
            }
        }
        memory
    }

    /// The instructions in Intel syntax.
    pub fn listing(&self) -> String {
        let bytes = self.bytes();
        let mut out = String::new();
        let mut formatter = FastFormatter::new();
        for i in &mut self.decoder(&bytes) {
            if !out.is_empty() {
                out.push_str("; ");
            }
            formatter.format(&i, &mut out);
        }
        out
    }

    /// Whether a host can run it: user code that asks nothing of a supervisor.
    pub fn is_for_hosts(&self) -> bool {
        matches!(self.mode, Mode::Bits64 | Mode::Bits32)
            && self.system.is_empty()
            && !self.patches.iter().any(|(addr, _)| *addr >= system::SUPERVISOR)
    }

    /// What `event` leaves in RIP and RFLAGS where the case does not say otherwise.
    fn usual(&self, event: Event) -> (u64, u64) {
        // Real mode saves 16 bits of flags, and RF is not among them.
        let resumes = event.is_fault() && self.mode != Mode::Real;
        let flags = if resumes { self.state.rflags | RESUME } else { self.state.rflags };
        let end = self.state.rip.wrapping_add(self.bytes().len() as u64);
        match event {
            _ if event == BREAKPOINT => (end.wrapping_add(1), flags),
            Event::Halt => (end, flags),
            _ => (self.state.rip, flags),
        }
    }

    /// The case and what came of it.
    pub fn with_outcome(&self, outcome: &Outcome) -> String {
        let mut out = format!("{self}\n=>");
        if outcome.event != BREAKPOINT {
            let _ = write!(out, " {}", event_text(outcome.event));
        }
        let mut usual = self.state.clone();
        (usual.rip, usual.rflags) = self.usual(outcome.event);
        for field in Field::all() {
            if field.get(&outcome.state) != field.get(&usual) {
                let _ = write!(out, " {}={}", field.name(), value_text(field, &outcome.state));
            }
        }
        for (addr, bytes) in differences(self.mode, &self.memory(), &outcome.memory) {
            let _ = write!(out, " {addr:x}={}", hex(&bytes));
        }
        out
    }
}

/// Runs of bytes of `after` that differ from `before`, by address.
pub fn differences(mode: Mode, before: &[u8], after: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut out: Vec<(u64, Vec<u8>)> = Vec::new();
    for (at, byte) in after.iter().enumerate().filter(|(at, byte)| before[*at] != **byte) {
        let addr = mode.address(at);
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
    let byte = |i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The flags that have names, by their bits. Bit 1 is always set.
const FLAG_NAMES: [(&str, u64); 20] = [
    ("cf", 1),
    ("pf", 1 << 2),
    ("af", 1 << 4),
    ("zf", 1 << 6),
    ("sf", 1 << 7),
    ("tf", 1 << 8),
    ("if", 1 << 9),
    ("df", 1 << 10),
    ("of", 1 << 11),
    ("iopl1", 1 << 12),
    ("iopl2", 2 << 12),
    ("iopl3", 3 << 12),
    ("nt", 1 << 14),
    ("rf", 1 << 16),
    ("vm", 1 << 17),
    ("ac", 1 << 18),
    ("vif", 1 << 19),
    ("vip", 1 << 20),
    ("id", 1 << 21),
    ("none", 0),
];

const IOPL: u64 = 3 << 12;

fn flags_text(flags: u64) -> String {
    let set = |bits: u64| bits != 0 && flags & if bits & IOPL != 0 { IOPL } else { bits } == bits;
    let names: Vec<_> = FLAG_NAMES.iter().filter(|(_, bits)| set(*bits)).map(|(name, _)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join("+") }
}

fn flags_from(text: &str) -> Option<u64> {
    let bit = |name: &str| FLAG_NAMES.iter().find(|(n, _)| *n == name).map(|(_, bit)| *bit);
    text.split('+').try_fold(2, |flags, name| Some(flags | bit(name)?))
}

fn value_text(field: Field, state: &State) -> String {
    match field {
        Field::Flags => flags_text(state.rflags),
        _ => format!("{:x}", field.get(state)),
    }
}

fn value_from(field: Field, text: &str) -> Option<u128> {
    match field {
        Field::Flags => flags_from(text).map(u128::from),
        _ => u128::from_str_radix(text, 16).ok(),
    }
}

/// Exceptions by the names of the manual (Intel SDM vol. 3, table 7-1).
const VECTORS: [(&str, u8); 20] = [
    ("DE", 0),
    ("DB", 1),
    ("NMI", 2),
    ("BP", 3),
    ("OF", 4),
    ("BR", 5),
    ("UD", 6),
    ("NM", 7),
    ("DF", 8),
    ("TS", 10),
    ("NP", 11),
    ("SS", 12),
    ("GP", 13),
    ("PF", 14),
    ("MF", 16),
    ("AC", 17),
    ("MC", 18),
    ("XM", 19),
    ("VE", 20),
    ("CP", 21),
];

/// Whether exception `vector` has an error code.
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// An event as a case names it.
pub fn event_text(event: Event) -> String {
    match event {
        Event::Halt => "hlt".to_owned(),
        Event::TripleFault => "triple-fault".to_owned(),
        Event::Exception { vector, error, address } => {
            let known = VECTORS.iter().find(|(_, v)| *v == vector);
            let mut out = known.map_or_else(|| format!("INT{vector:x}"), |(name, _)| (*name).to_owned());
            if has_error_code(vector) {
                let _ = write!(out, "({error:x})");
            }
            if vector == 14 {
                let _ = write!(out, "@{address:x}");
            }
            out
        }
    }
}

fn event_from(text: &str) -> Option<Event> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    match text {
        "hlt" => return Some(Event::Halt),
        "triple-fault" => return Some(Event::TripleFault),
        _ => {}
    }
    let (text, address) = text.split_once('@').map_or((text, None), |(t, a)| (t, Some(a)));
    let (name, error) = text.split_once('(').map_or((text, None), |(n, e)| (n, Some(e)));
    let vector = match name.strip_prefix("INT") {
        Some(vector) => number(vector)? as u8,
        None => VECTORS.iter().find(|(n, _)| *n == name)?.1,
    };
    if error.is_some() != has_error_code(vector) || address.is_some() != (vector == 14) {
        return None;
    }
    let error = error.map_or(Some(0), |e| number(e.strip_suffix(')')?))? as u32;
    let address = address.map_or(Some(0), number)?;
    Some(Event::Exception { vector, error, address })
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code: Vec<String> = self.code.iter().map(|bytes| hex(bytes)).collect();
        if self.mode != Mode::Bits64 {
            write!(f, "mode={} ", self.mode.name())?;
        }
        write!(f, "code={}", code.join("."))?;
        let usual = State::new(self.mode);
        for field in Field::all() {
            if field.get(&self.state) != field.get(&usual) {
                write!(f, " {}={}", field.name(), value_text(field, &self.state))?;
            }
        }
        self.system.iter().try_for_each(|(r, value)| write!(f, " {r}={value:x}"))?;
        self.patches.iter().try_for_each(|(addr, bytes)| write!(f, " {addr:x}={}", hex(bytes)))
    }
}

/// What has to come of a case.
#[derive(Clone, PartialEq, Eq)]
pub struct Expected {
    /// Registers, memory and event.
    pub outcome: Outcome,
    /// System registers that matter.
    pub system: Vec<(Register, u64)>,
    /// The supervisor's memory, where it matters.
    pub supervisor: Vec<(u64, Vec<u8>)>,
}

/// A case read from text, and what has to come of it if the text says so.
#[derive(Clone)]
pub struct Test {
    /// The case.
    pub case: Case,
    /// What has to come of it.
    pub expected: Option<Expected>,
    /// Tiers that cannot run it, for a reason that a comment gives: `except=kvm`.
    pub except: Vec<String>,
}

/// A word of a case.
enum Word {
    Field(Field, u128),
    System(Register, u64),
    Memory(u64, Vec<u8>),
    Code(Vec<Vec<u8>>),
}

fn word(name: &str, value: &str) -> Option<Word> {
    if name == "code" {
        return Some(Word::Code(value.split('.').map(from_hex).collect::<Option<_>>()?));
    }
    if let Some(field) = Field::by_name(name) {
        return Some(Word::Field(field, value_from(field, value)?));
    }
    if let Some(register) = Register::by_name(name) {
        return Some(Word::System(register, u64::from_str_radix(value, 16).ok()?));
    }
    Some(Word::Memory(u64::from_str_radix(name, 16).ok()?, from_hex(value)?))
}

impl Test {
    /// The tests of a file: paragraphs, each with the number of its first line.
    ///
    /// # Errors
    /// The first word that says nothing.
    pub fn parse_file(text: &str) -> Result<Vec<(usize, Self)>, String> {
        let mut tests = Vec::new();
        let mut paragraph = String::new();
        let mut start = 0;
        for (number, line) in text.lines().chain([""]).enumerate() {
            if !line.trim().is_empty() {
                let code = line.split('#').next().unwrap_or_default();
                if paragraph.is_empty() && !code.trim().is_empty() {
                    start = number + 1;
                }
                if !code.trim().is_empty() {
                    paragraph.push_str(code);
                    paragraph.push('\n');
                }
            } else if !paragraph.is_empty() {
                tests.push((start, paragraph.parse().map_err(|e| format!("line {start}: {e}"))?));
                paragraph.clear();
            }
        }
        Ok(tests)
    }
}

impl FromStr for Test {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |word: &str| format!("`{word}` says nothing");
        let (inputs, outputs) = text.split_once("=>").map_or((text, None), |(i, o)| (i, Some(o)));
        let mut inputs: Vec<&str> = inputs.split_whitespace().collect();
        let mut mode = Mode::Bits64;
        if let Some(name) = inputs.first().and_then(|w| w.strip_prefix("mode=")) {
            mode = Mode::by_name(name).ok_or_else(|| bad(inputs[0]))?;
            inputs.remove(0);
        }
        let mut case = Case::new(mode);
        let mut except = Vec::new();
        inputs.retain(|w| match w.strip_prefix("except=") {
            Some(tiers) => {
                except.extend(tiers.split('+').map(str::to_owned));
                false
            }
            None => true,
        });
        let parse = |text: &str| {
            text.split_once('=').and_then(|(name, value)| word(name, value)).ok_or_else(|| bad(text))
        };
        for text in inputs {
            match parse(text)? {
                Word::Code(code) => case.code = code,
                Word::Field(field, value) => {
                    field.set(&mut case.state, value);
                    if let Field::Segment(i @ 4..) = field {
                        case.state.bases[i - 4] = mode.base_of(value as u16);
                    }
                }
                Word::System(register, value) => case.system.push((register, value)),
                Word::Memory(addr, bytes) => case.patches.push((addr, bytes)),
            }
        }
        let Some(outputs) = outputs else { return Ok(Self { case, expected: None, except }) };
        let mut outputs: Vec<&str> = outputs.split_whitespace().collect();
        let mut event = BREAKPOINT;
        if let Some(name) = outputs.first().filter(|w| !w.contains('=')) {
            event = event_from(name).ok_or_else(|| bad(name))?;
            outputs.remove(0);
        }
        let mut outcome = Outcome { state: case.state.clone(), memory: case.memory(), event, pointers: true };
        (outcome.state.rip, outcome.state.rflags) = case.usual(event);
        let mut expected = Expected { outcome, system: vec![], supervisor: vec![] };
        for text in outputs {
            match parse(text)? {
                Word::Code(_) => return Err(bad(text)),
                Word::Field(field, value) => field.set(&mut expected.outcome.state, value),
                Word::System(register, value) => expected.system.push((register, value)),
                Word::Memory(addr, bytes) if addr >= system::SUPERVISOR => {
                    expected.supervisor.push((addr, bytes));
                }
                Word::Memory(addr, bytes) => {
                    for (i, byte) in bytes.into_iter().enumerate() {
                        let at = mode.offset(addr.wrapping_add(i as u64)).ok_or_else(|| bad(text))?;
                        expected.outcome.memory[at] = byte;
                    }
                }
            }
        }
        Ok(Self { case, expected: Some(expected), except })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_comes_back() {
        for text in [
            "code=480fafc1.90 rip=20001101 rax=3 flags=pf+zf+if fcw=27f st0=3fff8000000000000000 xmm15=1 20004000=0102ff",
            "mode=32 code=90 ds=0",
            "mode=ring0 code=f4 flags=iopl2+nt cr4=620 msr_c0000081=12 ffff800000008000=00",
            "mode=real code=f4 rip=200 rsp=1000 ds=4500 44000=0102",
            "mode=protected code=90 ss=27 20004000=00",
        ] {
            let parsed: Test = text.parse().unwrap();
            assert_eq!(parsed.case.to_string(), text);
            assert!(parsed.expected.is_none());
        }
    }

    #[test]
    fn an_outcome_comes_back() {
        let text = "code=90\n=> PF(6)@20003ff8 rip=20001101 rax=7 mxcsr=1fa0 20005000=00";
        let parsed: Test = text.parse().unwrap();
        let outcome = parsed.expected.unwrap().outcome;
        assert_eq!(outcome.event, Event::Exception { vector: 14, error: 6, address: 0x2000_3ff8 });
        assert_eq!(outcome.state.rflags, 0x1_0202);
        assert_eq!(parsed.case.with_outcome(&outcome), text);
    }

    #[test]
    fn what_is_usual_need_not_be_said() {
        let parsed: Test = "code=480fafc1 rax=3 => rax=f".parse().unwrap();
        let outcome = parsed.expected.unwrap().outcome;
        assert_eq!((outcome.event, outcome.state.rip), (BREAKPOINT, layout::START + 5));
        let parsed: Test = "mode=ring0 code=0f20e0.f4 => hlt rax=1 cr4=2".parse().unwrap();
        let expected = parsed.expected.unwrap();
        assert_eq!((expected.outcome.event, expected.outcome.state.rip), (Event::Halt, layout::START + 4));
        assert_eq!(expected.system, [(Register::Cr4, 2)]);
    }

    #[test]
    fn files_are_paragraphs() {
        let tests =
            Test::parse_file("# about\n\n# one\ncode=90 # nop\n=> rax=1\n\n\ncode=f4 => GP(0)\n").unwrap();
        assert_eq!(tests.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [4, 8]);
        assert_eq!(tests[1].1.expected.as_ref().unwrap().outcome.event, Event::exception(13, 0));
        assert_eq!(Test::parse_file("code=90\n\nrax").err().unwrap(), "line 3: `rax` says nothing");
    }

    #[test]
    fn nonsense_is_refused() {
        let wrong =
            ["rax", "rax=xyz", "code=9", "zz=00", "=> GP", "=> UD(0)", "=> PF(0)", "20004000=0", "mode=16"];
        for text in wrong {
            assert!(text.parse::<Test>().is_err(), "{text}");
        }
    }
}
