//! Figures over several processes of this program. Where the loader puts code and the kernel puts memory differs between them, and so does what
//! an exit costs; rounds within one process do not show it.

use std::io::{IsTerminal, stderr};
use std::process::{Command, Stdio};

use crate::Result;
use crate::measure::median;

/// A row of a table. A cell that nothing was measured for is not a number.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<f64>,
}

impl Row {
    pub(crate) fn new(name: &str, cells: &[f64]) -> Self {
        Self { name: name.to_owned(), cells: cells.to_vec() }
    }

    fn parse(line: &str) -> Result<Self> {
        let mut parts = line.split('\t');
        let name = parts.next().unwrap_or_default().to_owned();
        Ok(Self { name, cells: parts.map(str::parse).collect::<std::result::Result<_, _>>()? })
    }
}

/// Prints rows for [`medians`] to read.
pub(crate) fn tell(rows: &[Row]) {
    for Row { name, cells } in rows {
        let cells: String = cells.iter().map(|cell| format!("\t{cell}")).collect();
        println!("{name}{cells}");
    }
}

/// Starts this program `count` times, one after another, with arguments that let it [`tell`] rows, the same ones each time. Their
/// cells are medians over the processes.
pub(crate) fn medians(what: &str, count: usize, args: &[&str]) -> Result<Vec<Row>> {
    let mut tables = Vec::with_capacity(count);
    for process in 1..=count {
        let terminal = stderr().is_terminal();
        if terminal {
            eprint!("{what}: process {process} of {count}");
        }
        let output = Command::new(std::env::current_exe()?).args(args).stderr(Stdio::inherit()).output()?;
        if terminal {
            eprint!("\r\x1b[K");
        }
        if !output.status.success() {
            return Err(format!("{what}: process {process} ended with {}", output.status).into());
        }
        tables.push(str::from_utf8(&output.stdout)?.lines().map(Row::parse).collect::<Result<Vec<_>>>()?);
    }
    let first = tables.first().ok_or("there is no process")?;
    let measured = |row: usize, cell: usize| {
        let values = tables.iter().map(|table| table.get(row).and_then(|row| row.cells.get(cell)));
        values.map(|value| value.copied().unwrap_or(f64::NAN)).collect()
    };
    let rows = first.iter().enumerate().map(|(at, Row { name, cells })| {
        let cells: Vec<_> = (0..cells.len()).map(|cell| median(measured(at, cell))).collect();
        Row::new(name, &cells)
    });
    Ok(rows.collect())
}
