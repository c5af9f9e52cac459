//! What a campaign came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use iced_x86::Code;

use crate::campaign::{Plan, Tally};
use crate::forms::Why;
use crate::layout::Mode;

/// The result of a campaign.
pub struct Report {
    /// What was run.
    pub plan: Plan,
    /// What came of it.
    pub tally: Tally,
    /// The forms that were to be compared.
    pub forms: Vec<(Mode, Code)>,
    /// Those that exist and were not.
    pub others: Vec<(Mode, Code, Why)>,
    /// How long it took.
    pub seconds: f64,
}

/// A string of JSON (RFC 8259).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Report {
    fn count(&self, form: &(Mode, Code)) -> u64 {
        self.tally.forms.get(form).copied().unwrap_or(0)
    }

    /// Forms of which no case has been compared.
    pub fn uncovered(&self) -> Vec<(Mode, Code)> {
        self.forms.iter().copied().filter(|f| self.count(f) == 0).collect()
    }

    /// Forms not compared by reason, with how many there are.
    fn reasons(&self) -> BTreeMap<Why, Vec<(Mode, Code)>> {
        let mut out: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (mode, code, why) in &self.others {
            out.entry(*why).or_default().push((*mode, *code));
        }
        out
    }

    fn totals(&self) -> [(&'static str, u64); 9] {
        let t = &self.tally;
        let covered = self.forms.len() - self.uncovered().len();
        let fewest = self.forms.iter().map(|f| self.count(f)).filter(|n| *n > 0).min().unwrap_or(0);
        [
            ("forms", self.forms.len() as u64),
            ("covered", covered as u64),
            ("fewest_cases_of_a_form", fewest),
            ("cases", t.compared),
            ("skipped", t.skipped),
            ("skipped_as_endless", t.endless),
            ("instructions", t.instructions),
            ("faults", t.faults),
            ("mismatches", t.mismatches()),
        ]
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (kind, finding) in &self.tally.findings {
            let _ = writeln!(out, "{kind}: {} times, first in case {}", finding.count, finding.index);
            let _ = writeln!(out, "  {}\n  {}", finding.listing, finding.differences);
            for line in finding.case.lines() {
                let _ = writeln!(out, "  {line}");
            }
        }
        for (what, count) in &self.tally.choices {
            let _ = writeln!(out, "{count:6} cases differ by choice of the host's maker: {what}");
        }
        for (why, count) in &self.tally.unsaid {
            let _ = writeln!(out, "{count:6} cases not compared: {why}");
        }
        for (why, forms) in self.reasons() {
            let _ = writeln!(out, "{:6} forms not compared: {}", forms.len(), why.text());
        }
        for (mode, code) in self.uncovered() {
            let _ = writeln!(out, "no case of {code:?} in {}-bit code", mode.name());
        }
        for (name, value) in self.totals() {
            let _ = writeln!(out, "{:24}{value}", name.replace('_', " "));
        }
        let Plan { seed, start, cases, .. } = self.plan;
        let _ = writeln!(
            out,
            "{:24}{:.1}, seed {seed}, cases {start} to {}",
            "seconds",
            self.seconds,
            start + cases
        );
        out
    }

    /// The report as one object of JSON.
    pub fn json(&self) -> String {
        let name = |(mode, code): &(Mode, Code)| quoted(&format!("{} {code:?}", mode.name()));
        let list = |forms: &[(Mode, Code)]| forms.iter().map(name).collect::<Vec<_>>().join(",");
        let mut out = String::from("{");
        for (key, value) in self.totals() {
            let _ = write!(out, "{}:{value},", quoted(key));
        }
        let Plan { seed, start, workers, .. } = self.plan;
        let _ = write!(
            out,
            "\"seed\":{seed},\"start\":{start},\"workers\":{workers},\"seconds\":{:.1},",
            self.seconds
        );
        let _ = write!(out, "\"uncovered\":[{}],\"not_compared\":{{", list(&self.uncovered()));
        let reasons = self.reasons();
        let reasons = reasons.iter().map(|(why, forms)| format!("{}:[{}]", quoted(why.text()), list(forms)));
        out.push_str(&reasons.collect::<Vec<_>>().join(","));
        for (name, counts) in [("choices", &self.tally.choices), ("unsaid", &self.tally.unsaid)] {
            let counts = counts.iter().map(|(what, count)| format!("{}:{count}", quoted(what)));
            let _ = write!(out, "}},\"{name}\":{{{}", counts.collect::<Vec<_>>().join(","));
        }
        out.push_str("},\"findings\":[");
        let findings = self.tally.findings.iter().map(|(kind, f)| {
            format!(
                "{{\"kind\":{},\"count\":{},\"index\":{},\"listing\":{},\"differences\":{},\"case\":{}}}",
                quoted(kind),
                f.count,
                f.index,
                quoted(&f.listing),
                quoted(&f.differences),
                quoted(&f.case)
            )
        });
        out.push_str(&findings.collect::<Vec<_>>().join(","));
        out.push_str("]}");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_say_what_is_missing() {
        let plan = Plan { seed: 1, start: 0, cases: 2, workers: 1 };
        let form = (Mode::Bits64, Code::Add_rm8_r8);
        let mut tally = Tally { compared: 2, ..Tally::default() };
        tally.forms.insert(form, 2);
        let forms = vec![form, (Mode::Bits32, Code::Aaa)];
        let others = vec![(Mode::Bits64, Code::Syscall, Why::CallsKernel)];
        let report = Report { plan, tally, forms, others, seconds: 0.25 };
        assert_eq!(report.uncovered(), [(Mode::Bits32, Code::Aaa)]);
        assert!(report.text().contains("no case of Aaa in 32-bit code"));
        let json = report.json();
        assert!(json.starts_with("{\"forms\":2,\"covered\":1,\"fewest_cases_of_a_form\":2,"), "{json}");
        assert!(json.contains("\"it calls the kernel or a hypervisor\":[\"64 Syscall\"]"), "{json}");
        assert_eq!(quoted("a\"\n\\"), "\"a\\\"\\u000a\\\\\"");
    }
}
