//! The recorded cases, on the soft backend everywhere, and on the host where it can say.
#![allow(clippy::print_stderr, reason = "says what is skipped")]

use squib_conformance::case::Line;
use squib_conformance::compare::compare;
use squib_conformance::host::Host;
use squib_conformance::soft::Soft;
use squib_soft::{CpuModel, SoftBackend};

fn lines() -> Vec<Line> {
    let text = include_str!("../cases/found.txt");
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines.map(|l| l.parse().unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
}

fn check(backend: &SoftBackend) {
    let mut soft = Soft::new(backend).unwrap();
    for Line { case, expected } in lines() {
        let expected = expected.expect("every recorded case has an outcome");
        let got = soft.run(&case).unwrap_or_else(|e| panic!("{case}: {e:?}"));
        let differences = compare(&case, &expected, &got);
        assert!(differences.is_empty(), "{}\n{case}\n{differences:?}", case.listing());
    }
}

#[test]
fn the_specialised_paths_give_what_is_recorded() {
    check(&SoftBackend::new(CpuModel::v1()));
}

#[test]
fn the_plain_path_gives_what_is_recorded() {
    check(&SoftBackend::plain(CpuModel::v1()));
}

#[test]
fn the_host_gives_what_is_recorded() {
    let mut host = match Host::new() {
        Ok(host) => host,
        Err(why) => return eprintln!("SKIPPED: the recorded cases on the host, because {why}"),
    };
    for Line { case, expected } in lines() {
        let expected = expected.expect("every recorded case has an outcome");
        let got = host.run(&case).unwrap_or_else(|e| panic!("{case}: {e:?}"));
        let differences = compare(&case, &expected, &got);
        assert!(differences.is_empty(), "{}\n{case}\n{differences:?}", case.listing());
    }
}
