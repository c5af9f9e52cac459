//! The test files, on every tier that can run them.

use std::path::{Path, PathBuf};
use std::{env, fs};

use squib_kvm::KvmBackend;

use crate::bench::{PATHS, soft_guests};
use crate::case::{Case, Expected, Test};
use crate::compare::{Difference, compare};
use crate::guest::{Failure, Guest};
use crate::host::{Host, is_amd};
use crate::layout::Mode;
use crate::state::{Event, Outcome};
use crate::system::Register;
use crate::trace::Trace;

/// What can run tests here.
pub struct Tiers {
    guests: Vec<(&'static str, Guest)>,
    /// Says what a test runs.
    tracer: Guest,
    host: Option<Host>,
    /// Whether KVM does not run supervisor code as it is.
    emulates: bool,
    /// Whether the host's processor, and so KVM's, is AMD's.
    amd: bool,
    /// Tiers that are missing here, and why.
    pub missing: Vec<String>,
}

/// What came of a test.
#[derive(Default)]
pub struct Verdict {
    /// On how many tiers it ran.
    pub ran: usize,
    /// Where it failed.
    pub failed: Vec<Failed>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// How a test failed.
pub struct Failed {
    /// On which tier.
    pub tier: &'static str,
    /// In what.
    pub differences: Vec<Difference>,
}

/// Where the test files are.
pub fn folder() -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| built_from.to_owned(), PathBuf::from).join("cases")
}

/// The files of a folder with their text, in order.
///
/// # Errors
/// What cannot be read.
pub fn files(folder: &Path) -> Result<Vec<(String, String)>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "txt") {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            files.push((name, fs::read_to_string(&path).map_err(failed)?));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether supervisor code runs on the processor itself: FLD1 with CR0.TS set is #NM.
fn runs_supervisors(guest: &mut Guest) -> bool {
    let mut case = Case::new(Mode::Ring0);
    case.code = vec![vec![0xd9, 0xe8]];
    case.system = vec![(Register::Cr0, 0x8005_003b)];
    guest.run(&case).is_ok_and(|outcome| outcome.event == Event::exception(7, 0))
}

impl Tiers {
    /// All that this machine has.
    ///
    /// # Errors
    /// The soft backend's.
    pub fn new() -> Result<Self, String> {
        let mut missing = Vec::new();
        let mut guests: Vec<_> = PATHS.into_iter().zip(soft_guests()?).collect();
        let mut emulates = false;
        match KvmBackend::open().and_then(|backend| Guest::new(&backend)) {
            Ok(mut guest) => {
                emulates = !runs_supervisors(&mut guest);
                if emulates {
                    missing.push(
                        "kvm in ring 0, because this KVM emulates supervisor code and knows few instructions"
                            .to_owned(),
                    );
                }
                guests.push(("kvm", guest));
            }
            Err(e) => missing.push(format!("kvm, because {e}")),
        }
        let host = Host::new().map_err(|e| missing.push(format!("the host's processor, because {e}"))).ok();
        let [_, tracer] = soft_guests()?;
        Ok(Self { guests, tracer, host, emulates, amd: is_amd(), missing })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.guests.len() + usize::from(self.host.is_some())
    }

    /// What each guest makes of `case`.
    pub fn outcomes(&mut self, case: &Case) -> Vec<(&'static str, Result<Outcome, Failure>)> {
        self.guests.iter_mut().map(|(tier, guest)| (*tier, guest.run(case))).collect()
    }

    /// Runs `test` on each.
    ///
    /// A test that KVM contradicts is wrong, unless the processor that KVM runs on says the same as the test: some KVMs emulate instructions.
    pub fn check(&mut self, test: &Test) -> Verdict {
        let mut verdict = Verdict::default();
        let Some(expected) = &test.expected else {
            let differences = vec![note("outcome", "the test does not say what has to come of it")];
            verdict.failed.push(Failed { tier: "none", differences });
            return verdict;
        };
        let trace = match self.tracer.trace(&test.case) {
            Ok(trace) => trace,
            Err(e) => {
                verdict
                    .failed
                    .push(Failed { tier: "plain", differences: vec![note("trace", &format!("{e:?}"))] });
                return verdict;
            }
        };
        let amd = self.amd;
        let excepted = |tier: &str| {
            let real = matches!(tier, "host" | "kvm");
            test.except.iter().any(|t| t == tier || t == "amd" && amd && real)
        };
        let mut on_host = None;
        if let Some(host) = self.host.as_mut().filter(|_| test.case.is_for_hosts() && !excepted("host")) {
            let differences = match host.run(&test.case) {
                Ok(got) => compare(&test.case, &trace, &expected.outcome, &got),
                Err(e) => vec![note("exit", &format!("{e:?}"))],
            };
            on_host = Some(differences.is_empty());
            verdict.judge("host", differences);
        }
        for (tier, guest) in &mut self.guests {
            if *tier == "kvm" && self.emulates && !test.case.is_for_hosts() {
                continue;
            }
            if excepted(tier) {
                verdict.notes.push(format!("{tier} cannot run it, see its comment"));
                continue;
            }
            let differences = check_guest(guest, test, &trace, expected);
            if !differences.is_empty() && *tier == "kvm" && (on_host == Some(true) || self.emulates) {
                verdict.notes.push("this kvm does something else than processors do".to_owned());
                continue;
            }
            verdict.judge(tier, differences);
        }
        verdict
    }
}

impl Verdict {
    fn judge(&mut self, tier: &'static str, differences: Vec<Difference>) {
        self.ran += 1;
        if !differences.is_empty() {
            self.failed.push(Failed { tier, differences });
        }
    }
}

fn note(what: &str, how: &str) -> Difference {
    Difference { what: what.to_owned(), how: how.to_owned() }
}

fn check_guest(guest: &mut Guest, test: &Test, trace: &Trace, expected: &Expected) -> Vec<Difference> {
    let got = match guest.run(&test.case) {
        Ok(got) => got,
        Err(Failure::Endless) => return vec![note("exit", "it does not end")],
        Err(Failure::Broken(why)) => return vec![note("exit", &why)],
    };
    let mut out = compare(&test.case, trace, &expected.outcome, &got);
    for (register, value) in &expected.system {
        match register.get(guest.vcpu()) {
            Ok(got) if got == *value => {}
            Ok(got) => out.push(note(&register.to_string(), &format!("{value:x}, not {got:x}"))),
            Err(e) => out.push(note(&register.to_string(), &e.to_string())),
        }
    }
    for (addr, bytes) in &expected.supervisor {
        match guest.supervisor(*addr, bytes.len()) {
            Ok(got) if got == *bytes => {}
            Ok(got) => out.push(note("memory", &format!("at {addr:x} {bytes:02x?}, not {got:02x?}"))),
            Err(e) => out.push(note("memory", &e.to_string())),
        }
    }
    out
}
