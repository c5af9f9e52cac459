//! Where two outcomes differ.

use iced_x86::{Decoder, DecoderOptions, Mnemonic as M, OpKind};

use crate::case::{Case, differences};
use crate::state::{Field, Outcome, fx};
use crate::undefined;

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

/// Whether a field of the x87 image is left out: FOP, FIP and FDP are only kept after unmasked exceptions by some
/// processors (Intel SDM vol. 1, 8.1.8 and 8.1.9), and differ between them.
fn ignored(field: Field) -> bool {
    matches!(field, Field::Fx(fx::FOP | fx::FIP | fx::FDP, _))
}

/// Instructions that store x87's environment or state, with the last instruction's opcode and addresses.
fn stores_environment(m: M) -> bool {
    matches!(m, M::Fnstenv | M::Fnsave | M::Fxsave | M::Fxsave64)
}

/// Where processors differ among themselves, and the manuals say nothing.
struct Latitude {
    /// Memory: what [`ignored`] leaves out has been stored, or an 80-bit store has come half-way before its fault.
    memory: bool,
    /// Which byte of a long operand a page fault names.
    address: bool,
    /// The x87 unit's TOP and tags, where a store of an MMX register faults.
    x87: bool,
}

impl Latitude {
    fn of(case: &Case, expected: &Outcome) -> Self {
        let mut latitude = Self { memory: false, address: false, x87: false };
        let bytes = case.bytes();
        for i in Decoder::with_ip(64, &bytes, case.state.rip, DecoderOptions::NONE) {
            latitude.memory |= stores_environment(i.mnemonic());
            if i.ip() == expected.state.rip && matches!(expected.event.vector, 12..=14) {
                let len = i.memory_size().size();
                let stores = i.op0_kind() != OpKind::Register;
                latitude.address = matches!(len, 14 | 28 | 94 | 108 | 512);
                latitude.memory |= len == 10;
                latitude.x87 = stores && (0..i.op_count()).any(|n| i.op_register(n).is_mm());
            }
        }
        latitude
    }
}

/// The differences between `expected` and `got`, but for what is undefined.
pub fn compare(case: &Case, expected: &Outcome, got: &Outcome) -> Vec<Difference> {
    let mut out = Vec::new();
    let mut note = |what: &str, how: String| out.push(Difference { what: what.to_owned(), how });
    let (mut a, mut b) = (expected.event, got.event);
    let latitude = Latitude::of(case, expected);
    if a.vector == 14 && (a.address >= KERNEL || latitude.address) {
        a.error |= 1;
        b.error |= 1;
    }
    if latitude.address && b.vector == 14 {
        b.address = a.address;
    }
    if a != b {
        note("event", format!("{a:x?}, not {b:x?}"));
    }
    let undefined = undefined::flags_at(&case.bytes(), case.state.rip, expected.state.rip, case.state.gpr[1]);
    let x87 = |f: Field| matches!(f, Field::Fx(at, _) if at < fx::FOP || (fx::ST..fx::XMM).contains(&at));
    for field in Field::all().filter(|f| !(ignored(*f) || latitude.x87 && x87(*f))) {
        let mask = if field == Field::Flags { u128::from(FLAGS & !undefined) } else { u128::MAX };
        let (a, b) = (field.get(&expected.state) & mask, field.get(&got.state) & mask);
        if a != b {
            note(&field.name(), format!("{a:x}, not {b:x}"));
        }
    }
    if !latitude.memory && expected.memory != got.memory {
        let should = differences(&got.memory, &expected.memory);
        let is = differences(&expected.memory, &got.memory);
        let (addr, bytes) = &should[0];
        note("memory", format!("at {addr:x} {bytes:02x?}, not {:02x?} ({} places)", is[0].1, should.len()));
    }
    out
}
