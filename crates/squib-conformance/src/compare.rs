//! Where two outcomes differ.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use crate::case::{Case, differences, event_text};
use crate::forms;
use crate::layout::Mode;
use crate::state::{Event, Field, Outcome, fx};
use crate::trace::Trace;

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What: a register, `event` or `memory`.
    pub what: String,
    /// How, for people.
    pub how: String,
}

/// Linear addresses from here on are not for programs (`TASK_SIZE_MAX`). Linux tells programs that every page there is present, so that
/// they cannot probe which are (`set_signal_archinfo` in arch/x86/mm/fault.c).
const KERNEL: u64 = (1 << 47) - 4096;

/// RFLAGS without those that are undefined.
const FLAGS: u64 = 0x3f_ffff;

/// RFLAGS.AC.
const ALIGNMENT_CHECK: u64 = 1 << 18;

/// Units in the last place by which two processors' transcendental functions may differ: each errs by at most 1 where it
/// rounds to nearest, and by 1.5 elsewhere (Intel SDM vol. 1, 8.3.10).
const ULPS: u128 = 3;

/// FSW's bits that say how a result was rounded: PE, UE and C1, and whether an exception is pending.
const ROUNDING: u128 = 0x82b0;

/// Instructions that store x87's environment or state, with the last instruction's opcode and addresses.
pub(crate) fn stores_environment(m: M) -> bool {
    matches!(m, M::Fnstenv | M::Fnsave | M::Fxsave | M::Fxsave64) || forms::is_xsave(m)
}

/// Where processors differ among themselves, and the manuals say nothing.
#[derive(Default)]
struct Latitude {
    /// FOP, FIP and FDP.
    pointers: bool,
    /// Memory: those have been stored, or PUSHA or a far CALL has come half-way before its fault.
    memory: bool,
    /// Which byte of a long operand, or of several, a page fault names.
    address: bool,
    /// Which exception an address raises that is not aligned.
    alignment: bool,
    /// The x87 unit's TOP and tags, where a store of an MMX register faults.
    x87: bool,
    /// The last digits of x87's results.
    digits: bool,
    /// General registers: POPA has come half-way before its fault.
    popped: bool,
    /// x87 and SSE: XRSTOR, FLDENV or FRSTOR has come half-way before its fault.
    restored: bool,
}

impl Latitude {
    fn of(trace: &Trace, expected: &Outcome, got: &Outcome) -> Self {
        let mut latitude = Self { pointers: !(expected.pointers && got.pointers), ..Self::default() };
        let mut wide = false;
        for i in trace.instructions() {
            latitude.memory |= latitude.pointers && stores_environment(i.mnemonic());
            // Of FIP and FDP the processor keeps as many bits as its linear addresses have.
            wide |= i.mnemonic() == M::Fxrstor64;
            latitude.memory |= wide && i.mnemonic() == M::Fxsave64;
            latitude.digits |= forms::is_approximate(i.mnemonic());
            if i.ip() == expected.state.rip && matches!(expected.event.vector(), Some(12..=14 | 17)) {
                let len = i.memory_size().size();
                let stores = i.op0_kind() != OpKind::Register;
                latitude.address = matches!(len, 14 | 28 | 94 | 108 | 512)
                    || forms::is_xsave(i.mnemonic())
                    || forms::is_far(i.code());
                latitude.alignment =
                    forms::stores_float_state(i.mnemonic()) && expected.state.rflags & ALIGNMENT_CHECK != 0;
                latitude.restored = match i.mnemonic() {
                    M::Xrstor | M::Xrstor64 => true,
                    // Pages are checked before anything is loaded, and the segment's limit is not.
                    M::Fldenv | M::Frstor => expected.event.vector() != Some(14),
                    _ => false,
                };
                latitude.popped = matches!(i.mnemonic(), M::Popa | M::Popad);
                latitude.memory |= matches!(i.mnemonic(), M::Pusha | M::Pushad) || forms::is_far(i.code());
                latitude.x87 = stores && (0..i.op_count()).any(|n| i.op_register(n).is_mm());
            }
        }
        latitude
    }

    /// The two events, without what may differ. Of a long operand at the end of canonical addresses, processors find the missing
    /// page or the wrong address first.
    fn events(&self, case: &Case, mut a: Event, mut b: Event) -> (Event, Event) {
        if let (
            Event::Exception { vector: 14, error: e, address: x },
            Event::Exception { vector: 14, error: f, address: y },
        ) = (&mut a, &mut b)
        {
            if case.mode != Mode::Ring0 && *x >= KERNEL || self.address {
                *e |= 1;
                *f |= 1;
            }
            if self.address {
                *y = *x;
            }
        }
        // FXSAVE and its kin may raise #AC or #GP(0) for an address that is not aligned (Intel SDM vol. 2, "FXSAVE").
        if self.alignment && matches!((a.vector(), b.vector()), (Some(13), Some(17)) | (Some(17), Some(13))) {
            b = a;
        }
        let is_beyond = |e: Event| match e {
            Event::Exception { vector: 14, address, .. } => address >= KERNEL - 512,
            _ => matches!(e.vector(), Some(12 | 13)),
        };
        if self.address && is_beyond(a) && is_beyond(b) {
            b = a;
        }
        (a, b)
    }

    /// The bits of a register that count.
    fn mask(&self, case: &Case, field: Field) -> u128 {
        match field {
            Field::Fx(fx::FOP | fx::FIP | fx::FDP, _) if self.pointers || self.digits => 0,
            Field::Gpr(_) if self.popped => 0,
            Field::Fx(..) if self.restored => 0,
            // Processors' linear addresses have 48 or 57 bits.
            Field::Fx(fx::FIP | fx::FDP, _) => (1 << 48) - 1,
            Field::Fx(at, _) if self.x87 && (at < fx::FOP || (fx::ST..fx::XMM).contains(&at)) => 0,
            Field::Fx(fx::FSW, _) if self.digits => !ROUNDING,
            // The other half does not survive changes of mode for certain (Intel SDM vol. 1, 3.4.1.1).
            Field::Gpr(_) if case.mode.bits() != 64 => 0xffff_ffff,
            _ => u128::MAX,
        }
    }

    fn is_equal(&self, field: Field, a: u128, b: u128) -> bool {
        // On its way back to user code the host's kernel makes null selectors of every kind zero (Intel SDM vol. 2, "IRET").
        if matches!(field, Field::Segment(_)) && a < 4 && b < 4 {
            return true;
        }
        let st = matches!(field, Field::Fx(at, _) if (fx::ST..fx::XMM).contains(&at));
        a == b || st && self.digits && close(a, b)
    }
}

/// Whether two 80-bit numbers are within [`ULPS`] of each other.
fn close(a: u128, b: u128) -> bool {
    /// Numbers in their order: the integer bit of the significand goes, so that exponent and fraction are one number.
    fn order(x: u128) -> Option<u128> {
        let (exponent, significand) = (x >> 64 & 0x7fff, x & u128::from(u64::MAX));
        (exponent != 0x7fff).then_some(exponent << 63 | significand & u128::from(u64::MAX >> 1))
    }
    /// What an unmasked underflow adds to the exponent (Intel SDM vol. 1, 8.5.5). Of the least normal numbers, processors' last
    /// digits decide whether they are underflows.
    const BIAS: u128 = 24_576 << 63;
    let (Some(x), Some(y)) = (order(a), order(b)) else { return false };
    let near = |x: u128, y: u128| x.abs_diff(y) <= ULPS;
    a >> 79 & 1 == b >> 79 & 1 && (near(x, y) || near(x + BIAS, y) || near(x, y + BIAS))
}

/// Bytes that have changed where a string is long: the least that a group of Intel's processors can have.
const GROUP: usize = 64;

/// Whether a repeated store of `group` bytes and more may have run on behind a change of its own code. Processors store groups of elements of long
/// strings before they look (Intel SDM vol. 1, 7.3.9.3 "Fast-String Operation"); squib's looks after each element.
pub(crate) fn outruns_its_code(case: &Case, expected: &Outcome, group: usize) -> bool {
    let bytes = case.bytes();
    let stores = |m| {
        matches!(m, M::Movsb | M::Movsw | M::Movsd | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq)
    };
    let is_changed = |(i, byte): (u64, &u8)| {
        case.mode.offset(case.start().wrapping_add(i)).is_some_and(|at| expected.memory[at] != *byte)
    };
    // Without a comparison, REPNE repeats as REP does (Intel SDM vol. 2, "REP/REPE/REPZ/REPNE/REPNZ").
    let repeats = |i: Instruction| i.has_rep_prefix() || i.has_repne_prefix();
    case.decoder(&bytes).into_iter().any(|i| repeats(i) && stores(i.mnemonic()))
        && (0..).zip(&bytes).any(is_changed)
        && case.memory().iter().zip(&expected.memory).filter(|(a, b)| a != b).count() >= group
}

/// The differences between `expected` and `got`, but for what `trace` leaves undefined or to the processor.
pub fn compare(case: &Case, trace: &Trace, expected: &Outcome, got: &Outcome) -> Vec<Difference> {
    let mut out = Vec::new();
    if outruns_its_code(case, expected, GROUP) {
        return out;
    }
    let mut note = |what: &str, how: String| out.push(Difference { what: what.to_owned(), how });
    let latitude = Latitude::of(trace, expected, got);
    let (a, b) = latitude.events(case, expected.event, got.event);
    if a != b {
        note("event", format!("{}, not {}", event_text(a), event_text(b)));
    }
    let undefined = trace.undefined().flags;
    for field in Field::all() {
        let mut mask = latitude.mask(case, field);
        if field == Field::Flags {
            mask &= u128::from(FLAGS & !undefined);
        }
        let (a, b) = (field.get(&expected.state) & mask, field.get(&got.state) & mask);
        if !latitude.is_equal(field, a, b) {
            note(&field.name(), format!("{a:x}, not {b:x}"));
        }
    }
    if !latitude.memory && expected.memory != got.memory {
        let should = differences(case.mode, &got.memory, &expected.memory);
        let is = differences(case.mode, &expected.memory, &got.memory);
        let (addr, bytes) = &should[0];
        note("memory", format!("at {addr:x} {bytes:02x?}, not {:02x?} ({} places)", is[0].1, should.len()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Test;

    #[test]
    fn only_long_strings_outrun_their_code() {
        let long = "90".repeat(0x100);
        for (text, outruns) in [
            (format!("code=f3aa.90 rax=90 rdi=20001002 => 20001002={long}"), true),
            (format!("code=f2aa.90 rax=90 rdi=20001002 => 20001002={long}"), true),
            ("code=f3aa.90 rax=90 rdi=20001002 => 20001100=9090".to_owned(), false),
            (format!("code=f3aa.90 rax=90 rdi=20001000 => 20001000={long}"), false),
            (format!("code=f3ae.90 rax=90 rdi=20001002 => 20001002={long}"), false),
        ] {
            let test: Test = text.parse().unwrap();
            assert_eq!(
                outruns_its_code(&test.case, &test.expected.unwrap().outcome, GROUP),
                outruns,
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_are_close_across_powers_of_two() {
        let one = 0x3fff_8000_0000_0000_0000;
        let below_one = 0x3ffe_ffff_ffff_ffff_ffff;
        assert!(close(one, below_one) && close(one, one + 3) && close(below_one, one + 2));
        assert!(close(0x0001_8000_0000_0000_0000, 0x6000_ffff_ffff_ffff_ffff), "one of them underflows");
        assert!(
            !close(one, one + 4) && !close(one, one | 1 << 79) && !close(one, 0x7fff_8000_0000_0000_0000)
        );
    }
}
