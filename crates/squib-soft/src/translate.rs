//! From guest bytes to blocks.
#![allow(unsafe_code, reason = "code bytes are copied out of guest RAM by host address")]

use iced_x86::Mnemonic as M;
use squib_x86::insn::{DecodeError, Insn, InsnDecoder, Operand, Rep};
use squib_x86::offer::admit;
use squib_x86::sem::{ConditionalKind, condition};
use squib_x86::{Exception, flags};

use crate::block::{Block, Key, MAX_INSNS};
use crate::cpu::Cpu;
use crate::interp::{handlers, select};
use crate::mmu::Physical;
use crate::op::{Handler, Op};

const PAGE: u64 = 4096;

/// Longest instruction in bytes.
const MAX_LEN: usize = 15;

/// Code bytes looked at for one block.
const WINDOW: usize = 1024;

/// Whether nothing may follow an instruction in its block: it goes elsewhere, or changes what the following bytes mean,
/// or what may happen between them and it.
fn ends_block(i: &Insn) -> bool {
    if matches!(condition(i.mnemonic), Some((ConditionalKind::Jump, _)))
        || i.rep != Rep::None && is_string(i.mnemonic)
    {
        return true;
    }
    let system_move = |o: &Operand<_>| matches!(o, Operand::Seg(_) | Operand::Cr(_) | Operand::Dr(_));
    match i.mnemonic {
        M::Mov | M::Pop => system_move(&i.ops[0]),
        M::Jmp
        | M::Call
        | M::Ret
        | M::Retf
        | M::Loop
        | M::Loope
        | M::Loopne
        | M::Jcxz
        | M::Jecxz
        | M::Jrcxz => true,
        M::Iret
        | M::Iretd
        | M::Iretq
        | M::Syscall
        | M::Sysret
        | M::Sysretq
        | M::Sysenter
        | M::Sysexit
        | M::Sysexitq => true,
        M::Int
        | M::Int1
        | M::Int3
        | M::Into
        | M::Ud0
        | M::Ud1
        | M::Ud2
        | M::Hlt
        | M::Sti
        | M::Popf
        | M::Popfd
        | M::Popfq => true,
        M::Lds
        | M::Les
        | M::Lss
        | M::Lfs
        | M::Lgs
        | M::Lldt
        | M::Ltr
        | M::Lgdt
        | M::Lidt
        | M::Lmsw
        | M::Clts => true,
        M::Wrmsr
        | M::Xsetbv
        | M::Invlpg
        | M::Invpcid
        | M::Swapgs
        | M::Stac
        | M::Clac
        | M::Wrpkru
        | M::Vmcall
        | M::Vmmcall => true,
        M::In
        | M::Out
        | M::Pause
        | M::Monitor
        | M::Mwait
        | M::Wbinvd
        | M::Invd
        | M::Rsm
        | M::Cpuid
        | M::Serialize => true,
        M::Wrfsbase | M::Wrgsbase | M::INVALID => true,
        _ => false,
    }
}

/// Whether a mnemonic is a string instruction's. MOVSD and CMPSD are also SSE instructions, which take no REP.
pub(crate) fn is_string(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Movsb
            | Movsw
            | Movsd
            | Movsq
            | Stosb
            | Stosw
            | Stosd
            | Stosq
            | Lodsb
            | Lodsw
            | Lodsd
            | Lodsq
            | Scasb
            | Scasw
            | Scasd
            | Scasq
            | Cmpsb
            | Cmpsw
            | Cmpsd
            | Cmpsq
            | Insb
            | Insw
            | Insd
            | Outsb
            | Outsw
            | Outsd
    )
}

/// Whether an instruction may stop before it is done, so that the flags before it can be seen.
fn may_stop(i: &Insn) -> bool {
    let touches =
        |o: &Operand<_>| matches!(o, Operand::Mem(_) | Operand::Seg(_) | Operand::Cr(_) | Operand::Dr(_));
    i.lock
        || i.ops.iter().any(touches) && i.mnemonic != M::Lea && i.mnemonic != M::Nop
        || !matches!(
            i.mnemonic,
            M::Add
                | M::Or
                | M::And
                | M::Sub
                | M::Xor
                | M::Cmp
                | M::Test
                | M::Mov
                | M::Movzx
                | M::Movsx
                | M::Movsxd
                | M::Lea
                | M::Inc
                | M::Dec
                | M::Neg
                | M::Not
                | M::Shl
                | M::Shr
                | M::Sar
                | M::Rol
                | M::Ror
                | M::Imul
                | M::Bswap
                | M::Cdqe
                | M::Cwde
                | M::Cbw
                | M::Cqo
                | M::Cdq
                | M::Cwd
                | M::Nop
                | M::Bt
                | M::Tzcnt
                | M::Lzcnt
                | M::Popcnt
                | M::Adc
                | M::Sbb
        )
}

/// Whether the flags that `i` may change, it always changes.
fn always_writes(i: &Insn) -> bool {
    let shift = matches!(
        i.mnemonic,
        M::Shl | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    );
    if !shift {
        return true;
    }
    i.ops
        .iter()
        .rev()
        .find_map(|o| if let Operand::Imm(n) = o { Some(n & 31 != 0) } else { None })
        .unwrap_or(false)
}

/// Whether an instruction may write to memory, and so change the code behind it.
fn may_write(i: &Insn) -> bool {
    matches!(i.ops[0], Operand::Mem(_)) && !matches!(i.mnemonic, M::Cmp | M::Test | M::Bt)
}

/// For each instruction, whether anything reads the flags that it leaves.
fn live_flags(insns: &[Insn], live: &mut Vec<bool>) {
    live.clear();
    live.resize(insns.len(), true);
    let mut wanted = flags::STATUS;
    for (i, out) in insns.iter().zip(live.iter_mut()).rev() {
        *out = i.flags_written & if may_write(i) { flags::STATUS } else { wanted } != 0;
        if may_stop(i) {
            wanted = flags::STATUS;
        } else {
            if always_writes(i) {
                wanted &= !i.flags_written;
            }
            wanted |= i.flags_read;
        }
    }
}

impl Cpu {
    /// Copies up to a window of code from one page of RAM, which it marks as code; `None` where there is no RAM.
    fn code_bytes(&mut self, phys: u64, out: &mut [u8; WINDOW]) -> Option<usize> {
        let Physical::Ram { host, code } = self.physical(phys, false) else { return None };
        if !code {
            self.watch_code(phys & !(PAGE - 1));
        }
        let offset = (phys & (PAGE - 1)) as usize;
        let len = (PAGE as usize - offset).min(WINDOW);
        // SAFETY: the bytes from `offset` to the end of the page are RAM, and `out` is not.
        unsafe { std::ptr::copy_nonoverlapping(host.add(offset), out.as_mut_ptr(), len) };
        Some(len)
    }

    /// Decodes the block at `rip`, whose first byte is at `phys`; with `single`, one instruction of it.
    pub(crate) fn decode_block(&mut self, rip: u64, phys: u64, single: bool) -> Result<Block, Exception> {
        let mode = self.decoded.mode;
        let mut window = [0; WINDOW];
        let Some(len) = self.code_bytes(phys, &mut window) else {
            self.unsupported = Some("code in device memory");
            return Err(Exception::UD);
        };
        let key = Key { phys, rip, mode, single };
        let most = if single || self.plain { 1 } else { MAX_INSNS };
        let mut insns = Vec::with_capacity(8);
        let mut decoder = InsnDecoder::new(&window[..len], rip, mode);
        while insns.len() < most {
            match decoder.next_insn() {
                Ok(i) => match admit(&self.model, i) {
                    Some(i) => {
                        let last = ends_block(&i);
                        insns.push(i);
                        if last {
                            break;
                        }
                    }
                    None if insns.is_empty() => return Err(self.no_instruction(rip, decoder.position())),
                    None => break,
                },
                Err(_) if !insns.is_empty() => break,
                Err(DecodeError::Truncated) if (phys & (PAGE - 1)) + len as u64 == PAGE => {
                    return self.decode_crossing(key, &window[..len]);
                }
                Err(DecodeError::Invalid) => return Err(self.no_instruction(rip, decoder.position())),
                Err(_) => return Err(Exception::GP0),
            }
        }
        Ok(self.lower(key, None, insns))
    }

    /// Decodes an instruction of which only `start` lies in this page.
    fn decode_crossing(&mut self, key: Key, start: &[u8]) -> Result<Block, Exception> {
        let next = self.decoded.linear(key.rip.wrapping_add(start.len() as u64))?;
        let phys = self.fetch_address(next)?;
        let mut window = [0; WINDOW];
        let Some(len) = self.code_bytes(phys, &mut window) else {
            self.unsupported = Some("code in device memory");
            return Err(Exception::UD);
        };
        let mut bytes = [0; 2 * MAX_LEN];
        let head = start.len().min(MAX_LEN);
        let tail = len.min(MAX_LEN);
        bytes[..head].copy_from_slice(&start[..head]);
        bytes[head..head + tail].copy_from_slice(&window[..tail]);
        let mut decoder = InsnDecoder::new(&bytes[..head + tail], key.rip, key.mode);
        match decoder.next_insn().map(|i| admit(&self.model, i)) {
            Ok(Some(i)) => Ok(self.lower(key, Some(phys & !(PAGE - 1)), vec![i])),
            Ok(None) | Err(DecodeError::Invalid) => Err(self.no_instruction(key.rip, decoder.position())),
            Err(_) => Err(Exception::GP0),
        }
    }

    /// What `len` bytes at `rip` raise that are no instruction of this processor: what is wrong with fetching them comes first
    /// (Intel SDM vol. 3, 7.9).
    fn no_instruction(&self, rip: u64, len: usize) -> Exception {
        if self.decoded.holds(rip, len as u32) { Exception::UD } else { Exception::GP0 }
    }

    /// Chooses the handlers.
    fn lower(&self, key: Key, second_page: Option<u64>, insns: Vec<Insn>) -> Block {
        let page = key.rip & !(PAGE - 1);
        let mut live = Vec::new();
        live_flags(&insns, &mut live);
        let mut ops = Vec::with_capacity(insns.len() + 2);
        let mut general = Vec::new();
        let mut flag_kind = 0;
        let len: u32 = insns.iter().map(|i| u32::from(i.len)).sum();
        let mut ended = false;
        for (i, &flags_live) in insns.iter().zip(&live) {
            let cx = select::Context { mode: key.mode, page, flags_live, flag_kind };
            ended = ends_block(i);
            if let Some(chosen) = select::select(i, &cx).filter(|_| !self.plain) {
                ops.push(chosen.op);
                if let Some(imm) = chosen.extension {
                    ops.push(Op { run: handlers::stale, a: 0, b: 0, c: 0, len: 0, imm });
                }
            } else {
                let run: Handler = handlers::general;
                ops.push(Op { run, a: u8::from(ended), b: 0, c: 0, len: i.len, imm: general.len() as i32 });
                general.push(*i);
            }
            // Flags that nobody reads may or may not have been set.
            if i.flags_written != 0 {
                flag_kind = if flags_live && always_writes(i) { select::leaves(i) } else { select::UNKNOWN };
            }
        }
        if !ended {
            let next = insns.last().map_or(0, |i| i.next.wrapping_sub(page) as u16);
            let [b, c] = next.to_le_bytes();
            ops.push(Op { run: handlers::end, a: 0, b, c, len: 0, imm: 0 });
        }
        Block {
            key,
            second_page,
            len,
            count: insns.len() as u32,
            ops: ops.into_boxed_slice(),
            insns: general.into_boxed_slice(),
        }
    }
}
