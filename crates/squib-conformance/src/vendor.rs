//! What AMD's processors do in another way than Intel's, and so than squib's CPU.
//!
//! Two tables, of results and of faults, each as narrow as it can be told from what the two leave. APM is AMD's "AMD64
//! Architecture Programmer's Manual"; what it does not settle was measured on family 25.

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

use crate::case::Case;
use crate::compare::{self, Difference};
use crate::forms;
use crate::layout::Mode;
use crate::state::{BREAKPOINT, Event, Field, Outcome, RESUME, State, fx};
use crate::trace::Trace;

/// RFLAGS' status flags.
const STATUS: u64 = 0x8d5;

/// Bytes of the longest operand, within which an address is still that operand's.
const OPERAND: u64 = 1 << 10;

/// Whether AMD's processors have not got this form. Far pointers have at most 32 bits of offset (APM vol. 3, "CALL (Far)" and
/// "JMP (Far)"): these ignore REX.W, and so do LFS, LGS and LSS (measured). 0F 0D with a register raises #UD (measured).
pub const fn amd_lacks(code: Code) -> bool {
    matches!(
        code,
        Code::Call_m1664
            | Code::Jmp_m1664
            | Code::Lfs_r64_m1664
            | Code::Lgs_r64_m1664
            | Code::Lss_r64_m1664
            | Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
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

const VALUES: &[Value] = &[
    // Intel SDM vol. 2, "RCPPS" and "RSQRTPS": the relative error is 1.5 * 2^-12 at most, so that two processors differ by twice
    // that; AMD's do, too (measured).
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
        what: "the other half of a selector that is pushed",
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
        part: |_, p| {
            matches!(p.name, "rcx" | "rsi" | "rdi") && p.host as u32 == p.soft as u32 && p.soft >> 32 == 0
        },
    },
    // Measured: they keep more of it than Intel's (Intel SDM vol. 1, 8.1.8). `compare` leaves out the fields themselves.
    Value {
        what: "x87's last instruction and operand, read from where they were stored",
        is: |_, i| compare::stores_environment(i.mnemonic()),
        part: |_, _| false,
    },
    // Measured. Intel's take it for PAUSE.
    Value {
        what: "PAUSE with REX.B is XCHG",
        is: |case, i| case.mode.bits() == 64 && i.mnemonic() == M::Pause && i.len() > 2,
        part: |_, p| matches!(p.name, "rax" | "r8"),
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
    /// What they left.
    states: [&'a State; 2],
}

impl Stop<'_> {
    fn is_repeated(&self) -> bool {
        self.i.is_string_instruction() && (self.i.has_rep_prefix() || self.i.has_repne_prefix())
    }

    /// Whether both stopped by this exception.
    fn both(&self, vector: u8) -> bool {
        [self.host, self.soft].into_iter().all(|e| e.and_then(Event::vector) == Some(vector))
    }

    /// Whether both stopped, and saved all flags but these alike.
    fn flags_differ_in(&self, flags: u64) -> bool {
        let [host, soft] = self.states;
        self.host.is_some() && self.soft.is_some() && (host.rflags ^ soft.rflags) & !flags == 0
    }

    fn has_memory(&self) -> bool {
        (0..self.i.op_count()).any(|n| self.i.op_kind(n) == OpKind::Memory)
    }

    /// An exception that an address has raised.
    fn host_finds_address(&self) -> bool {
        matches!(self.host.and_then(Event::vector), Some(12..=14 | 17))
    }
}

const FAULTS: &[Fault] = &[
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
    // Measured. Intel's read 16.
    Fault {
        what: "MOVSXD to 16 bits reads 32",
        is: |s| s.i.code() == Code::Movsxd_r16_rm16 && s.host_finds_address(),
        parts: &["event"],
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
        what: "status flags between the elements of CMPS and SCAS",
        is: |s| s.is_repeated() && s.i.rflags_modified() != 0 && s.flags_differ_in(STATUS | RESUME),
        parts: &["flags"],
    },
    // Measured. Intel's set it (Intel SDM vol. 3, "Instruction-Breakpoint Exception Condition").
    Fault {
        what: "RF as a single step between the elements of a string saves it",
        is: |s| s.is_repeated() && s.both(1) && s.flags_differ_in(STATUS | RESUME),
        parts: &["flags"],
    },
    // Measured. The manuals do not say.
    Fault {
        what: "which byte MASKMOVDQU's faults are about",
        is: |s| s.i.mnemonic() == M::Maskmovdqu && s.host_finds_address() && s.soft.is_some(),
        parts: &["event"],
    },
    // Measured. In Intel's an exception that keeps the result away keeps the store away, too.
    Fault {
        what: "x87 stores: the address is looked at before the number",
        is: |s| {
            let store =
                matches!(s.i.mnemonic(), M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp);
            store && s.has_memory() && s.host_finds_address() && s.states[0].get(fx::FCW, 1) & 0x3f != 0x3f
        },
        parts: &["event", "fsw"],
    },
    // Measured. Intel's store 8 bytes and then 2.
    Fault {
        what: "FSTP and FBSTP of 80 bits: all of the operand is looked at before any of it is stored",
        is: |s| {
            matches!(s.i.code(), Code::Fstp_m80fp | Code::Fbstp_m80bcd)
                && s.host_finds_address()
                && s.soft.is_some()
        },
        parts: &["memory", "event"],
    },
    // APM vol. 3, "RET (Far)": the operand's size is that of all pops. IRET and POP measured. Intel's read 16 bits.
    Fault {
        what: "far returns and POP read whole slots for selectors",
        is: |s| {
            let selector = s.i.mnemonic() == M::Pop && s.i.op0_register().is_segment_register();
            (selector || forms::is_far(s.i.code())) && s.host.and_then(Event::vector) == Some(14)
        },
        parts: &["event"],
    },
    // Measured. Intel's write it first.
    Fault {
        what: "CALL looks at its target before it writes the return address",
        is: |s| s.i.is_call_near_indirect() && s.both(13),
        parts: &["memory"],
    },
    // Measured. Intel's read the upper bound only where the lower one holds.
    Fault {
        what: "BOUND reads both bounds",
        is: |s| {
            s.i.mnemonic() == M::Bound && s.host_finds_address() && s.soft == Some(Event::exception(5, 0))
        },
        parts: &["event"],
    },
    // Measured. Intel's fetch a ModRM byte and what belongs to it (Intel SDM vol. 2, "UD").
    Fault {
        what: "UD0 and UD1 have no operands",
        is: |s| matches!(s.i.mnemonic(), M::Ud0 | M::Ud1) && s.host.and_then(Event::vector) == Some(6),
        parts: &["event"],
    },
    // Measured: with what belongs to a ModRM byte, and immediates. squib's CPU fetches as far as it takes to see that there is no such
    // instruction.
    Fault {
        what: "how many bytes are fetched that are no instruction",
        is: |s| {
            let ud = s.soft.and_then(Event::vector) == Some(6);
            s.case.mode == Mode::Bits32 && s.i.is_invalid() && ud && s.host == Some(Event::exception(13, 0))
        },
        parts: &["event"],
    },
    // Measured. Intel's check the linear address only, to which FS's or GS's base has been added.
    Fault {
        what: "offsets in FS and GS that are not canonical",
        is: |s| {
            let base = match s.i.memory_segment() {
                Register::FS => s.states[1].bases[0],
                Register::GS => s.states[1].bases[1],
                _ => return false,
            };
            let canonical = |address: u64| (address as i64) << 16 >> 16 == address as i64;
            let Some(Event::Exception { vector: 14, address, .. }) = s.soft else { return false };
            let limit = matches!(s.host.and_then(Event::vector), Some(12 | 13));
            s.case.mode.bits() == 64 && limit && !canonical(address.wrapping_sub(base))
        },
        parts: &["event"],
    },
    // Measured. Intel's look for the page first, and at the address's form last.
    Fault {
        what: "alignment is checked before pages, and after canonical addresses",
        is: |s| {
            let address =
                |e: Option<Event>| e.and_then(Event::vector).is_some_and(|v| (12..=14).contains(&v));
            let alignment = Some(Event::exception(17, 0));
            address(s.host) && s.soft == alignment || s.host == alignment && address(s.soft)
        },
        parts: &["event"],
    },
    // The processor's own choice (Intel SDM vol. 3, "Interrupt 17—Alignment Check Exception (#AC)"); string comparisons measured.
    // Intel's do not check it.
    Fault {
        what: "alignment of 16 bytes that need not be aligned",
        is: |s| {
            let unaligned = matches!(
                s.i.mnemonic(),
                M::Lddqu
                    | M::Movdqu
                    | M::Movupd
                    | M::Movups
                    | M::Pcmpestri
                    | M::Pcmpestri64
                    | M::Pcmpestrm
                    | M::Pcmpestrm64
                    | M::Pcmpistri
                    | M::Pcmpistrm
            );
            unaligned && s.host == Some(Event::exception(17, 0))
        },
        parts: &[],
    },
    // APM vol. 1, "MXCSR Register": MM, misaligned exception mask. Intel's reserve the bit.
    Fault {
        what: "MXCSR's bit 17",
        is: |s| {
            let loads =
                matches!(s.i.mnemonic(), M::Ldmxcsr | M::Fxrstor | M::Fxrstor64 | M::Xrstor | M::Xrstor64);
            loads && s.soft == Some(Event::exception(13, 0)) && s.states[0].get(fx::MXCSR, 4) & 1 << 17 != 0
        },
        parts: &[],
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
    trace: &Trace,
    host: &Outcome,
    soft: &Outcome,
    differences: &[Difference],
) -> Option<&'static str> {
    if differences.is_empty() {
        return None;
    }
    // Measured. However short the string is, they look for changes of its code behind all of it.
    if compare::outruns_its_code(case, host, 1) {
        return Some("repeated stores over their own code");
    }
    let alone = case.code.len() == 1;
    let mut why = None;
    for difference in differences {
        let value =
            |outcome: &Outcome| Field::by_name(&difference.what).map_or(0, |field| field.get(&outcome.state));
        let by_value = |i: &Instruction| {
            let applies = |v: &&Value| {
                let part = Part { name: &difference.what, host: value(host), soft: value(soft) };
                (v.is)(case, i) && (!alone || (v.part)(i, part))
            };
            VALUES.iter().find(applies).map(|v| v.what)
        };
        let by_fault = |i: &Instruction| {
            let stop = |o: &Outcome| (o.event != BREAKPOINT && o.state.rip == i.ip()).then_some(o.event);
            let (at_host, at_soft) = (stop(host), stop(soft));
            let stop = Stop { i, case, host: at_host, soft: at_soft, states: [&host.state, &soft.state] };
            // A pending x87 exception stops a loop a round later.
            let pending = at_soft.and_then(Event::vector) == Some(16);
            let both = at_host.is_some() && at_soft.is_some() && !pending;
            let applies =
                |f: &&Fault| (f.is)(&stop) && (!both || f.parts.contains(&difference.what.as_str()));
            FAULTS.iter().filter(|_| at_host.is_some() || at_soft.is_some()).find(applies).map(|f| f.what)
        };
        why = Some(trace.instructions().iter().find_map(|i| by_fault(i).or_else(|| by_value(i)))?);
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::soft_guests;
    use crate::case::Test;
    use crate::compare::compare;

    /// What AMD's host is said to have chosen, where it leaves one thing and squib's CPU another.
    fn choice(case: &str, host: &str, soft: &str) -> Option<&'static str> {
        let outcome = |left: &str| {
            let test: Test = format!("{case} => {left}").parse().unwrap();
            (test.case, test.expected.unwrap().outcome)
        };
        let ((case, host), (_, soft)) = (outcome(host), outcome(soft));
        let [_, mut plain] = soft_guests().unwrap();
        let trace = plain.trace(&case).unwrap();
        amds_choice(&case, &trace, &host, &soft, &compare(&case, &trace, &host, &soft))
    }

    #[test]
    fn approximations_are_near_each_other() {
        let rcpss = "code=f30f53c1 xmm1=3f800000";
        assert!(choice(rcpss, "xmm0=3f7ff000", "xmm0=3f7fe800").is_some());
        assert_eq!(choice(rcpss, "xmm0=3f7ff000", "xmm0=3f000000"), None, "far from it");
        assert_eq!(choice(rcpss, "xmm0=3f7ff000", "xmm2=3f7ff000"), None, "another register");
    }

    #[test]
    fn a_choice_is_of_one_instruction_or_of_its_sequence() {
        let wide = ("rsp=2000901c 2000901c=2b000000", "rsp=2000901c 2000901c=2b00");
        assert!(choice("mode=32 code=1e rsp=20009020", wide.0, wide.1).is_some());
        assert_eq!(choice("mode=32 code=50 rsp=20009020", wide.0, wide.1), None, "push eax");
        assert!(choice("mode=32 code=1e.58 rsp=20009020", "rax=2b", "rax=4c2b").is_some());
        assert_eq!(choice("mode=32 code=50.58 rsp=20009020", "rax=2b", "rax=4c2b"), None);
    }

    #[test]
    fn counts_within_the_operand_are_no_choice() {
        for (count, chosen) in [("11", true), ("1f", true), ("10", false), ("21", false)] {
            let case = format!("code=660fa4d8{count}");
            assert_eq!(choice(&case, "rax=1", "rax=2").is_some(), chosen, "by {count}");
        }
    }

    #[test]
    fn a_choice_of_faults_leaves_registers_alone() {
        let cmpsb = "code=f3a6 rcx=1 rdi=1";
        assert!(choice(cmpsb, "PF(4)@0", "PF(4)@1").is_some());
        assert_eq!(choice(cmpsb, "PF(4)@0", "PF(4)@1 rcx=0"), None);
        // An operand at the end of 4 GiB, and one that is elsewhere.
        let load = "mode=32 code=8b03 rbx=fffffffe";
        assert!(choice(load, "GP(0)", "PF(4)@fffffffe").is_some());
        assert_eq!(choice(load, "GP(0)", "PF(4)@30000000"), None);
        assert_eq!(choice("code=8b03 rbx=fffffffe", "GP(0)", "PF(4)@fffffffe"), None, "in 64-bit mode");
    }

    #[test]
    fn what_comes_after_a_fault_of_one_of_the_two_is_not_known() {
        let aligned = "code=0f38c903.90 rbx=20004101";
        assert!(choice(aligned, "xmm0=1", "GP(0)").is_some());
        assert_eq!(choice(aligned, "GP(0)", "xmm0=1"), None);
    }
}
