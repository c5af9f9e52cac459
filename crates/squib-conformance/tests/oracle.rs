//! A few thousand cases against the host CPU. `cargo run --release -p squib-conformance -- --help` runs more.
#![allow(clippy::print_stderr, reason = "says what is skipped")]

use squib_conformance::campaign::{Bench, Tally};
use squib_conformance::forms;
use squib_conformance::generate::Generator;

const SEED: u64 = 0x5eed;
const CASES: u64 = 4000;

#[test]
fn the_soft_cpu_agrees_with_the_host() {
    let mut bench = match Bench::new() {
        Ok(bench) => bench,
        Err(why) => return eprintln!("SKIPPED: the soft CPU against the host's, because {why}"),
    };
    let generator = Generator::new(forms::all());
    let mut tally = Tally::default();
    for index in 0..CASES {
        tally.run(&mut bench, &generator, SEED, index);
    }
    assert!(tally.compared > CASES * 9 / 10, "only {} cases could be compared", tally.compared);
    assert!(tally.faults > 0 && tally.forms.len() > generator.forms().len() * 9 / 10);
    for (what, report) in &tally.mismatches {
        eprintln!("{what}: {}\n  {}\n  {}", report.listing, report.differences, report.line);
    }
    assert!(tally.mismatches.is_empty(), "the mismatches are listed above");
}
