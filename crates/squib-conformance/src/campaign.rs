//! Many cases, and what came of them.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions};
use squib_soft::{CpuModel, SoftBackend};

use crate::case::Case;
use crate::compare::{Difference, compare};
use crate::generate::Generator;
use crate::host::{self, Host};
use crate::shrink::shrink;
use crate::soft::{self, Soft};
use crate::state::Outcome;

/// The vector of #AC.
const ALIGNMENT: u8 = 17;

/// Attempts at making a failing case smaller.
const SHRINKING: usize = 3000;

/// The host, and the soft backend with and without its short cuts.
pub struct Bench {
    host: Host,
    fast: Soft,
    plain: Soft,
}

/// What a case came to.
pub enum Verdict {
    /// All agree; the outcome.
    Same(Box<Outcome>),
    /// They do not.
    Different(Box<Mismatch>),
    /// It is about what the soft backend does not claim to do.
    Unsupported,
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
        let host = Host::new()?;
        let soft = |backend: &SoftBackend| Soft::new(backend).map_err(|e| e.to_string());
        Ok(Self {
            host,
            fast: soft(&SoftBackend::new(CpuModel::v1()))?,
            plain: soft(&SoftBackend::plain(CpuModel::v1()))?,
        })
    }

    /// Runs `case` on each.
    pub fn run(&mut self, case: &Case) -> Verdict {
        let expected = match self.host.run(case) {
            // Squib's CPU does not check alignment.
            Ok(outcome) if outcome.event.vector == ALIGNMENT => return Verdict::Unsupported,
            Ok(outcome) => outcome,
            Err(failure) => return Verdict::Skipped(failure),
        };
        for (path, soft) in [("specialised", &mut self.fast), ("plain", &mut self.plain)] {
            let differences = match soft.run(case) {
                Ok(got) => compare(case, &expected, &got),
                // The host does in a moment what would take the interpreter minutes.
                Err(soft::Failure::Endless) => return Verdict::Skipped(host::Failure::Endless),
                Err(soft::Failure::Broken(why)) => vec![Difference { what: "exit".to_owned(), how: why }],
            };
            if !differences.is_empty() {
                return Verdict::Different(Box::new(Mismatch { expected, path, differences }));
            }
        }
        Verdict::Same(Box::new(expected))
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

/// What has come of cases so far.
#[derive(Default)]
pub struct Tally {
    /// Cases by form of their first instruction.
    pub forms: BTreeMap<String, u64>,
    /// Cases compared.
    pub compared: u64,
    /// Instructions in them.
    pub instructions: u64,
    /// Cases that ended in an exception other than the breakpoint after the last instruction.
    pub faults: u64,
    /// Cases that the host could not run.
    pub skipped: u64,
    /// Reproducers of mismatches, by what they are about.
    pub mismatches: BTreeMap<String, Report>,
}

/// Mismatches of one kind.
pub struct Report {
    /// How many.
    pub count: u64,
    /// The smallest case of the first, as a line that can be run again.
    pub line: String,
    /// Its instructions.
    pub listing: String,
    /// What differs.
    pub differences: String,
    /// Number of the first case.
    pub index: u64,
}

impl Tally {
    /// Runs case `index`, and notes what comes of it.
    pub fn run(&mut self, bench: &mut Bench, generator: &Generator, seed: u64, index: u64) {
        let case = generator.case(seed, index);
        if case.code.is_empty() {
            self.skipped += 1;
            return;
        }
        match bench.run(&case) {
            Verdict::Skipped(_) | Verdict::Unsupported => {
                self.skipped += 1;
                return;
            }
            Verdict::Same(outcome) => {
                let end = case.state.rip + case.bytes().len() as u64 + 1;
                if outcome.event.vector != 3 || outcome.state.rip != end {
                    self.faults += 1;
                }
            }
            Verdict::Different(mismatch) => self.note(bench, &case, &mismatch, index),
        }
        self.compared += 1;
        self.instructions += case.code.len() as u64;
        for name in names(&case) {
            *self.forms.entry(name).or_default() += 1;
        }
    }

    fn note(&mut self, bench: &mut Bench, case: &Case, mismatch: &Mismatch, index: u64) {
        let what = &mismatch.differences[0].what;
        // A kind that is known by the form of one of its instructions needs no second reproducer.
        let known = names(case).into_iter().map(|n| format!("{n} {what} {}", mismatch.path));
        for key in known {
            if let Some(report) = self.mismatches.get_mut(&key) {
                report.count += 1;
                return;
            }
        }
        let small = bench.shrink(case, mismatch);
        let Verdict::Different(again) = bench.run(&small) else { return };
        let last = names(&small).pop().unwrap_or_default();
        let key = format!("{last} {what} {}", mismatch.path);
        let differences: Vec<String> =
            again.differences.iter().map(|d| format!("{}: {}", d.what, d.how)).collect();
        let report = self.mismatches.entry(key).or_insert_with(|| Report {
            count: 0,
            line: small.with_outcome(&again.expected),
            listing: small.listing(),
            differences: differences.join("; "),
            index,
        });
        report.count += 1;
    }
}

/// The forms of a case's instructions.
fn names(case: &Case) -> Vec<String> {
    let bytes = case.bytes();
    let decoder = Decoder::with_ip(64, &bytes, case.state.rip, DecoderOptions::NONE);
    decoder.into_iter().map(|i| format!("{:?}", i.code())).collect()
}
