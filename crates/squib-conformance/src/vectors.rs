//! Recorded cases with what the host made of them, for machines that have no such host.
//!
//! The file is the text of test files (see [`crate::case`]), compressed by zlib (RFC 1950).

use iced_x86::{CpuidFeature as F, InstructionInfoFactory, Mnemonic};
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

use crate::bench::{Bench, Verdict, soft_guests};
use crate::case::{Case, Test};
use crate::compare::compare;
use crate::forms;
use crate::generate::Generator;
use crate::guest::Failure;
use crate::state::{Field, State, fx};

/// The file, as it was at the build.
pub const RECORDED: &[u8] = include_bytes!("../vectors.z");

/// Most that a file may hold.
const LIMIT: usize = 64 << 20;

/// Compression at its best.
const BEST: u8 = 10;

/// The tests of a file.
///
/// # Errors
/// What is wrong with it.
pub fn unpack(file: &[u8]) -> Result<Vec<Test>, String> {
    let text = decompress_to_vec_zlib_with_limit(file, LIMIT).map_err(|e| e.to_string())?;
    let text = String::from_utf8(text).map_err(|e| e.to_string())?;
    Ok(Test::parse_file(&text)?.into_iter().map(|(_, test)| test).collect())
}

/// Records `per_form` cases of each form, as far as both processors agree on them.
///
/// # Errors
/// Why the host cannot be used.
pub fn record(generator: &Generator, seed: u64, per_form: u64) -> Result<Vec<u8>, String> {
    let mut bench = Bench::new()?;
    let mut text = String::new();
    let forms = generator.forms().len() as u64;
    for form in 0..forms {
        for turn in 0..per_form {
            // Every third is a sequence.
            let index = 2 * (form + turn * forms) + u64::from(turn % 3 == 2);
            let case = without_what_is_not_used(&generator.case(seed, index));
            if case.code.is_empty() {
                continue;
            }
            if let Verdict::Same(outcome) = bench.run(&case) {
                text.push_str(&case.with_outcome(&outcome));
                text.push_str("\n\n");
            }
        }
    }
    Ok(compress_to_vec_zlib(text.as_bytes(), BEST))
}

/// The case with registers as they usually are where no instruction names them.
fn without_what_is_not_used(case: &Case) -> Case {
    let mut slim = case.clone();
    let usual = State::new(case.mode);
    let bytes = case.bytes();
    let mut factory = InstructionInfoFactory::new();
    let (mut used, mut floats) = (Vec::new(), false);
    for i in &mut case.decoder(&bytes) {
        let info = factory.info(&i);
        used.extend(info.used_registers().iter().map(|u| u.register().full_register()));
        if forms::stores_float_state(i.mnemonic()) {
            return slim;
        }
        let x87 = |f: &F| matches!(f, F::FPU | F::FPU287 | F::FPU387 | F::MMX);
        floats |= i.cpuid_features().iter().any(x87)
            || i.mnemonic() == Mnemonic::Wait
            || used.iter().any(|r| r.is_st() || r.is_mm());
    }
    for field in Field::all() {
        let wanted = match field {
            Field::Gpr(4) => true,
            Field::Gpr(i) => used.iter().any(|r| r.is_gpr() && r.number() == i),
            Field::Fx(at, 16) if at >= fx::XMM => {
                let number = (at - fx::XMM) / 16;
                used.iter().any(|r| r.is_vector_register() && r.number() == number)
            }
            Field::Fx(at, _) if at != fx::MXCSR => floats,
            _ => true,
        };
        if !wanted {
            field.set(&mut slim.state, field.get(&usual));
        }
    }
    slim
}

/// Which vectors failed.
///
/// # Errors
/// The soft backend's, or a file that is none.
pub fn play(tests: &[Test]) -> Result<Vec<String>, String> {
    let mut failed = Vec::new();
    let mut guests = soft_guests()?;
    for test in tests {
        let Some(expected) = &test.expected else { continue };
        let [_, plain] = &mut guests;
        let trace = plain.trace(&test.case).map_err(|e| format!("{}: {e:?}", test.case))?;
        for guest in &mut guests {
            let differences = match guest.run(&test.case) {
                Ok(got) => compare(&test.case, &trace, &expected.outcome, &got)
                    .iter()
                    .map(|d| format!("{}: {}", d.what, d.how))
                    .collect(),
                Err(Failure::Endless) => vec!["it does not end".to_owned()],
                Err(Failure::Broken(why)) => vec![why],
            };
            if !differences.is_empty() {
                failed.push(format!("{}\n{}\n{}", test.case.listing(), test.case, differences.join("; ")));
                break;
            }
        }
    }
    Ok(failed)
}
