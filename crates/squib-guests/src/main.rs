//! Writes every guest to a folder: `cargo run -p squib-guests -- --out DIR`.
//!
//! Flat guests become `NAME.bin`, multiboot ones `NAME.elf`; `guests.json` lists them with mode, load address
//! and description.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, io};

use squib_guests::{Guest, Mode};

#[expect(clippy::print_stderr, reason = "a command line tool")]
fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [flag, dir] = args.as_slice() else {
        eprintln!("usage: squib-guests --out DIR");
        return ExitCode::from(2);
    };
    if flag != "--out" {
        eprintln!("unknown option {flag}; usage: squib-guests --out DIR");
        return ExitCode::from(2);
    }
    match write_all(&PathBuf::from(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cannot write the guests to {dir}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(dir: &PathBuf) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let guests = squib_guests::all();
    for guest in &guests {
        fs::write(dir.join(file_name(guest)), &guest.image)?;
    }
    fs::write(dir.join("guests.json"), list(&guests))
}

fn file_name(guest: &Guest) -> String {
    let extension = if guest.mode == Mode::Multiboot { "elf" } else { "bin" };
    format!("{}.{extension}", guest.name)
}

/// The list as JSON. Names and descriptions hold nothing that needs escaping.
fn list(guests: &[Guest]) -> String {
    let mut json = String::from("[\n");
    for (i, guest) in guests.iter().enumerate() {
        let end = if i + 1 == guests.len() { "" } else { "," };
        let _ = writeln!(
            json,
            r#"  {{ "name": "{}", "file": "{}", "mode": "{}", "loadAddress": {}, "about": "{}" }}{end}"#,
            guest.name,
            file_name(guest),
            guest.mode.name(),
            guest.load_addr,
            guest.about,
        );
    }
    json.push_str("]\n");
    json
}
