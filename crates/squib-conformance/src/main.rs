//! Compares squib's CPU with the host's. See `--help`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use squib_conformance::campaign::{Bench, Tally, Verdict};
use squib_conformance::case::Line;
use squib_conformance::forms;
use squib_conformance::generate::Generator;

const HELP: &str = "\
Runs random instructions on the host CPU and on squib's, and compares what they leave.

  --cases N        cases to run (100000)
  --seed S         which ones (1)
  --start I        number of the first case (0)
  --filter NAME    only instructions with this mnemonic, or whose form's name contains it
  --case LINE      run one case as printed for a mismatch
  --list           print the forms that are covered";

struct Options {
    cases: u64,
    seed: u64,
    start: u64,
    filter: Option<String>,
    line: Option<String>,
    list: bool,
}

fn options() -> Result<Options, String> {
    let mut o = Options { cases: 100_000, seed: 1, start: 0, filter: None, line: None, list: false };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("`{text}` is no number"));
        match name.as_str() {
            "--cases" => o.cases = number(value()?)?,
            "--seed" => o.seed = number(value()?)?,
            "--start" => o.start = number(value()?)?,
            "--filter" => o.filter = Some(value()?.to_lowercase()),
            "--case" => o.line = Some(value()?),
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
    let mut forms = forms::all();
    if let Some(filter) = &o.filter {
        let named = |c: &iced_x86::Code| format!("{:?}", c.mnemonic()).eq_ignore_ascii_case(filter);
        let exact: Vec<_> = forms.iter().copied().filter(named).collect();
        forms.retain(|c| format!("{c:?}").to_lowercase().contains(filter));
        forms = if exact.is_empty() { forms } else { exact };
    }
    if forms.is_empty() {
        return Err("no form has that name; see --list".to_owned());
    }
    if o.list {
        forms.iter().for_each(|c| println!("{c:?}"));
        return Ok(true);
    }
    let mut bench = Bench::new()?;
    if let Some(line) = &o.line {
        return one(&mut bench, line);
    }
    many(&mut bench, &Generator::new(forms), o)
}

fn one(bench: &mut Bench, line: &str) -> Result<bool, String> {
    let Line { case, .. } = line.parse()?;
    println!("{}", case.listing());
    match bench.run(&case) {
        Verdict::Skipped(why) => Err(format!("the host cannot say: {why:?}")),
        Verdict::Unsupported => Err("the soft backend does not check alignment".to_owned()),
        Verdict::Same(outcome) => {
            println!("{}\nsame", case.with_outcome(&outcome));
            Ok(true)
        }
        Verdict::Different(m) => {
            println!("{}\ndifferent on the {} path", case.with_outcome(&m.expected), m.path);
            m.differences.iter().for_each(|d| println!("  {}: {}", d.what, d.how));
            Ok(false)
        }
    }
}

fn many(bench: &mut Bench, generator: &Generator, o: &Options) -> Result<bool, String> {
    let mut tally = Tally::default();
    let began = Instant::now();
    let mut told = began;
    for index in 0..o.cases {
        tally.run(bench, generator, o.seed, o.start + index);
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            let rate = index as f64 / began.elapsed().as_secs_f64();
            eprintln!(
                "{index} of {} cases, {rate:.0} a second, {} kinds of mismatch",
                o.cases,
                tally.mismatches.len()
            );
        }
    }
    for (key, report) in &tally.mismatches {
        println!("{key}: {} times, first in case {}", report.count, report.index);
        println!("  {}\n  {}\n  {}", report.listing, report.differences, report.line);
    }
    let total = generator.forms().len();
    let covered = generator.forms().iter().filter(|c| tally.forms.contains_key(&format!("{c:?}"))).count();
    let mismatches: u64 = tally.mismatches.values().map(|r| r.count).sum();
    println!("forms covered   {covered} of {total}");
    println!("cases compared  {} ({} skipped)", tally.compared, tally.skipped);
    println!("instructions    {}", tally.instructions);
    println!("ended in faults {}", tally.faults);
    println!("mismatches      {mismatches} of {} kinds", tally.mismatches.len());
    println!("seconds         {:.1}", began.elapsed().as_secs_f64());
    Ok(mismatches == 0)
}
