//! What AMD's processors do in another way than Intel's, and so than squib's CPU.
//!
//! Two tables, of results and of faults. APM is AMD's "AMD64 Architecture Programmer's Manual"; what it does not settle was
//! measured on family 25.

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

use crate::case::Case;
use crate::compare::Difference;
use crate::forms;
use crate::layout::Mode;
use crate::state::{BREAKPOINT, Event, Field, Outcome, fx};

/// RFLAGS.AC.
const ALIGNMENT_CHECK: u64 = 1 << 18;

/// Bytes of the longest operand, within which an address is still that operand's.
const OPERAND: u64 = 1 << 10;

/// Whether AMD's processors have not got this form. Far pointers have at most 32 bits of offset (APM vol. 3, "CALL (Far)",
/// "JMP (Far)", "LDS/LES/LFS/LGS/LSS"): they ignore REX.W.
pub const fn amd_lacks(code: Code) -> bool {
    matches!(
        code,
        Code::Call_m1664 | Code::Jmp_m1664 | Code::Lfs_r64_m1664 | Code::Lgs_r64_m1664 | Code::Lss_r64_m1664
    )
}

/// A result that is AMD's own. In a sequence it may go on to whatever is left there; of a case with one instruction it is only
/// what `part` says.
struct Value {
    what: &'static str,
    /// Which instructions.
    is: fn(&Case, &Instruction) -> bool,
    /// Whether the difference is in what they leave to the processor, where they stand alone.
    part: fn(&Instruction, Part<'_>) -> bool,
}

/// A difference in a register or in memory.
struct Part<'a> {
    name: &'a str,
    /// Values of the register.
    host: u128,
    soft: u128,
}

impl Part<'_> {
    /// Whether it is in operand 0.
    fn is_destination(&self, i: &Instruction) -> bool {
        match i.op0_kind() {
            OpKind::Register => Field::by_name(self.name) == field(i.op0_register()),
            _ => self.name == "memory",
        }
    }

    /// Whether all lanes of 32 bits are alike by `alike`.
    fn lanes(&self, alike: impl Fn(u32, u32) -> bool) -> bool {
        (0..4).all(|n| alike((self.host >> (32 * n)) as u32, (self.soft >> (32 * n)) as u32))
    }
}

const VALUES: [Value; 6] = [
    // APM vol. 4, "RCPPS" and "RSQRTPS": the relative error is 1.5 * 2^-12 at most; two processors differ by twice that.
    Value {
        what: "digits of RCPPS, RCPSS, RSQRTPS, RSQRTSS",
        is: |_, i| matches!(i.mnemonic(), M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss),
        part: |i, p| p.is_destination(i) && p.lanes(|a, b| a.abs_diff(b) <= 3 << 12),
    },
    // Measured. The manuals' tables of NaNs are of instructions with one operation; here several are added up.
    Value {
        what: "which NaN DPPS and DPPD leave",
        is: |_, i| matches!(i.mnemonic(), M::Dpps | M::Dppd),
        part: |i, p| {
            let nan = |x: u32| f32::from_bits(x).is_nan();
            let double = |x: u128| f64::from_bits(x as u64).is_nan();
            p.is_destination(i)
                && match i.mnemonic() {
                    M::Dpps => p.lanes(|a, b| a == b || nan(a) && nan(b)),
                    _ => [0, 64].into_iter().all(|n| {
                        let (a, b) = (p.host >> n, p.soft >> n);
                        a as u64 == b as u64 || double(a) && double(b)
                    }),
                }
        },
    },
    // APM vol. 3, "SHLD" and "SHRD", and Intel SDM vol. 2 on the same pages: the result is undefined.
    Value {
        what: "SHLD and SHRD of 16 bits by more than 16",
        is: |case, i| {
            let count = match i.code() {
                Code::Shld_rm16_r16_imm8 | Code::Shrd_rm16_r16_imm8 => i.immediate8(),
                Code::Shld_rm16_r16_CL | Code::Shrd_rm16_r16_CL if case.code.len() == 1 => {
                    case.state.gpr[1] as u8
                }
                Code::Shld_rm16_r16_CL | Code::Shrd_rm16_r16_CL => return true,
                _ => return false,
            };
            count & 31 > 16
        },
        part: |i, p| p.is_destination(i),
    },
    // Measured. Intel's write the selector's 16 bits only (Intel SDM vol. 2, "PUSH").
    Value {
        what: "the other half of a selector that is pushed by PUSH or a far CALL",
        is: |case, i| {
            case.mode != Mode::Bits64
                && i.mnemonic() == M::Push
                && i.op0_kind() == OpKind::Register
                && i.op0_register().is_segment_register()
        },
        part: |_, p| p.name == "memory",
    },
    // Measured. Intel's clear them.
    Value {
        what: "bits 63:32 of RCX, RSI and RDI after no element of a string at 32-bit addresses",
        is: |case, i| {
            case.mode.bits() == 64
                && i.is_string_instruction()
                && (i.has_rep_prefix() || i.has_repne_prefix())
                && i.op_kinds().any(|k| matches!(k, OpKind::MemorySegESI | OpKind::MemoryESEDI))
        },
        part: |_, p| matches!(p.name, "rcx" | "rsi" | "rdi") && p.host as u32 == p.soft as u32,
    },
    // Measured, as a guest of a hypervisor: it is reported as a fault.
    Value {
        what: "the address that INT1 saves",
        is: |_, i| i.mnemonic() == M::Int1,
        part: |_, p| p.name == "rip" && p.soft == p.host + 1,
    },
];

/// A fault that is AMD's own. Where both processors stop there, it covers the parts that it names; where only one does, all
/// that comes after.
struct Fault {
    what: &'static str,
    is: fn(&Stop<'_>) -> bool,
    parts: &'static [&'static str],
}

/// An instruction at which one of the two processors stopped.
struct Stop<'a> {
    i: &'a Instruction,
    case: &'a Case,
    /// What stopped the host there.
    host: Option<Event>,
    /// What stopped squib's CPU there.
    soft: Option<Event>,
    /// What squib's CPU left.
    got: &'a Outcome,
    /// RFLAGS as the processor that stopped there saved them.
    flags: u64,
}

impl Stop<'_> {
    fn both_page_fault(&self) -> bool {
        let page = |e: Option<Event>| e.and_then(Event::vector) == Some(14);
        page(self.host) && page(self.soft)
    }

    fn has_memory(&self) -> bool {
        (0..self.i.op_count()).any(|n| self.i.op_kind(n) == OpKind::Memory)
    }

    /// An exception that an address has raised.
    fn host_finds_address(&self) -> bool {
        matches!(self.host.and_then(Event::vector), Some(12..=14 | 17))
    }
}

const FAULTS: [Fault; 10] = [
    // Measured: they are not checked. Intel's raise #GP(0) (Intel SDM vol. 2, "SHA1MSG1" and the others).
    Fault {
        what: "SHA instructions' operands that are not aligned",
        is: |s| {
            let sha = matches!(
                s.i.mnemonic(),
                M::Sha1msg1
                    | M::Sha1msg2
                    | M::Sha1nexte
                    | M::Sha1rnds4
                    | M::Sha256msg1
                    | M::Sha256msg2
                    | M::Sha256rnds2
            );
            sha && s.has_memory() && s.soft == Some(Event::exception(13, 0))
        },
        parts: &["event"],
    },
    // APM vol. 3, "PREFETCHlevel" and "PREFETCHW": #UD for registers.
    Fault {
        what: "0F 0D with a register",
        is: |s| {
            let nop = matches!(
                s.i.code(),
                Code::Reservednop_rm16_r16_0F0D
                    | Code::Reservednop_rm32_r32_0F0D
                    | Code::Reservednop_rm64_r64_0F0D
            );
            nop && !s.has_memory() && s.host.and_then(Event::vector) == Some(6)
        },
        parts: &[],
    },
    // Measured. In Intel's a flat segment lets operands go round.
    Fault {
        what: "operands that go round the end of 4 GiB in compatibility mode",
        is: |s| {
            let limit = matches!(s.host.and_then(Event::vector), Some(12 | 13));
            let end = |e| match e {
                Event::Exception { vector: 14, address, .. } => {
                    !(OPERAND..=u64::from(u32::MAX) - OPERAND).contains(&address)
                }
                _ => false,
            };
            s.case.mode == Mode::Bits32 && limit && s.soft.is_some_and(end)
        },
        parts: &["event"],
    },
    // Measured. Intel's read what RDI points to first.
    Fault {
        what: "which operand of CMPS is read first",
        is: |s| matches!(s.i.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq) && s.host_finds_address(),
        parts: &["event"],
    },
    // Measured. Intel's keep those from before the instruction (Intel SDM vol. 2, "REP/REPE/REPZ/REPNE/REPNZ").
    Fault {
        what: "status flags where an element of CMPS or SCAS faults",
        is: |s| {
            let repeated = s.i.has_rep_prefix() || s.i.has_repne_prefix();
            s.i.is_string_instruction()
                && repeated
                && s.i.rflags_modified() != 0
                && s.host_finds_address()
                && s.soft.is_some()
        },
        parts: &["flags"],
    },
    // APM vol. 4, "MASKMOVDQU": exceptions of bytes that are not written are the implementation's.
    Fault {
        what: "which byte MASKMOVDQU's page faults name",
        is: |s| s.i.mnemonic() == M::Maskmovdqu && s.both_page_fault(),
        parts: &["event"],
    },
    // Measured. In Intel's an exception that keeps the result away keeps the store away, too.
    Fault {
        what: "x87 stores: the address is looked at before the number",
        is: |s| {
            let store =
                matches!(s.i.mnemonic(), M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp);
            store && s.has_memory() && s.host_finds_address() && s.got.state.get(fx::FSW, 2) & 0x80 != 0
        },
        parts: &["event", "fsw"],
    },
    // Measured. Intel's store 8 bytes and then 2.
    Fault {
        what: "FSTP of 80 bits: all of the operand is looked at before any of it is stored",
        is: |s| s.i.code() == Code::Fstp_m80fp && s.host_finds_address() && s.soft.is_some(),
        parts: &["memory", "event"],
    },
    // APM vol. 3, pseudocode of "RET (Far)" and "IRET": all pops are of the operand's size.
    Fault {
        what: "far returns read whole slots for selectors",
        is: |s| forms::is_far(s.i.code()) && s.host_finds_address() && s.soft.is_some(),
        parts: &["event"],
    },
    // Measured. Intel's look for the page first, and do not check PCMPESTRI and its kin.
    Fault {
        what: "alignment is checked before pages and canonical addresses, and for string comparisons of SSE4.2",
        is: |s| s.flags & ALIGNMENT_CHECK != 0 && s.host == Some(Event::exception(17, 0)),
        parts: &["event"],
    },
];

/// The register's field.
fn field(register: Register) -> Option<Field> {
    if register.is_xmm() {
        return Field::by_name(&format!("xmm{}", register.number()));
    }
    register.is_gpr().then(|| Field::Gpr(register.full_register().number()))
}

/// Why AMD's host differs from squib's CPU in all of `differences`, in words; `None` where something is left that is not AMD's own
/// choice.
pub fn amds_choice(
    case: &Case,
    host: &Outcome,
    soft: &Outcome,
    differences: &[Difference],
) -> Option<&'static str> {
    let bytes = case.bytes();
    let code: Vec<Instruction> = case.decoder(&bytes).into_iter().collect();
    let mut why = None;
    for difference in differences {
        let value = |register: &Outcome| {
            Field::by_name(&difference.what).map_or(0, |field| field.get(&register.state))
        };
        let by_value = |i: &Instruction| {
            let applies = |v: &&Value| {
                let part = Part { name: &difference.what, host: value(host), soft: value(soft) };
                (v.is)(case, i) && (code.len() > 1 || (v.part)(i, part))
            };
            VALUES.iter().find(applies).map(|v| v.what)
        };
        let by_fault = |i: &Instruction| {
            let stop = |o: &Outcome| (o.event != BREAKPOINT && o.state.rip == i.ip()).then_some(o.event);
            let (at_host, at_soft) = (stop(host), stop(soft));
            let flags = if at_host.is_some() { host.state.rflags } else { soft.state.rflags };
            let stop = Stop { i, case, host: at_host, soft: at_soft, got: soft, flags };
            let both = at_host.is_some() && at_soft.is_some();
            let applies =
                |f: &&Fault| (f.is)(&stop) && (!both || f.parts.contains(&difference.what.as_str()));
            FAULTS.iter().filter(|_| at_host.is_some() || at_soft.is_some()).find(applies).map(|f| f.what)
        };
        why = Some(code.iter().find_map(|i| by_fault(i).or_else(|| by_value(i)))?);
    }
    why
}
