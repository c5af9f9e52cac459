//! The second emitter: it writes an instruction's operations down, one a line.
//!
//! Golden tests hold the meaning of instructions still, people read what a compiler would be given, and the
//! interpreter is not the only one that keeps the shape of [`Emit`] honest.

use std::convert::Infallible;
use std::fmt::Write;

use crate::emit::{Bin, Cmp, Emit, Pure, Un};
use crate::flags::{Cond, FlagOp};
use crate::insn::{Insn, MemRef};
use crate::simd::VecOp;
use crate::size::Size;
use crate::state::REG_ZERO;

/// A recorded listing.
#[derive(Debug, Default)]
pub struct Listing {
    text: String,
    temps: u32,
}

/// A value in a listing: a temporary's number, or a constant.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// Result of an operation.
    Temp(u32),
    /// Known.
    Const(u64),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Temp(n) => write!(f, "t{n}"),
            Self::Const(v) if *v < 10 => write!(f, "{v}"),
            Self::Const(v) => write!(f, "{v:#x}"),
        }
    }
}

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const HIGH: [&str; 4] = ["ah", "ch", "dh", "bh"];
const SEG: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

fn gpr(r: u8) -> &'static str {
    GPR[usize::from(r & 15)]
}

fn name(m: &MemRef) -> String {
    let mut s = format!("{}:[", SEG[usize::from(m.seg).min(5)]);
    if m.base != REG_ZERO {
        let _ = write!(s, "{} + ", gpr(m.base));
    }
    if m.index != REG_ZERO {
        let _ = write!(s, "{}*{} + ", gpr(m.index), 1 << m.scale);
    }
    let _ = write!(s, "{:#x}]", m.disp);
    s
}

fn suffix(size: Size) -> u32 {
    size.bits()
}

/// The operations of one instruction.
pub fn listing(i: &Insn) -> String {
    let mut l = Listing::default();
    let Ok(()) = crate::sem::lift(&mut l, i);
    l.text
}

impl Listing {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{text}");
    }

    fn temp(&mut self, text: std::fmt::Arguments<'_>) -> Value {
        let t = Value::Temp(self.temps);
        self.temps += 1;
        let _ = writeln!(self.text, "{t} = {text}");
        t
    }
}

impl Emit for Listing {
    type V = Value;
    type C = Value;
    type X = Value;
    type Mem = MemRef;
    type Place = MemRef;
    type Stop = Infallible;

    fn imm(&mut self, v: u64) -> Value {
        Value::Const(v)
    }

    fn get(&mut self, size: Size, reg: u8) -> Value {
        self.temp(format_args!("get{} {}", suffix(size), gpr(reg)))
    }

    fn set(&mut self, size: Size, reg: u8, v: Value) {
        self.line(format_args!("set{} {}, {v}", suffix(size), gpr(reg)));
    }

    fn get_high(&mut self, reg: u8) -> Value {
        self.temp(format_args!("get8 {}", HIGH[usize::from(reg & 3)]))
    }

    fn set_high(&mut self, reg: u8, v: Value) {
        self.line(format_args!("set8 {}, {v}", HIGH[usize::from(reg & 3)]));
    }

    fn address(&mut self, m: MemRef) -> Value {
        self.temp(format_args!("address{} {}", suffix(m.addr), name(&m)))
    }

    fn load(&mut self, size: Size, m: MemRef) -> Result<Value, Infallible> {
        Ok(self.temp(format_args!("load{} {}", suffix(size), name(&m))))
    }

    fn store(&mut self, size: Size, m: MemRef, v: Value) -> Result<(), Infallible> {
        self.line(format_args!("store{} {}, {v}", suffix(size), name(&m)));
        Ok(())
    }

    fn place(&mut self, size: Size, m: MemRef) -> Result<MemRef, Infallible> {
        self.line(format_args!("check{} {}", suffix(size), name(&m)));
        Ok(m)
    }

    fn place_load(&mut self, size: Size, p: MemRef) -> Result<Value, Infallible> {
        self.load(size, p)
    }

    fn place_store(&mut self, size: Size, p: MemRef, v: Value) -> Result<(), Infallible> {
        self.store(size, p, v)
    }

    fn push(&mut self, size: Size, v: Value) -> Result<(), Infallible> {
        self.line(format_args!("push{} {v}", suffix(size)));
        Ok(())
    }

    fn check_push(&mut self, size: Size) -> Result<(), Infallible> {
        self.line(format_args!("check.push{}", suffix(size)));
        Ok(())
    }

    fn peek(&mut self, size: Size, base: u8) -> Result<Value, Infallible> {
        Ok(self.temp(format_args!("peek{} {}", suffix(size), gpr(base))))
    }

    fn drop_stack(&mut self, bytes: u64) {
        self.line(format_args!("drop {bytes}"));
    }

    fn bin(&mut self, op: Bin, size: Size, a: Value, b: Value) -> Value {
        let op = format!("{op:?}").to_lowercase();
        self.temp(format_args!("{op}{} {a}, {b}", suffix(size)))
    }

    fn un(&mut self, op: Un, size: Size, a: Value) -> Value {
        let op = format!("{op:?}").to_lowercase();
        self.temp(format_args!("{op}{} {a}", suffix(size)))
    }

    fn pure(&mut self, op: Pure, size: Size, a: Value, b: Value) -> Value {
        let op = format!("{op:?}").to_lowercase();
        self.temp(format_args!("{op}.{} {a}, {b}", suffix(size)))
    }

    fn sext(&mut self, from: Size, to: Size, v: Value) -> Value {
        self.temp(format_args!("sext{}to{} {v}", suffix(from), suffix(to)))
    }

    fn mul_wide(&mut self, signed: bool, size: Size, a: Value, b: Value) -> (Value, Value) {
        let kind = if signed { "signed" } else { "unsigned" };
        let lo = self.temp(format_args!("mul{}.low {a}, {b}", suffix(size)));
        let hi = self.temp(format_args!("mul{}.high.{kind} {a}, {b}", suffix(size)));
        (lo, hi)
    }

    fn div_wide(
        &mut self,
        signed: bool,
        size: Size,
        hi: Value,
        lo: Value,
        d: Value,
    ) -> Result<(Value, Value), Infallible> {
        let kind = if signed { "signed" } else { "unsigned" };
        let q = self.temp(format_args!("div{}.{kind} {hi}:{lo}, {d}", suffix(size)));
        let r = self.temp(format_args!("rem{}.{kind} {hi}:{lo}, {d}", suffix(size)));
        Ok((q, r))
    }

    fn cmp(&mut self, op: Cmp, a: Value, b: Value) -> Value {
        let op = format!("{op:?}").to_lowercase();
        self.temp(format_args!("{op} {a}, {b}"))
    }

    fn sel(&mut self, c: Value, a: Value, b: Value) -> Value {
        self.temp(format_args!("sel {c}, {a}, {b}"))
    }

    fn flags(&mut self, op: FlagOp, size: Size, res: Value, b: Value) {
        let op = format!("{op:?}").to_lowercase();
        self.line(format_args!("flags.{op}{} {res}, {b}", suffix(size)));
    }

    fn flags_if(&mut self, c: Value, op: FlagOp, size: Size, res: Value, b: Value) {
        let op = format!("{op:?}").to_lowercase();
        self.line(format_args!("flags.{op}{} {res}, {b} if {c}", suffix(size)));
    }

    fn status(&mut self) -> Value {
        self.temp(format_args!("status"))
    }

    fn carry(&mut self) -> Value {
        self.temp(format_args!("carry"))
    }

    fn cond(&mut self, cc: Cond) -> Value {
        let cc = format!("{cc:?}").to_lowercase();
        self.temp(format_args!("cond.{cc}"))
    }

    fn check_target(&mut self, target: Value) -> Result<(), Infallible> {
        self.line(format_args!("check.target {target}"));
        Ok(())
    }

    fn check_target_if(&mut self, c: Value, target: Value) -> Result<(), Infallible> {
        self.line(format_args!("check.target {target} if {c}"));
        Ok(())
    }

    fn jump(&mut self, target: Value) -> Result<(), Infallible> {
        self.line(format_args!("jump {target}"));
        Ok(())
    }

    fn jump_if(&mut self, c: Value, target: Value) -> Result<(), Infallible> {
        self.line(format_args!("jump {target} if {c}"));
        Ok(())
    }

    fn helper(&mut self, i: &Insn) -> Result<(), Infallible> {
        self.line(format_args!("helper {:?}", i.code));
        Ok(())
    }

    fn check_vex(&mut self) -> Result<(), Infallible> {
        self.line(format_args!("check.vex"));
        Ok(())
    }

    fn check_vector(&mut self, mmx: bool) -> Result<(), Infallible> {
        self.line(format_args!("check.{}", if mmx { "mmx" } else { "sse" }));
        Ok(())
    }

    fn enter_mmx(&mut self) {
        self.line(format_args!("enter.mmx"));
    }

    fn get_mm(&mut self, reg: u8) -> Value {
        self.temp(format_args!("get64 mm{reg}"))
    }

    fn set_mm(&mut self, reg: u8, x: Value) {
        self.line(format_args!("set64 mm{reg}, {x}"));
    }

    fn get_x(&mut self, reg: u8) -> Value {
        self.temp(format_args!("get128 xmm{reg}"))
    }

    fn set_x(&mut self, reg: u8, x: Value) {
        self.line(format_args!("set128 xmm{reg}, {x}"));
    }

    fn load_x(&mut self, bytes: u8, aligned: bool, m: MemRef) -> Result<Value, Infallible> {
        let aligned = if aligned { ".aligned" } else { "" };
        Ok(self.temp(format_args!("load{}{aligned} {}", u32::from(bytes) * 8, name(&m))))
    }

    fn store_x(&mut self, bytes: u8, aligned: bool, m: MemRef, x: Value) -> Result<(), Infallible> {
        let aligned = if aligned { ".aligned" } else { "" };
        self.line(format_args!("store{}{aligned} {}, {x}", u32::from(bytes) * 8, name(&m)));
        Ok(())
    }

    fn vec(&mut self, op: VecOp, a: Value, b: Value, imm: u8) -> Result<Value, Infallible> {
        let op = format!("{op:?}").to_lowercase();
        Ok(self.temp(format_args!("{op} {a}, {b}, {imm}")))
    }

    fn x_to_v(&mut self, x: Value) -> Value {
        self.temp(format_args!("low64 {x}"))
    }

    fn v_to_x(&mut self, v: Value) -> Value {
        self.temp(format_args!("widen {v}"))
    }
}
