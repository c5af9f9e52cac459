//! What each x87 instruction does.

use core::cmp::Ordering;

use super::status::{C0, C1, C2, C3, CONDITION, STACK_FAULT};
use super::{Constant, MathFault, Place, X87, X87Insn, X87Op};
use crate::fp::exact::Wide;
use crate::fp::exception;
use crate::fp::f80::{self, Class, Env, F80, Quotient};
use crate::fp::sse::Binary;

/// What an instruction gives beyond the unit's own state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Nothing; of a store, that nothing is stored.
    None,
    /// The bits to store, as many bytes as the operand has.
    Store(u128),
    /// AX.
    Ax(u16),
    /// ZF, PF and CF, in their places in EFLAGS; OF, SF and AF become 0.
    Flags(u32),
}

/// A source operand: a number, and whether it was denormal in a narrower format, where `F80` no longer shows
/// it.
struct Source {
    value: F80,
    narrow_denormal: bool,
}

/// How an instruction ends early.
enum Stop {
    /// A register is empty that must not be (C1 = 0).
    Underflow,
    /// A register is not empty that must be (C1 = 1).
    Overflow,
}

/// C0, C2 and C3 for an order.
const fn condition(order: Option<Ordering>) -> u16 {
    match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => C0,
        Some(Ordering::Equal) => C3,
        None => C0 | C2 | C3,
    }
}

/// The same as EFLAGS: CF, PF and ZF have the places of C0, C2 and C3 in the status word's upper byte.
const fn eflags(order: Option<Ordering>) -> u32 {
    (condition(order) >> 8) as u32
}

/// The constant, of which the unit has more bits than a register.
fn constant(constant: Constant, env: &Env) -> F80 {
    let (exp, sig) = match constant {
        Constant::Zero => return F80::ZERO,
        Constant::One => return F80::ONE,
        Constant::Log2Of10 => (1, 0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4c),
        Constant::Log2OfE => (0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88),
        Constant::Pi => (1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
        Constant::Log10Of2 => (-2, 0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9178),
        Constant::LnOf2 => (-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af),
    };
    f80::constant(Wide { negative: false, exp, sig }, env)
}

/// Raises DE for a [`Source`] that was denormal, unless an exception or a NaN takes precedence.
fn note_narrow_denormal(source: &Source, other: F80, env: &mut Env) {
    let preceded = env.raised() & (exception::INVALID | exception::DIVIDE) != 0;
    if source.narrow_denormal && !preceded && !other.is_nan() {
        env.raise(exception::DENORMAL);
    }
}

impl X87 {
    /// Executes `insn`. `input` is the memory operand, zero-extended, or for [`X87Op::MoveIf`] whether the
    /// condition holds.
    ///
    /// A store's memory may fault after this has changed the state: execute it on a copy, or probe the memory
    /// first.
    pub fn execute(&mut self, insn: X87Insn, input: u128) -> Result<Output, MathFault> {
        if insn.waits() {
            self.check_pending()?;
        }
        match self.perform(insn, input) {
            Ok(output) => Ok(output),
            Err(stop) => Ok(self.stack_fault(insn, stop)),
        }
    }

    fn perform(&mut self, insn: X87Insn, input: u128) -> Result<Output, Stop> {
        let mut environment = Env::new(self.control);
        let env = &mut environment;
        match insn.op {
            X87Op::Add | X87Op::Mul | X87Op::Sub | X87Op::SubReverse | X87Op::Div | X87Op::DivReverse => {
                let to = if insn.place == Place::Destination { insn.index } else { 0 };
                let a = self.st(to)?;
                let source = self.source(insn, input)?;
                let b = source.value;
                let value = match insn.op {
                    X87Op::Add => f80::add(a, b, env),
                    X87Op::Mul => f80::mul(a, b, env),
                    X87Op::Sub => f80::sub(a, b, env),
                    X87Op::SubReverse => f80::sub(b, a, env),
                    X87Op::Div => f80::div(a, b, env),
                    _ => f80::div(b, a, env),
                };
                note_narrow_denormal(&source, a, env);
                self.finish(env, insn, |unit| unit.set(to, value));
            }
            X87Op::Compare
            | X87Op::CompareQuiet
            | X87Op::CompareFlags
            | X87Op::CompareFlagsQuiet
            | X87Op::Test => {
                let a = self.st(0)?;
                let source = self.source(insn, input)?;
                let quiet = matches!(insn.op, X87Op::CompareQuiet | X87Op::CompareFlagsQuiet);
                let order = f80::compare(a, source.value, quiet, env);
                note_narrow_denormal(&source, a, env);
                let flags = matches!(insn.op, X87Op::CompareFlags | X87Op::CompareFlagsQuiet);
                // Even an unmasked exception lets the result be seen; it only keeps the pop from happening.
                if flags {
                    let c1 = self.status & C1;
                    self.finish(env, insn, |_| {});
                    self.set_condition(C1, c1);
                    return Ok(Output::Flags(eflags(order)));
                }
                self.set_condition(CONDITION, condition(order));
                self.finish(env, insn, |_| {});
            }
            X87Op::Examine => {
                let value = self.raw(0);
                let class = match value.class() {
                    _ if self.is_empty(0) => C3 | C0,
                    Class::Unsupported => 0,
                    Class::Signaling | Class::Quiet => C0,
                    Class::Normal => C2,
                    Class::Infinite => C2 | C0,
                    Class::Zero => C3,
                    Class::Denormal => C3 | C2,
                };
                self.set_condition(CONDITION, class | if value.is_negative() { C1 } else { 0 });
            }
            X87Op::Load => {
                let source = self.source(insn, input)?;
                self.require_room()?;
                let value = match insn.place {
                    Place::F32 | Place::F64 => f80::quiet(source.value, env),
                    _ => source.value,
                };
                self.finish(env, insn, |unit| unit.push(value));
                // Unlike that of an operation, the operand of a load is delivered even if DE is not masked.
                if source.narrow_denormal {
                    self.status |= exception::DENORMAL as u16;
                }
            }
            X87Op::LoadConstant(which) => {
                self.require_room()?;
                let value = constant(which, env);
                self.finish(env, insn, |unit| unit.push(value));
            }
            X87Op::Store | X87Op::StoreTruncated => return self.store(insn, env),
            X87Op::StoreUnlessEmpty => {
                if let Ok(a) = self.st(0) {
                    self.set(insn.index, a);
                }
                self.finish(env, insn, |_| {});
            }
            X87Op::Exchange => {
                let (a, b) = (self.st(0)?, self.st(insn.index)?);
                self.finish(env, insn, |unit| {
                    unit.set(0, b);
                    unit.set(insn.index, a);
                });
            }
            X87Op::MoveIf(_) => {
                let (_, b) = (self.st(0)?, self.st(insn.index)?);
                if input != 0 {
                    self.set(0, b);
                }
            }
            X87Op::Free => {
                self.set_condition(C1, 0);
                self.free(insn.index);
                self.pop_times(insn.pops);
            }
            X87Op::IncrementTop => {
                self.increment_top();
                self.set_condition(C1, 0);
            }
            X87Op::DecrementTop => {
                self.decrement_top();
                self.set_condition(C1, 0);
            }
            X87Op::ChangeSign | X87Op::Absolute | X87Op::Root | X87Op::RoundToInt | X87Op::Exp2Minus1 => {
                let a = self.st(0)?;
                let value = match insn.op {
                    X87Op::ChangeSign => a.negated(),
                    X87Op::Absolute => a.abs(),
                    X87Op::Root => f80::sqrt(a, env),
                    X87Op::RoundToInt => f80::round_to_int(a, env),
                    _ => f80::exp2_minus_1(a, env),
                };
                self.finish(env, insn, |unit| unit.set(0, value));
            }
            X87Op::Scale => {
                let value = f80::scale(self.st(0)?, self.st(1)?, env);
                self.finish(env, insn, |unit| unit.set(0, value));
            }
            X87Op::Remainder | X87Op::RemainderNearest => {
                let nearest = insn.op == X87Op::RemainderNearest;
                let remainder = f80::remainder(self.st(0)?, self.st(1)?, nearest, env);
                self.set_condition(C2, 0);
                self.finish(env, insn, |unit| {
                    unit.set(0, remainder.value);
                    match remainder.quotient {
                        Quotient::None => {}
                        Quotient::Partial => unit.set_condition(CONDITION, C2),
                        Quotient::Low(bits) => {
                            let c1 = if bits & 1 != 0 { C1 } else { 0 };
                            let c3 = if bits & 2 != 0 { C3 } else { 0 };
                            let c0 = if bits & 4 != 0 { C0 } else { 0 };
                            unit.set_condition(CONDITION, c0 | c1 | c3);
                        }
                    }
                });
            }
            X87Op::Log2Times | X87Op::Log2p1Times | X87Op::Arctangent => {
                let (x, y) = (self.st(0)?, self.st(1)?);
                let value = match insn.op {
                    X87Op::Log2Times => f80::log2_times(y, x, env),
                    X87Op::Log2p1Times => f80::log2p1_times(y, x, env),
                    _ => f80::atan2(y, x, env),
                };
                self.finish(env, insn, |unit| unit.set(1, value));
            }
            X87Op::Sine | X87Op::Cosine => {
                let values = f80::sin_cos(self.st(0)?, env);
                let value = values.map(|(sine, cosine)| if insn.op == X87Op::Sine { sine } else { cosine });
                self.set_condition(C2, if value.is_none() { C2 } else { 0 });
                self.finish(env, insn, |unit| {
                    if let Some(value) = value {
                        unit.set(0, value);
                    }
                });
            }
            X87Op::Extract | X87Op::SineCosine | X87Op::Tangent => {
                let a = self.st(0)?;
                self.require_room()?;
                let pair = match insn.op {
                    X87Op::Extract => Some(f80::extract(a, env)),
                    X87Op::SineCosine => f80::sin_cos(a, env),
                    _ => f80::tan(a, env)
                        .map(|tangent| (tangent, if tangent.is_nan() { tangent } else { F80::ONE })),
                };
                if insn.op != X87Op::Extract {
                    self.set_condition(C2, if pair.is_none() { C2 } else { 0 });
                }
                self.finish(env, insn, |unit| {
                    if let Some((under, top)) = pair {
                        unit.set(0, under);
                        unit.push(top);
                    }
                });
            }
            X87Op::LoadControl => self.set_control(input as u16),
            X87Op::StoreControl => return Ok(Output::Store(self.control().into())),
            X87Op::StoreStatus if insn.place == Place::Implied => return Ok(Output::Ax(self.status())),
            X87Op::StoreStatus => return Ok(Output::Store(self.status().into())),
            X87Op::ClearExceptions => self.status &= CONDITION,
            X87Op::Initialize => self.initialize(),
            X87Op::Nothing => {}
        }
        Ok(Output::None)
    }

    fn store(&mut self, insn: X87Insn, env: &mut Env) -> Result<Output, Stop> {
        let a = self.st(0)?;
        let truncate = insn.op == X87Op::StoreTruncated;
        let bits = match insn.place {
            Place::F32 => f80::to_float::<u32>(a, env).map(u128::from),
            Place::F64 => f80::to_float::<u64>(a, env).map(u128::from),
            Place::F80 => Some(a.to_bits()),
            Place::I16 => Some(f80::to_int(a, 16, truncate, env).into()),
            Place::I32 => Some(f80::to_int(a, 32, truncate, env).into()),
            Place::I64 => Some(f80::to_int(a, 64, truncate, env).into()),
            Place::Bcd => Some(f80::to_bcd(a, env)),
            Place::Destination | Place::Source | Place::Implied | Place::Word => {
                self.finish(env, insn, |unit| unit.set(insn.index, a));
                return Ok(Output::None);
            }
        };
        Ok(match bits {
            Some(bits) if self.finish(env, insn, |_| {}) => Output::Store(bits),
            Some(_) => Output::None,
            None => {
                self.report(env);
                Output::None
            }
        })
    }

    /// The source operand.
    fn source(&self, insn: X87Insn, input: u128) -> Result<Source, Stop> {
        let (value, narrow_denormal) = match insn.place {
            Place::Implied => (F80::ZERO, false),
            Place::Source => (self.st(insn.index)?, false),
            Place::Destination => (self.st(0)?, false),
            Place::F32 => (f80::from_float(input as u32), (input as u32).is_denormal()),
            Place::F64 => (f80::from_float(input as u64), (input as u64).is_denormal()),
            Place::F80 => (F80::from_bits(input), false),
            Place::I16 | Place::Word => (f80::from_int((input as i16).into()), false),
            Place::I32 => (f80::from_int((input as i32).into()), false),
            Place::I64 => (f80::from_int(input as i64), false),
            Place::Bcd => (f80::from_bcd(input), false),
        };
        Ok(Source { value, narrow_denormal })
    }

    /// Ends an instruction: reports its exceptions and, unless one in the operands is not masked, writes its
    /// result and pops. Returns whether it did.
    fn finish(&mut self, env: &Env, insn: X87Insn, write: impl FnOnce(&mut Self)) -> bool {
        self.report(env);
        if env.is_blocked() {
            return false;
        }
        write(self);
        self.pop_times(insn.pops);
        true
    }

    /// Adds an instruction's exceptions to the status word, and sets C1.
    fn report(&mut self, env: &Env) {
        self.status |= env.raised() as u16;
        self.set_condition(C1, if env.is_up() { C1 } else { 0 });
    }

    fn pop_times(&mut self, times: u8) {
        for _ in 0..times {
            self.pop();
        }
    }

    /// Replaces the condition codes in `mask`.
    fn set_condition(&mut self, mask: u16, codes: u16) {
        self.status = self.status & !mask | codes & mask;
    }

    /// ST(`i`), which must not be empty.
    fn st(&self, i: u8) -> Result<F80, Stop> {
        if self.is_empty(i) { Err(Stop::Underflow) } else { Ok(self.raw(i)) }
    }

    /// A push needs a register.
    fn require_room(&self) -> Result<(), Stop> {
        if self.is_empty(7) { Ok(()) } else { Err(Stop::Overflow) }
    }

    /// The response to a stack fault: masked, the indefinite takes the place of the result (SDM vol. 1,
    /// 8.5.1.1).
    fn stack_fault(&mut self, insn: X87Insn, stop: Stop) -> Output {
        let mut output = Output::None;
        self.status |= exception::INVALID as u16 | STACK_FAULT;
        self.set_condition(C1, if matches!(stop, Stop::Overflow) { C1 } else { 0 });
        match insn.op {
            X87Op::Compare | X87Op::CompareQuiet | X87Op::Test => {
                self.set_condition(C0 | C2 | C3, condition(None));
            }
            X87Op::CompareFlags | X87Op::CompareFlagsQuiet => output = Output::Flags(eflags(None)),
            X87Op::Sine | X87Op::Cosine | X87Op::SineCosine | X87Op::Tangent => self.set_condition(C2, 0),
            X87Op::Remainder | X87Op::RemainderNearest => self.set_condition(C2, 0),
            _ => {}
        }
        if self.control.unmasked() & exception::INVALID != 0 {
            return output;
        }
        match insn.op {
            X87Op::Compare | X87Op::CompareQuiet | X87Op::Test => {}
            X87Op::CompareFlags | X87Op::CompareFlagsQuiet => {}
            X87Op::Load | X87Op::LoadConstant(_) => self.push(F80::INDEFINITE),
            X87Op::Extract | X87Op::SineCosine | X87Op::Tangent => {
                self.set(0, F80::INDEFINITE);
                self.push(F80::INDEFINITE);
            }
            X87Op::Log2Times | X87Op::Log2p1Times | X87Op::Arctangent => self.set(1, F80::INDEFINITE),
            X87Op::Exchange => {
                let of = |i| if self.is_empty(i) { F80::INDEFINITE } else { self.raw(i) };
                let (a, b) = (of(0), of(insn.index));
                self.set(0, b);
                self.set(insn.index, a);
            }
            _ => match insn.place {
                Place::Destination => self.set(insn.index, F80::INDEFINITE),
                _ if !insn.is_store() => self.set(0, F80::INDEFINITE),
                Place::F32 => output = Output::Store(u32::DEFAULT_NAN.into()),
                Place::F64 => output = Output::Store(u64::DEFAULT_NAN.into()),
                Place::Bcd => output = Output::Store(f80::BCD_INDEFINITE),
                Place::F80 => output = Output::Store(F80::INDEFINITE.to_bits()),
                place => output = Output::Store(1 << (8 * place.bytes() - 1)),
            },
        }
        self.pop_times(insn.pops);
        output
    }
}
