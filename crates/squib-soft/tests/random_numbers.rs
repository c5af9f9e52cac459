//! RDRAND and RDSEED: numbers of the host, or of whoever wants runs to repeat, and none where there are none.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use iced_x86::code_asm::*;
use squib_core::{Entropy, Error, ErrorCode, Result};
use squib_soft::{CpuModel, SoftBackend};
use support::start_on;

/// Counts up.
#[derive(Default)]
struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        out.iter_mut().for_each(|byte| *byte = self.0.fetch_add(1, Ordering::Relaxed));
        Ok(())
    }
}

/// Has none.
struct Exhausted;

impl Entropy for Exhausted {
    fn fill(&self, _out: &mut [u8]) -> Result<()> {
        Err(Error::new(ErrorCode::Internal, "nothing left"))
    }
}

/// What numbers of each size are, and the flags after the first and the last.
fn numbers(backend: &SoftBackend) -> [u64; 6] {
    let mut s = start_on(backend, false, |a| {
        a.mov(rcx, -1_i64)?;
        a.mov(rdx, rcx)?;
        a.mov(rdi, rcx)?;
        // Sets every status flag but the carry and the overflow flag, which the next one sets.
        a.mov(eax, 0xffff)?;
        a.sahf()?;
        a.rdrand(cx)?;
        a.pushfq()?;
        a.pop(r8)?;
        a.rdrand(edx)?;
        a.rdseed(rdi)?;
        a.pushfq()?;
        a.pop(r9)?;
        a.rdseed(r10)?;
        a.hlt()
    });
    let (r, log) = s.run();
    assert_eq!(log, []);
    [r.rcx, r.rdx, r.rdi, r.r10, r.r8 & 0x8d5, r.r9 & 0x8d5]
}

#[test]
fn runs_repeat_with_numbers_that_do() {
    let expected = [0xffff_ffff_ffff_0100, 0x0b0a_0908, 0x1716_1514_1312_1110, 0x1f1e_1d1c_1b1a_1918, 1, 1];
    for _ in 0..2 {
        let backend = SoftBackend::new(CpuModel::max()).with_entropy(Arc::new(Counting::default()));
        assert_eq!(numbers(&backend), expected);
    }
}

#[test]
fn without_numbers_there_is_no_carry_and_the_result_is_zero() {
    let max = || SoftBackend::new(CpuModel::max());
    for backend in [max(), max().with_entropy(Arc::new(Exhausted))] {
        assert_eq!(numbers(&backend), [0xffff_ffff_ffff_0000, 0, 0, 0, 0, 0]);
    }
}
