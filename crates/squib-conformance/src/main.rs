//! Compares squib's CPU with the host's. See `--help`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, thread};

use iced_x86::Code;
use squib_conformance::bench::{Bench, Verdict};
use squib_conformance::campaign::{self, Finding, Plan};
use squib_conformance::case::Test;
use squib_conformance::features::Features;
use squib_conformance::generate::Generator;
use squib_conformance::layout::Mode;
use squib_conformance::report::Report;
use squib_conformance::suite::{self, Tiers};
use squib_conformance::{forms, vectors};
use squib_soft::CpuModel;

const HELP: &str = "\
Runs random instructions on the host CPU and on squib's, and compares what they leave. Where the host cannot be asked, plays
what another has said.

  --cases-per-form N  cases of each form alone, and as many sequences (20)
  --cases N           cases in all
  --seed S            which ones (1)
  --start I           number of the first case (0)
  --filter NAME       only instructions with this mnemonic, or whose form's name contains it
  --workers N         how many at once (all processors)
  --json              the report as JSON
  --save FOLDER       write each mismatch, made small, to a test file there
  --case TEXT         run one case as printed for a mismatch
  --files             run the test files on every tier
  --vectors           play the recorded cases
  --record FILE       record cases, --cases-per-form of them
  --list              print the forms, and why some are not compared";

#[derive(Default)]
struct Options {
    per_form: Option<u64>,
    cases: Option<u64>,
    seed: u64,
    start: u64,
    filter: Option<String>,
    workers: Option<usize>,
    json: bool,
    save: Option<String>,
    text: Option<String>,
    files: bool,
    vectors: bool,
    record: Option<String>,
    list: bool,
}

fn options() -> Result<Options, String> {
    let mut o = Options { seed: 1, ..Options::default() };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is no number"));
        match name.as_str() {
            "--cases-per-form" => o.per_form = Some(number(value()?)?),
            "--cases" => o.cases = Some(number(value()?)?),
            "--seed" => o.seed = number(value()?)?,
            "--start" => o.start = number(value()?)?,
            "--filter" => o.filter = Some(value()?.to_lowercase()),
            "--workers" => o.workers = Some(number(value()?)? as usize),
            "--json" => o.json = true,
            "--save" => o.save = Some(value()?),
            "--case" => o.text = Some(value()?),
            "--files" => o.files = true,
            "--vectors" => o.vectors = true,
            "--record" => o.record = Some(value()?),
            "--list" => o.list = true,
            _ => return Err(HELP.to_owned()),
        }
    }
    Ok(o)
}

fn main() -> ExitCode {
    match options().and_then(|o| run(&o)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn run(o: &Options) -> Result<bool, String> {
    if o.files {
        return files();
    }
    if o.vectors {
        return play();
    }
    if let Err(why) = Bench::new() {
        eprintln!("SKIPPED: random cases, because {why}. What another host has said is played instead.");
        return play();
    }
    if let Some(text) = &o.text {
        return one(text);
    }
    let features = Features::new(CpuModel::max(), true)?;
    let covered = forms::all(&features);
    if o.list {
        covered.iter().for_each(|(mode, code)| println!("{} {code:?}", mode.name()));
        forms::not_compared(&features)
            .iter()
            .for_each(|(mode, code, why)| println!("{} {code:?}: not compared: {}", mode.name(), why.text()));
        return Ok(true);
    }
    let chosen = choose(&covered, o.filter.as_deref());
    if chosen.is_empty() {
        return Err("no form has that name; see --list".to_owned());
    }
    let generator = Generator::new(chosen, &covered);
    if let Some(path) = &o.record {
        let file = vectors::record(&generator, o.seed, o.per_form.unwrap_or(4))?;
        println!("{} cases in {} bytes", vectors::unpack(&file)?.len(), file.len());
        fs::write(path, file).map_err(|e| format!("{path}: {e}"))?;
        return Ok(true);
    }
    many(&generator, &features, o)
}

fn choose(covered: &[(Mode, Code)], filter: Option<&str>) -> Vec<(Mode, Code)> {
    let Some(filter) = filter else { return covered.to_vec() };
    let pick = |wanted: &dyn Fn(Code) -> bool| -> Vec<_> {
        covered.iter().copied().filter(|(_, code)| wanted(*code)).collect()
    };
    let exact = pick(&|code| format!("{:?}", code.mnemonic()).eq_ignore_ascii_case(filter));
    if exact.is_empty() { pick(&|code| format!("{code:?}").to_lowercase().contains(filter)) } else { exact }
}

fn one(text: &str) -> Result<bool, String> {
    let Test { case, .. } = text.parse()?;
    println!("# {}", case.listing());
    if !case.is_for_hosts() {
        for (tier, outcome) in Tiers::new()?.outcomes(&case) {
            println!("{tier}: {}", outcome.map_or_else(|e| format!("{e:?}"), |o| case.with_outcome(&o)));
        }
        return Ok(true);
    }
    match Bench::new()?.run(&case) {
        Verdict::Skipped(why) => Err(format!("the host cannot say: {why:?}")),
        Verdict::Unsaid(why) => Err(format!("the host cannot say: {why}")),
        Verdict::Same(outcome) => {
            println!("{}", case.with_outcome(&outcome));
            Ok(true)
        }
        Verdict::Choice(what) => {
            println!("different by choice of the host's maker: {what}");
            Ok(true)
        }
        Verdict::Different(m) => {
            println!("{}\ndifferent on path `{}`", case.with_outcome(&m.expected), m.path);
            m.differences.iter().for_each(|d| println!("  {}: {}", d.what, d.how));
            Ok(false)
        }
    }
}

fn many(generator: &Generator, features: &Features, o: &Options) -> Result<bool, String> {
    let forms = generator.forms();
    let plan = Plan {
        seed: o.seed,
        start: o.start,
        cases: o.cases.unwrap_or_else(|| o.per_form.unwrap_or(20) * 2 * forms.len() as u64),
        workers: o.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)),
    };
    let began = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let every = if terminal { Duration::from_millis(250) } else { Duration::from_secs(10) };
    let tally = campaign::run(generator, plan, every, |done, kinds| {
        let rate = done as f64 / began.elapsed().as_secs_f64();
        let percent = 100 * done / plan.cases.max(1);
        let line =
            format!("{done} of {} cases ({percent} %), {rate:.0}/s, {kinds} kinds of mismatch", plan.cases);
        if terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    })?;
    if terminal {
        eprint!("\r\x1b[K");
    }
    let report = Report {
        plan,
        tally,
        forms: forms.to_vec(),
        others: forms::not_compared(features),
        seconds: began.elapsed().as_secs_f64(),
    };
    println!("{}", if o.json { report.json() } else { report.text() });
    if let Some(folder) = &o.save {
        for (kind, finding) in &report.tally.findings {
            save(Path::new(folder), kind, finding).map_err(|e| format!("{folder}: {e}"))?;
        }
    }
    Ok(report.tally.mismatches() == 0)
}

/// Writes a finding as a test file.
fn save(folder: &Path, kind: &str, finding: &Finding) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let name = kind.to_lowercase().replace(' ', "-");
    fs::write(folder.join(name).with_extension("txt"), format!("# {}\n{}\n", finding.listing, finding.case))
}

fn files() -> Result<bool, String> {
    let mut tiers = Tiers::new()?;
    tiers.missing.iter().for_each(|tier| println!("SKIPPED: test files on {tier}"));
    let (mut tests, mut runs, mut failures) = (0, 0, 0);
    for (name, text) in suite::files(&suite::folder())? {
        for (line, test) in Test::parse_file(&text).map_err(|e| format!("{name}: {e}"))? {
            let verdict = tiers.check(&test);
            tests += 1;
            runs += verdict.ran;
            verdict.notes.iter().for_each(|note| println!("SKIPPED: {name}:{line}: {note}"));
            for failure in verdict.failed {
                failures += 1;
                println!("{name}:{line} on {}: {}", failure.tier, test.case.listing());
                failure.differences.iter().for_each(|d| println!("  {}: {}", d.what, d.how));
            }
        }
    }
    println!("{tests} tests, {runs} runs on {} tiers, {failures} failed", tiers.count());
    Ok(failures == 0)
}

fn play() -> Result<bool, String> {
    let tests = vectors::unpack(vectors::RECORDED)?;
    let failed = vectors::play(&tests)?;
    failed.iter().for_each(|f| println!("{f}\n"));
    println!("{} recorded cases played, {} failed", tests.len(), failed.len());
    Ok(failed.is_empty())
}
