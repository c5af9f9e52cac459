//! Many cases on all cores, and what came of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use iced_x86::Code;

use crate::bench::{Bench, Mismatch, Verdict};
use crate::case::Case;
use crate::generate::Generator;
use crate::host;
use crate::layout::Mode;
use crate::state::BREAKPOINT;

/// Cases that a worker takes at a time.
const CHUNK: u64 = 64;

/// Kinds of mismatch that are made small; further ones are only counted.
const KINDS: usize = 100;

/// Which cases to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Seed of all of them.
    pub seed: u64,
    /// Number of the first.
    pub start: u64,
    /// How many.
    pub cases: u64,
    /// Number of workers, each with a processor of its own where there are enough.
    pub workers: usize,
}

/// What came of them.
#[derive(Default)]
pub struct Tally {
    /// Cases by the forms of their instructions.
    pub forms: BTreeMap<(Mode, Code), u64>,
    /// Cases compared.
    pub compared: u64,
    /// Instructions in them.
    pub instructions: u64,
    /// Cases that ended in an exception other than the breakpoint after the last instruction.
    pub faults: u64,
    /// Cases that could not be compared.
    pub skipped: u64,
    /// Those of them that do not end; but for [`Self::unsaid`], the others call the kernel.
    pub endless: u64,
    /// Cases that differ by choice of the host's maker, by what they are about.
    pub choices: BTreeMap<&'static str, u64>,
    /// Cases that could not be compared because of what their jumps and stores made them run, by why.
    pub unsaid: BTreeMap<&'static str, u64>,
    /// Mismatches, by what they are about.
    pub findings: BTreeMap<String, Finding>,
    /// Mismatches of further kinds.
    pub others: u64,
}

/// Mismatches of one kind.
pub struct Finding {
    /// How many.
    pub count: u64,
    /// The smallest case of the first, with what has to come of it.
    pub case: String,
    /// Its instructions.
    pub listing: String,
    /// What differs.
    pub differences: String,
    /// Number of the first case.
    pub index: u64,
}

impl Tally {
    /// All mismatches.
    pub fn mismatches(&self) -> u64 {
        self.others + self.findings.values().map(|f| f.count).sum::<u64>()
    }

    fn add(&mut self, other: Self) {
        for (form, count) in other.forms {
            *self.forms.entry(form).or_default() += count;
        }
        for (what, count) in other.choices {
            *self.choices.entry(what).or_default() += count;
        }
        for (why, count) in other.unsaid {
            *self.unsaid.entry(why).or_default() += count;
        }
        self.compared += other.compared;
        self.instructions += other.instructions;
        self.faults += other.faults;
        self.skipped += other.skipped;
        self.endless += other.endless;
    }
}

struct Campaign<'a> {
    generator: &'a Generator,
    plan: Plan,
    next: AtomicU64,
    /// Findings, and the count of others.
    found: Mutex<(BTreeMap<String, Finding>, u64)>,
}

/// Runs the cases of `plan`, and calls `progress` now and then with how many are done and how many kinds of mismatch
/// there are.
///
/// # Errors
/// Why the host cannot be used.
pub fn run(
    generator: &Generator,
    plan: Plan,
    every: Duration,
    mut progress: impl FnMut(u64, usize),
) -> Result<Tally, String> {
    let shared = Campaign { generator, plan, next: AtomicU64::new(0), found: Mutex::default() };
    let campaign = &shared;
    let mut tally = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..plan.workers.max(1)).map(|n| scope.spawn(move || campaign.work(n))).collect();
        let mut told = Instant::now();
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::park_timeout(Duration::from_millis(20));
            if told.elapsed() >= every {
                told = Instant::now();
                progress(campaign.next.load(Ordering::Relaxed).min(plan.cases), campaign.kinds());
            }
        }
        let mut all = Tally::default();
        for worker in workers {
            all.add(worker.join().map_err(|_| "a worker panicked".to_owned())??);
        }
        Ok::<_, String>(all)
    })?;
    (tally.findings, tally.others) = shared.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(tally)
}

impl Campaign<'_> {
    fn kinds(&self) -> usize {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).0.len()
    }

    fn work(&self, number: usize) -> Result<Tally, String> {
        let mut bench = Bench::settled(number)?;
        let mut tally = Tally::default();
        loop {
            let first = self.next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= self.plan.cases {
                return Ok(tally);
            }
            for index in first..(first + CHUNK).min(self.plan.cases) {
                self.one(&mut bench, &mut tally, self.plan.start + index);
            }
        }
    }

    fn one(&self, bench: &mut Bench, tally: &mut Tally, index: u64) {
        let case = self.generator.case(self.plan.seed, index);
        if case.code.is_empty() {
            tally.skipped += 1;
            return;
        }
        match bench.run(&case) {
            Verdict::Skipped(why) => {
                tally.skipped += 1;
                tally.endless += u64::from(why == host::Failure::Endless);
                return;
            }
            Verdict::Unsaid(why) => {
                tally.skipped += 1;
                *tally.unsaid.entry(why).or_default() += 1;
                return;
            }
            Verdict::Same(outcome) => {
                let end = case.state.rip.wrapping_add(case.bytes().len() as u64 + 1);
                tally.faults += u64::from(outcome.event != BREAKPOINT || outcome.state.rip != end);
            }
            Verdict::Choice(what) => *tally.choices.entry(what).or_default() += 1,
            Verdict::Different(mismatch) => self.note(bench, &case, &mismatch, index),
        }
        tally.compared += 1;
        tally.instructions += case.code.len() as u64;
        for form in forms(&case) {
            *tally.forms.entry((case.mode, form)).or_default() += 1;
        }
    }

    fn note(&self, bench: &mut Bench, case: &Case, mismatch: &Mismatch, index: u64) {
        let kind = |form: Code, what: &str| format!("{} {form:?} {what} {}", case.mode.name(), mismatch.path);
        let what = &mismatch.differences[0].what;
        {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            // A kind that is known by the form of one of its instructions needs no second reproducer.
            for form in forms(case) {
                if let Some(finding) = found.0.get_mut(&kind(form, what)) {
                    finding.count += 1;
                    return;
                }
            }
            if found.0.len() >= KINDS {
                found.1 += 1;
                return;
            }
        }
        let small = bench.shrink(case, mismatch);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        // What does not repeat is told as it was.
        let again = bench.run(&small);
        let (small, mismatch, repeats) = match &again {
            Verdict::Different(again) => (&small, &**again, ""),
            _ => (case, mismatch, " once"),
        };
        let last = forms(small).last().copied().unwrap_or_default();
        let differences: Vec<String> =
            mismatch.differences.iter().map(|d| format!("{}: {}", d.what, d.how)).collect();
        let finding = found.0.entry(kind(last, what) + repeats).or_insert_with(|| Finding {
            count: 0,
            case: small.with_outcome(&mismatch.expected),
            listing: small.listing(),
            differences: differences.join("; "),
            index,
        });
        finding.count += 1;
    }
}

/// The forms of a case's instructions.
fn forms(case: &Case) -> Vec<Code> {
    let bytes = case.bytes();
    case.decoder(&bytes).into_iter().map(|i| i.code()).collect()
}
