//! The test files on every tier of this machine.
#![allow(clippy::print_stderr, reason = "says what is skipped")]

use squib_conformance::case::Test;
use squib_conformance::suite::{self, Tiers};

#[test]
fn every_tier_does_what_the_test_files_say() {
    let mut tiers = Tiers::new().unwrap();
    for missing in &tiers.missing {
        eprintln!("SKIPPED: the test files on {missing}");
    }
    let (mut tests, mut wrong) = (0, Vec::new());
    for (file, text) in suite::files(&suite::folder()).unwrap() {
        for (line, test) in Test::parse_file(&text).unwrap_or_else(|e| panic!("{file}: {e}")) {
            tests += 1;
            let verdict = tiers.check(&test);
            for note in verdict.notes {
                eprintln!("SKIPPED: {file}:{line}: {note}");
            }
            for failed in verdict.failed {
                wrong.push(format!(
                    "{file}:{line} on {}: {}: {:?}",
                    failed.tier,
                    test.case.listing(),
                    failed.differences
                ));
            }
        }
    }
    assert!(tests > 200, "only {tests} tests");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
