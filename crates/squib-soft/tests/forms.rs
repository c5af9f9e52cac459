//! Every form of every instruction that a model offers executes, in every mode that has it; every other raises #UD.
//!
//! The forms are those of iced-x86's tables, so that a feature that becomes offered brings its forms with it.

use std::sync::Arc;

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, EncodingKind, Instruction, Mnemonic as M, OpCodeInfo,
    OpCodeOperandKind as K, OpKind, Register,
};
use squib_core::x86::{DescriptorTable, Registers, Segment, X86State, bits::*};
use squib_core::{GuestMemory, HypervisorBackend, IrqchipKind, Vcpu, VmConfig, VmEntry, VmExit};
use squib_soft::{CpuModel, SoftBackend};
use squib_vmm::host::{StdClock, ThreadWaker};
use squib_x86::CodeMode;
use squib_x86::insn::decode;
use squib_x86::model::Vendor;
use squib_x86::offer::admit;
use squib_x86::system::bits::{CR4_FSGSBASE, CR4_PKE};

const PML4: u64 = 0x1000;
const DATA: u64 = 0x4000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x5800;
const STACK: u64 = 0x6000;
/// Handler of #UD: HLT.
const HANDLER: u64 = 0x7000;
const CODE: u64 = 0x8000;

const SYSENTER_CS: u32 = 0x174;

/// How the processor is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Real,
    Protected16,
    Protected32,
    Long,
}

impl Setting {
    const ALL: [Self; 4] = [Self::Real, Self::Protected16, Self::Protected32, Self::Long];

    fn mode(self) -> CodeMode {
        match self {
            Self::Real | Self::Protected16 => CodeMode::Bits16,
            Self::Protected32 => CodeMode::Bits32,
            Self::Long => CodeMode::Bits64,
        }
    }

    /// Whether there is such a form; those of AMD's processors alone are not for this CPU.
    fn has(self, info: &OpCodeInfo) -> bool {
        let there = match self.mode() {
            CodeMode::Bits16 => info.mode16() && info.intel_decoder16(),
            CodeMode::Bits32 => info.mode32() && info.intel_decoder32(),
            CodeMode::Bits64 => info.mode64() && info.intel_decoder64(),
        };
        // What assemblers write as one instruction with a WAIT before it is two.
        there && info.is_instruction() && info.decoder_option() == 0 && !info.fwait()
    }

    /// Ring 0 with everything enabled that has to be.
    fn enter(self, x86: &mut dyn X86State) {
        let mut s = x86.system_registers().unwrap();
        let data = Segment::flat_data(0x10);
        let data = match self {
            Self::Real => Segment::real_mode(0),
            Self::Protected16 => Segment { limit: 0xffff, granularity: false, big: false, ..data },
            Self::Protected32 | Self::Long => data,
        };
        (s.ds, s.es, s.ss, s.fs, s.gs) = (data, data, data, data, data);
        s.cs = match self {
            Self::Real => Segment { base: 0, kind: 0xb, ..Segment::real_mode(0) },
            Self::Protected16 => {
                Segment { limit: 0xffff, granularity: false, big: false, ..Segment::flat_code(8, false) }
            }
            Self::Protected32 => Segment::flat_code(8, false),
            Self::Long => Segment::flat_code(8, true),
        };
        s.cr0 = CR0_ET | CR0_NE | if self == Self::Real { 0 } else { CR0_PE };
        s.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_PKE;
        (s.cr3, s.efer) = (PML4, EFER_SCE);
        if self == Self::Long {
            s.cr0 |= CR0_PG;
            s.cr4 |= CR4_PAE;
            s.efer |= EFER_LME | EFER_LMA;
        }
        // The table ends with the gate of #UD: every other exception ends in the shutdown state.
        let gate = match self {
            Self::Real => 4,
            Self::Protected16 | Self::Protected32 => 8,
            Self::Long => 16,
        };
        s.idt = DescriptorTable { base: IDT, limit: 7 * gate - 1 };
        s.gdt = DescriptorTable { base: GDT, limit: 0x1f };
        s.tr = Segment::task_state(0x18, 0x4800, 0x67);
        x86.set_system_registers(&s).unwrap();
        let mut gprs = [1; 16];
        // No reserved bit of XSETBV, WRPKRU and their kin; memory operands at rBX, rSI and rDI.
        (gprs[0], gprs[1], gprs[2]) = (3, 0, 0);
        (gprs[3], gprs[4], gprs[5], gprs[6], gprs[7]) = (DATA, STACK, STACK, DATA, DATA);
        x86.set_registers(&Registers::from_gprs(gprs, CODE, RFLAGS_FIXED)).unwrap();
        x86.set_xcr0(3).unwrap();
        x86.set_msr(SYSENTER_CS, 8).unwrap();
    }
}

/// A vCPU, in memory with a page table, descriptors, and a handler of #UD for each setting.
struct Machine {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
}

impl Machine {
    fn new(backend: &SoftBackend) -> Self {
        let config = VmConfig {
            memory: GuestMemory::new(1 << 20).unwrap(),
            irqchip: IrqchipKind::None,
            clock: StdClock::new(),
            waker: ThreadWaker::new(),
            dirty_ring: None,
        };
        let vcpu = backend.create_vm(&config).unwrap().create_vcpu(0).unwrap();
        Self { memory: config.memory, vcpu }
    }

    fn put(&self, addr: u64, words: &[u64]) {
        for (addr, word) in (addr..).step_by(8).zip(words) {
            self.memory.write(addr, &word.to_le_bytes()).unwrap();
        }
    }

    /// Whether the instruction raises #UD.
    fn raises_ud(&mut self, setting: Setting, bytes: &[u8]) -> bool {
        self.memory.fill(0, 0, 0x9000).unwrap();
        // The supervisor's pages: WRPKRU, which lasts, does not matter to them.
        self.put(PML4, &[0x2003]);
        self.put(0x2000, &[0x3003]);
        self.put(0x3000, &[0x83]);
        self.memory.write(HANDLER, &[0xf4]).unwrap();
        self.memory.write(CODE, &[bytes, &[0xf4; 16]].concat()).unwrap();
        let code = match setting {
            Setting::Real => 0,
            Setting::Protected16 => 0x0000_9b00_0000_ffff,
            Setting::Protected32 => 0x00cf_9b00_0000_ffff,
            Setting::Long => 0x00af_9b00_0000_ffff,
        };
        self.put(GDT, &[0, code, 0x00cf_9300_0000_ffff]);
        match setting {
            Setting::Real => self.put(IDT + 6 * 4, &[HANDLER]),
            Setting::Long => self.put(IDT + 6 * 16, &[0x8e00_0008_0000 | HANDLER]),
            _ => self.put(IDT + 6 * 8, &[0x8e00_0008_0000 | HANDLER]),
        }
        setting.enter(self.vcpu.x86().unwrap());
        self.vcpu.set_budget(Some(2)).unwrap();
        let exit = self.vcpu.run(VmEntry::Resume).unwrap();
        assert!(!matches!(exit, VmExit::Unsupported { .. }), "{setting:?} {bytes:x?}: {exit:?}");
        let rip = self.vcpu.x86().unwrap().registers().unwrap().rip;
        matches!(exit, VmExit::Hlt) && rip == HANDLER + 1
    }
}

/// rBX.
fn base(bits: u32) -> Register {
    match bits {
        16 => Register::BX,
        32 => Register::EBX,
        _ => Register::RBX,
    }
}

/// An instruction of this form with its memory operand, if it can have one, at rBX.
fn build(code: Code, setting: Setting, memory: bool) -> Option<Vec<u8>> {
    let info = code.op_code();
    let bits = setting.mode().bits();
    let mut i = Instruction::new();
    i.set_code(code);
    let mut used = false;
    for n in 0..info.op_count() {
        let either = matches!(
            info.op_kind(n),
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem
        );
        if either && memory || info.op_kind(n) == K::mem {
            used = true;
            i.set_op_kind(n, OpKind::Memory);
            i.set_memory_base(base(bits));
        } else {
            operand(&mut i, n, info.op_kind(n), bits)?;
        }
    }
    // The other form has been built already.
    if memory && !used {
        return None;
    }
    let mut encoder = Encoder::new(bits);
    encoder.encode(&i, CODE).ok()?;
    let bytes = encoder.take_buffer();
    let decoded = Decoder::with_ip(bits, &bytes, CODE, DecoderOptions::NONE).decode();
    (decoded.code() == code).then_some(bytes)
}

fn operand(i: &mut Instruction, n: u32, kind: K, bits: u32) -> Option<()> {
    let register = match kind {
        K::r8_reg | K::r8_opcode | K::r8_or_mem => Register::CL,
        K::r16_reg | K::r16_rm | K::r16_opcode | K::r16_or_mem => Register::CX,
        K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_or_mem | K::r32_vvvv => Register::ECX,
        K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_or_mem | K::r64_vvvv => Register::RCX,
        K::mm_reg | K::mm_rm | K::mm_or_mem => Register::MM1,
        K::xmm_reg | K::xmm_rm | K::xmm_or_mem => Register::XMM1,
        K::seg_reg => Register::DS,
        K::cr_reg => Register::CR0,
        K::dr_reg => Register::DR0,
        K::es => Register::ES,
        K::cs => Register::CS,
        K::ss => Register::SS,
        K::ds => Register::DS,
        K::fs => Register::FS,
        K::gs => Register::GS,
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::st0 => Register::ST0,
        K::sti_opcode => Register::ST1,
        _ => return implicit(i, n, kind, bits),
    };
    i.set_op_kind(n, OpKind::Register);
    i.set_op_register(n, register);
    Some(())
}

/// Operands that are no register of the encoding.
fn implicit(i: &mut Instruction, n: u32, kind: K, bits: u32) -> Option<()> {
    let by_width = |of16, of32, of64| match bits {
        16 => of16,
        32 => of32,
        _ => of64,
    };
    let op = match kind {
        K::imm8 if n == 1 && i.op0_kind() == OpKind::Immediate16 => OpKind::Immediate8_2nd,
        K::imm8 | K::imm8_const_1 => OpKind::Immediate8,
        K::imm8sex16 => OpKind::Immediate8to16,
        K::imm8sex32 => OpKind::Immediate8to32,
        K::imm8sex64 => OpKind::Immediate8to64,
        K::imm16 => OpKind::Immediate16,
        K::imm32 => OpKind::Immediate32,
        K::imm32sex64 => OpKind::Immediate32to64,
        K::imm64 => OpKind::Immediate64,
        K::seg_rSI => by_width(OpKind::MemorySegSI, OpKind::MemorySegESI, OpKind::MemorySegRSI),
        K::es_rDI => by_width(OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI),
        K::seg_rDI => by_width(OpKind::MemorySegDI, OpKind::MemorySegEDI, OpKind::MemorySegRDI),
        K::br16_1 | K::br16_2 => OpKind::NearBranch16,
        K::br32_1 | K::br32_4 => OpKind::NearBranch32,
        K::br64_1 | K::br64_4 => OpKind::NearBranch64,
        K::farbr2_2 => OpKind::FarBranch16,
        K::farbr4_2 => OpKind::FarBranch32,
        K::mem_offs => {
            i.set_memory_displ_size(bits / 8);
            i.set_memory_displacement64(DATA);
            OpKind::Memory
        }
        K::seg_rBX_al => {
            i.set_memory_base(base(bits));
            i.set_memory_index(Register::AL);
            OpKind::Memory
        }
        _ => return None,
    };
    i.set_op_kind(n, op);
    match op {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => i.set_near_branch64(CODE),
        OpKind::FarBranch16 | OpKind::FarBranch32 => i.set_far_branch_selector(8),
        OpKind::Immediate8 | OpKind::Immediate16 if kind == K::imm8_const_1 => i.set_immediate8(1),
        _ => {}
    }
    Some(())
}

/// What raises #UD although it is offered, and why.
fn undefined(code: Code, setting: Setting, vendor: Vendor) -> bool {
    let real = setting == Setting::Real;
    let amd = vendor == Vendor::Amd;
    match code.mnemonic() {
        // This is what they are for.
        M::Ud0 | M::Ud1 | M::Ud2 => true,
        // On AMD's processors they are of protected mode too, and the others are not of long mode (AMD APM vol. 3).
        M::Syscall if amd => real,
        M::Sysret if amd => false,
        M::Sysenter | M::Sysexit | M::Sysexitq if amd => setting == Setting::Long,
        // On Intel's processors they are of 64-bit mode (Intel SDM vol. 2, "SYSCALL", "SYSRET").
        M::Syscall | M::Sysret => setting != Setting::Long,
        // They work on what real mode does not have.
        M::Arpl | M::Lar | M::Lsl | M::Verr | M::Verw => real,
        M::Lldt | M::Ltr | M::Sldt | M::Str => real,
        _ => real && code.op_code().encoding() == EncodingKind::VEX,
    }
}

/// All forms in all modes, with LOCK too where they take it.
fn each(mut f: impl FnMut(Setting, Code, &[u8])) {
    for code in Code::values() {
        let info = code.op_code();
        for setting in Setting::ALL.into_iter().filter(|s| s.has(info)) {
            for memory in [false, true] {
                if let Some(mut bytes) = build(code, setting, memory) {
                    f(setting, code, &bytes);
                    if memory && info.can_use_lock_prefix() {
                        bytes.insert(0, 0xf0);
                        f(setting, code, &bytes);
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_offered_executes_and_nothing_else_does() {
    let mut wrong = Vec::new();
    let mut offered = 0;
    for name in ["v1", "v2", "max", "max,vendor=amd"] {
        let model = CpuModel::parse(name).unwrap();
        for (path, backend) in [("fast", SoftBackend::new(model)), ("plain", SoftBackend::plain(model))] {
            let mut machine = Machine::new(&backend);
            each(|setting, code, bytes| {
                let i = decode(bytes, CODE, setting.mode()).unwrap();
                let expected = admit(&model, i).is_none() || undefined(code, setting, model.vendor);
                offered += usize::from(!expected);
                if machine.raises_ud(setting, bytes) != expected {
                    wrong.push(format!(
                        "{name} {path} {setting:?} {code:?} {bytes:x?}: expected #UD {expected}"
                    ));
                }
            });
        }
    }
    assert!(wrong.is_empty(), "{} forms:\n{}", wrong.len(), wrong.join("\n"));
    assert!(offered > 12_000, "{offered}");
}

/// What this file cannot make is known, so that nothing is left out unseen.
#[test]
fn every_offered_form_is_built() {
    let max = CpuModel::max();
    let missing: Vec<String> = Code::values()
        .filter(|c| squib_x86::offer::offers(&max, *c))
        .flat_map(|c| Setting::ALL.map(|s| (c, s)))
        .filter(|(c, s)| s.has(c.op_code()) && [false, true].iter().all(|m| build(*c, *s, *m).is_none()))
        .map(|(c, s)| format!("{c:?} {s:?}"))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
