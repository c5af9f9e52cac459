//! Makes failing cases small.

use crate::case::Case;
use crate::state::{Field, State};

/// The smallest case found from `case` for which `fails` holds still.
pub fn shrink(case: &Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    loop {
        let before = best.clone();
        drop_instructions(&mut best, &mut fails);
        drop_patches(&mut best, &mut fails);
        simplify_registers(&mut best, &mut fails);
        if best == before {
            return best;
        }
    }
}

/// Takes `simpler` for `best` where it fails too.
fn take(best: &mut Case, simpler: Case, fails: &mut impl FnMut(&Case) -> bool) -> bool {
    let better = simpler != *best && fails(&simpler);
    if better {
        *best = simpler;
    }
    better
}

fn drop_instructions(best: &mut Case, fails: &mut impl FnMut(&Case) -> bool) {
    for index in (0..best.code.len()).rev() {
        if best.code.len() == 1 {
            return;
        }
        let mut without = best.clone();
        let removed = without.code.remove(index);
        if take(best, without.clone(), fails) {
            continue;
        }
        // Where addresses matter, what comes after it stays where it is.
        let mut padded = best.clone();
        padded.code[index] = vec![0x90; removed.len()];
        if index == 0 {
            without.state.rip += removed.len() as u64;
            if take(best, without, fails) {
                continue;
            }
        }
        take(best, padded, fails);
    }
}

fn drop_patches(best: &mut Case, fails: &mut impl FnMut(&Case) -> bool) {
    for index in (0..best.patches.len()).rev() {
        let mut without = best.clone();
        without.patches.remove(index);
        if !take(best, without, fails) {
            let mut zero = best.clone();
            zero.patches[index].1.fill(0);
            take(best, zero, fails);
        }
    }
}

fn simplify_registers(best: &mut Case, fails: &mut impl FnMut(&Case) -> bool) {
    let usual = State::new(best.mode);
    for field in Field::all().filter(|f| !matches!(f, Field::Rip | Field::Segment(_) | Field::Base(_))) {
        let usual = field.get(&usual);
        for value in [usual, usual.max(1)] {
            let mut simpler = best.clone();
            field.set(&mut simpler.state, value);
            let now = field.get(&best.state);
            if now != usual && now != value && take(best, simpler, fails) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Test;

    #[test]
    fn what_does_not_matter_goes() {
        let test: Test = "code=90.f8.480fafc1.f9 rax=3 rcx=5 rdx=7 xmm1=8 mxcsr=9fc0 20004000=01 20004010=02"
            .parse()
            .unwrap();
        let fails = |c: &Case| c.code.contains(&vec![0xf8]) && c.state.gpr[1] > 2 && !c.patches.is_empty();
        assert_eq!(shrink(&test.case, fails).to_string(), "code=f8 rcx=5 20004000=00");
    }
}
