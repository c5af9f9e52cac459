//! One case on the host and on squib's CPU.

use squib_soft::{CpuModel, SoftBackend};

use crate::case::Case;
use crate::compare::{Difference, compare};
use crate::guest::{self, Guest};
use crate::host::{self, Host};
use crate::shrink::shrink;
use crate::state::Outcome;
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
        Ok(Self { host: Host::new()?, soft: soft_guests()?, amd: host::is_amd() })
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
        for (path, soft) in PATHS.into_iter().zip(&mut self.soft) {
            let got = first.take().unwrap_or_else(|| soft.run_within(case, LONG));
            let differences = match got {
                Ok(got) => {
                    let differences = compare(case, &expected, &got);
                    let amds = || vendor::amds_choice(case, &expected, &got, &differences);
                    if let Some(what) = self.amd.then(amds).flatten() {
                        choice = Some(what);
                        continue;
                    }
                    differences
                }
                Err(guest::Failure::Endless) => vec![exit("it does not end")],
                Err(guest::Failure::Broken(why)) => vec![exit(&why)],
            };
            if !differences.is_empty() {
                return Verdict::Different(Box::new(Mismatch { expected, path, differences }));
            }
        }
        choice.map_or_else(|| Verdict::Same(Box::new(expected)), Verdict::Choice)
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

fn exit(how: &str) -> Difference {
    Difference { what: "exit".to_owned(), how: how.to_owned() }
}
