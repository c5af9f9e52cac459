//! One case on the host and on squib's CPU.

use iced_x86::Instruction;
use squib_soft::{CpuModel, SoftBackend};

use crate::case::Case;
use crate::compare::{Difference, compare};
use crate::features::Features;
use crate::forms::{self, Why};
use crate::guest::{self, Guest};
use crate::host::{self, Host};
use crate::layout::Mode;
use crate::shrink::shrink;
use crate::state::Outcome;
use crate::trace::Trace;
use crate::vendor;

/// Attempts at making a failing case smaller.
const SHRINKING: usize = 3000;

/// Instructions that are enough for whatever the host does in a moment.
const LONG: u64 = 100_000_000;

/// The names of the two ways in which the soft backend runs code.
pub const PATHS: [&str; 2] = ["blocks", "plain"];

/// A guest for each of [`PATHS`].
///
/// # Errors
/// The backend's.
pub fn soft_guests() -> Result<[Guest; 2], String> {
    let model = CpuModel::max();
    let guest = |backend: &SoftBackend| Guest::new(backend).map_err(|e| e.to_string());
    Ok([guest(&SoftBackend::new(model))?, guest(&SoftBackend::plain(model))?])
}

/// The host, and the soft backend with and without its short cuts.
pub struct Bench {
    host: Host,
    features: Features,
    soft: [Guest; 2],
    /// Whether the host's processor is AMD's.
    amd: bool,
}

/// What a case came to.
pub enum Verdict {
    /// All agree; the outcome.
    Same(Box<Outcome>),
    /// They do not, by choice of the host's maker: which.
    Choice(&'static str),
    /// They do not.
    Different(Box<Mismatch>),
    /// The host cannot say.
    Skipped(host::Failure),
    /// What it says is not its processor's, or means nothing: why.
    Unsaid(&'static str),
}

/// A mismatch.
pub struct Mismatch {
    /// What the host made of it.
    pub expected: Outcome,
    /// Which path of the soft backend differs.
    pub path: &'static str,
    /// In what.
    pub differences: Vec<Difference>,
}

impl Bench {
    /// Starts all three.
    ///
    /// # Errors
    /// Why the host cannot be used.
    pub fn new() -> Result<Self, String> {
        let features = Features::new(CpuModel::max(), true)?;
        Ok(Self { host: Host::new()?, features, soft: soft_guests()?, amd: host::is_amd() })
    }

    /// Starts all three on one of the processors that this thread may use, and keeps the thread there.
    ///
    /// # Errors
    /// Why the host cannot be used.
    pub fn settled(number: usize) -> Result<Self, String> {
        // The host's process is forked from here and stays on the same processor: handing the turn over is then a
        // switch of context, not an interrupt to another processor.
        let limit = host::settle(number);
        let mut bench = Self::new()?;
        for guest in &mut bench.soft {
            guest.number_processor(limit).map_err(|e| e.to_string())?;
        }
        Ok(bench)
    }

    /// Runs `case` on each.
    pub fn run(&mut self, case: &Case) -> Verdict {
        // The interpreter counts instructions, so it tells at once, and for nothing, that a case is endless.
        let first = self.soft[0].run(case);
        let long = matches!(first, Err(guest::Failure::Endless));
        let expected = if long { self.host.run_briefly(case) } else { self.host.run(case) };
        let expected = match expected {
            Ok(outcome) => outcome,
            Err(failure) => return Verdict::Skipped(failure),
        };
        let mut first = Some(first).filter(|_| !long);
        let mut choice = None;
        for (number, path) in PATHS.into_iter().enumerate() {
            let got = first.take().unwrap_or_else(|| self.soft[number].run_within(case, LONG));
            let verdict = match got {
                Ok(got) => self.judge(case, &expected, got, path),
                Err(guest::Failure::Endless) => different(&expected, path, vec![exit("it does not end")]),
                Err(guest::Failure::Broken(why)) => different(&expected, path, vec![exit(&why)]),
            };
            match verdict {
                Verdict::Same(_) => {}
                Verdict::Choice(what) => choice = Some(what),
                verdict => return verdict,
            }
        }
        choice.map_or_else(|| Verdict::Same(Box::new(expected)), Verdict::Choice)
    }

    /// What `got` of one path is beside what the host made of `case`.
    fn judge(&mut self, case: &Case, expected: &Outcome, got: Outcome, path: &'static str) -> Verdict {
        // Most cases need no trace, which takes time.
        if compare(case, &Trace::default(), expected, &got).is_empty() {
            return Verdict::Same(Box::new(got));
        }
        let [_, plain] = &mut self.soft;
        let trace = match plain.trace(case) {
            Ok(trace) => trace,
            Err(guest::Failure::Endless) => return Verdict::Unsaid("it runs too long to be followed"),
            Err(guest::Failure::Broken(why)) => return different(expected, path, vec![exit(&why)]),
        };
        let differences = compare(case, &trace, expected, &got);
        if differences.is_empty() {
            return Verdict::Same(Box::new(got));
        }
        if let Some(why) = unsaid(case.mode, &trace, &self.features) {
            return Verdict::Unsaid(why);
        }
        let amds = || vendor::amds_choice(case, &trace, expected, &got, &differences);
        match self.amd.then(amds).flatten() {
            Some(what) => Verdict::Choice(what),
            None => different(expected, path, differences),
        }
    }

    /// What the host makes of `case`.
    ///
    /// # Errors
    /// Why it does not say.
    pub fn host(&mut self, case: &Case) -> Result<Outcome, host::Failure> {
        self.host.run(case)
    }

    /// A smaller case that fails in the same way.
    pub fn shrink(&mut self, case: &Case, mismatch: &Mismatch) -> Case {
        let what = &mismatch.differences[0].what;
        let mut attempts = 0;
        shrink(case, |smaller| {
            attempts += 1;
            attempts < SHRINKING
                && matches!(self.run(smaller), Verdict::Different(m)
                    if m.path == mismatch.path && m.differences[0].what == *what)
        })
    }
}

/// Why a host says nothing about what comes after these instructions: code that is reached by a jump into the middle of an
/// instruction, or that the case writes, may be what cases are not made of.
fn unsaid(mode: Mode, trace: &Trace, features: &Features) -> Option<&'static str> {
    let left_out = |i: &Instruction| forms::status(i.code(), mode, features)?.err().map(Why::text);
    let undefined = "it reads a flag that the manuals leave undefined";
    trace.instructions().iter().find_map(left_out).or(trace.undefined().read.then_some(undefined))
}

fn different(expected: &Outcome, path: &'static str, differences: Vec<Difference>) -> Verdict {
    Verdict::Different(Box::new(Mismatch { expected: expected.clone(), path, differences }))
}

fn exit(how: &str) -> Difference {
    Difference { what: "exit".to_owned(), how: how.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Test;

    fn unsaid_of(case: &str) -> Option<&'static str> {
        let Test { case, .. } = case.parse().unwrap();
        let [_, mut plain] = soft_guests().unwrap();
        let features = Features::new(CpuModel::max(), false).unwrap();
        unsaid(case.mode, &plain.trace(&case).unwrap(), &features)
    }

    #[test]
    fn the_kernel_emulates_instructions_that_lie_beyond_a_limit() {
        // loopne to the last byte within the limit, where SLDT is: #GP(0), which the kernel takes for UMIP's.
        let why = unsaid_of("mode=32 code=6667e003.660f8f0f00 rip=17f8 cs=5f");
        assert_eq!(why, Some(Why::Emulated.text()));
        assert_eq!(unsaid_of("mode=32 code=6667e003.660f8f0f00 rip=17f8 cs=5f rcx=1"), None, "no jump");
    }

    #[test]
    fn an_undefined_flag_that_is_read_says_nothing() {
        // bsr eax,ecx; mov byte ptr [rip],9ch; nop, which has become PUSHFQ.
        assert!(unsaid_of("code=0fbdc1.c605000000009c.90 rcx=3").is_some());
        assert_eq!(unsaid_of("code=0fbdc1.c6050000000098.90 rcx=3"), None);
    }
}
