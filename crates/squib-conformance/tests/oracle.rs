//! Random cases against the host CPU, or what a host has said about others. `npm run conformance` runs more.
#![allow(clippy::print_stderr, reason = "says what is skipped")]

use std::thread;
use std::time::Duration;

use squib_conformance::bench::Bench;
use squib_conformance::campaign::{self, Plan};
use squib_conformance::features::Features;
use squib_conformance::generate::Generator;
use squib_conformance::{forms, vectors};
use squib_soft::CpuModel;

const SEED: u64 = 0x5eed;

/// Cases of each form alone, and as many sequences: half a minute on two processors.
const PER_FORM: u64 = 8;

#[test]
fn the_soft_cpu_agrees_with_the_host() {
    if let Err(why) = Bench::new() {
        return eprintln!("SKIPPED: the soft CPU against the host's, because {why}");
    }
    let features = Features::new(CpuModel::max(), true).unwrap();
    let covered = forms::all(&features);
    let generator = Generator::new(covered.clone(), &covered);
    let plan = Plan {
        seed: SEED,
        start: 0,
        cases: PER_FORM * 2 * covered.len() as u64,
        workers: thread::available_parallelism().map_or(1, usize::from),
    };
    let tally = campaign::run(&generator, plan, Duration::from_secs(60), |_, _| {}).unwrap();
    assert!(tally.compared > plan.cases * 9 / 10, "only {} cases could be compared", tally.compared);
    assert!(tally.faults > 0 && tally.forms.len() >= covered.len() * 99 / 100, "{} forms", tally.forms.len());
    for (what, count) in &tally.choices {
        eprintln!("{count} cases differ by choice of the host's maker: {what}");
    }
    for (kind, finding) in &tally.findings {
        eprintln!("{kind}: {}\n{}\n{}", finding.listing, finding.differences, finding.case);
    }
    assert_eq!(tally.mismatches(), 0, "they are listed above");
}

#[test]
fn the_soft_cpu_does_what_a_host_once_did() {
    let tests = vectors::unpack(vectors::RECORDED).unwrap();
    assert!(tests.len() > 5000, "only {} cases", tests.len());
    let failed = vectors::play(&tests).unwrap();
    assert!(failed.is_empty(), "{} of {} fail:\n{}", failed.len(), tests.len(), failed.join("\n\n"));
}
