//! What the soft vCPU promises beyond executing instructions: answers, pauses, budgets, and code that changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use iced_x86::code_asm::*;
use squib_core::x86::{Activity, bits};
use squib_core::{
    ErrorCode, ExitData, GuestMemory, HypervisorBackend, IrqchipKind, Vcpu, VmConfig, VmEntry, VmExit,
};
use squib_guests::{Guest, Mode};
use squib_soft::{CpuModel, SoftBackend};
use squib_vmm::host::{StdClock, ThreadWaker};
use squib_x86::system::bits::CR4_PKE;

const CODE: u64 = 0x10_0000;
const DEVICE: u64 = 0xd000_0000;

struct Started {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
}

/// A vCPU in 64-bit mode at the first instruction of `program`.
fn start(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Started {
    let mut a = CodeAssembler::new(64).unwrap();
    program(&mut a).unwrap();
    start_bytes(a.assemble(CODE).unwrap())
}

fn start_bytes(image: Vec<u8>) -> Started {
    start_with(image, IrqchipKind::Full)
}

fn start_with(image: Vec<u8>, irqchip: IrqchipKind) -> Started {
    let guest = Guest { name: "test", about: "a test", mode: Mode::Long64, load_addr: CODE, image };
    let config = VmConfig {
        memory: GuestMemory::new(4 << 20).unwrap(),
        irqchip,
        clock: StdClock::new(),
        waker: ThreadWaker::new(),
        dirty_ring: None,
    };
    let vm = SoftBackend::new(CpuModel::max()).create_vm(&config).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    guest.start(&config.memory, &mut *vcpu).unwrap();
    Started { memory: config.memory, vcpu }
}

impl Started {
    fn run(&mut self, entry: VmEntry) -> VmExit {
        self.vcpu.run(entry).unwrap()
    }

    fn rax(&mut self) -> u64 {
        self.vcpu.x86().unwrap().registers().unwrap().rax
    }

    fn rip(&mut self) -> u64 {
        self.vcpu.x86().unwrap().registers().unwrap().rip
    }

    /// Runs to the next HLT.
    fn halt(&mut self) {
        let exit = self.run(VmEntry::Resume);
        assert!(matches!(exit, VmExit::Hlt), "{exit:?}");
    }
}

fn read(bytes: &[u8]) -> VmEntry {
    VmEntry::Read(ExitData::from_slice(bytes))
}

/// `-KVM_ENOSYS` is what KVM's guests take for that.
#[test]
fn a_hypercall_that_nobody_answers_does_not_exist() {
    // `vmcall; hlt`.
    for (entry, result) in [(VmEntry::Resume, -1000_i64 as u64), (VmEntry::Hypercall(7), 7)] {
        let mut s = start_bytes(vec![0x0f, 0x01, 0xc1, 0xf4]);
        assert!(matches!(s.run(VmEntry::Resume), VmExit::Hypercall { .. }));
        assert!(matches!(s.run(entry), VmExit::Hlt));
        assert_eq!(s.rax(), result);
    }
}

#[test]
fn an_answer_that_does_not_fit_changes_nothing() {
    let mut s = start(|a| {
        a.mov(ebx, DEVICE as u32)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.hlt()
    });
    assert!(matches!(s.run(VmEntry::Resume), VmExit::Mmio { addr: DEVICE, write: false, .. }));
    for wrong in [read(&[1]), read(&[0; 8]), VmEntry::Hypercall(1), VmEntry::Msr(1), VmEntry::MsrFault] {
        assert_eq!(s.vcpu.run(wrong).unwrap_err().code(), ErrorCode::BadEntry);
    }
    assert!(matches!(s.run(read(&[1, 2, 3, 4])), VmExit::Hlt));
    assert_eq!(s.rax(), 0x0403_0201);
    assert_eq!(s.vcpu.run(read(&[0])).unwrap_err().code(), ErrorCode::BadEntry, "nothing is asked");
}

#[test]
fn an_unanswered_read_is_all_ones() {
    let mut s = start(|a| {
        a.mov(ebx, DEVICE as u32)?;
        a.movzx(eax, word_ptr(rbx))?;
        a.hlt()
    });
    s.run(VmEntry::Resume);
    s.halt();
    assert_eq!(s.rax(), 0xffff);
}

#[test]
fn completing_ends_after_the_instruction() {
    let mut s = start(|a| {
        a.mov(ebx, DEVICE as u32)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.inc(eax)?;
        a.hlt()
    });
    s.run(VmEntry::Resume);
    let exit = s.run(VmEntry::Complete(Some(ExitData::from_slice(&[7, 0, 0, 0]))));
    assert!(matches!(exit, VmExit::Completed), "{exit:?}");
    assert_eq!((s.rax(), s.rip()), (7, CODE + 7));
    assert!(matches!(s.run(VmEntry::Complete(None)), VmExit::Completed), "nothing is half-way");
    s.halt();
    assert_eq!(s.rax(), 8);
}

#[test]
fn completing_a_read_and_write_asks_for_its_second_half() {
    let mut s = start(|a| {
        a.mov(ebx, DEVICE as u32)?;
        a.add(dword_ptr(rbx), 5)?;
        a.hlt()
    });
    s.run(VmEntry::Resume);
    let exit = s.run(VmEntry::Complete(Some(ExitData::from_slice(&[2, 0, 0, 0]))));
    match exit {
        VmExit::Mmio { write: true, data, .. } => assert_eq!(data.as_slice(), [7, 0, 0, 0]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(s.run(VmEntry::Complete(None)), VmExit::Completed));
    s.halt();
}

#[test]
fn device_accesses_of_neighbouring_instructions_do_not_mix() {
    let mut s = start(|a| {
        a.mov(ebx, DEVICE as u32)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.add(eax, dword_ptr(rbx + 4))?;
        a.add(eax, dword_ptr(rbx))?;
        a.hlt()
    });
    let mut entry = VmEntry::Resume;
    let mut seen = vec![];
    while let VmExit::Mmio { addr, .. } = s.run(entry) {
        seen.push(addr);
        entry = read(&[seen.len() as u8, 0, 0, 0]);
    }
    assert_eq!(seen, [DEVICE, DEVICE + 4, DEVICE]);
    assert_eq!(s.rax(), 1 + 2 + 3);
}

#[test]
fn a_budget_is_kept_to_a_block() {
    let mut s = start(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(eax)?;
        a.jmp(again)
    });
    s.vcpu.set_budget(Some(1000)).unwrap();
    assert!(matches!(s.run(VmEntry::Resume), VmExit::BudgetSpent));
    let done = s.vcpu.instructions().unwrap();
    assert!((1000..1064).contains(&done), "{done}");
    assert!(matches!(s.run(VmEntry::Resume), VmExit::BudgetSpent), "it is still spent");
    s.vcpu.set_budget(Some(10)).unwrap();
    assert!(matches!(s.run(VmEntry::Resume), VmExit::BudgetSpent));
    assert!(s.vcpu.instructions().unwrap() >= done + 10);
}

#[test]
fn without_controllers_interrupts_are_injected_when_the_window_opens() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut wait = a.create_label();
    a.sti().unwrap();
    a.set_label(&mut wait).unwrap();
    a.inc(eax).unwrap();
    a.jmp(wait).unwrap();
    let mut s = start_with(a.assemble(CODE).unwrap(), IrqchipKind::None);
    assert_eq!(s.vcpu.inject_interrupt(0x40).unwrap_err().code(), ErrorCode::VcpuBusy);
    s.vcpu.request_interrupt_window(true);
    let exit = s.run(VmEntry::Resume);
    assert!(matches!(exit, VmExit::InterruptWindow), "{exit:?}");
    s.vcpu.request_interrupt_window(false);
    s.vcpu.inject_interrupt(0x40).unwrap();
    assert_eq!(s.vcpu.inject_interrupt(0x41).unwrap_err().code(), ErrorCode::VcpuBusy);
    // There is no IDT, so taking it ends in shutdown: it was taken.
    assert!(matches!(s.run(VmEntry::Resume), VmExit::TripleFault));
    let mut with = start(CodeAssembler::hlt);
    assert_eq!(with.vcpu.inject_interrupt(0x40).unwrap_err().code(), ErrorCode::Unsupported);
}

#[test]
fn a_timer_that_a_read_of_the_local_apic_finds_due_interrupts() {
    let mut s = start(|a| {
        let write = |a: &mut CodeAssembler, index: u32, value: u32| {
            a.mov(ecx, index)?;
            a.mov(eax, value)?;
            a.xor(edx, edx)?;
            a.wrmsr()
        };
        write(a, 0x1b, 0xfee0_0d00)?; // IA32_APIC_BASE: x2APIC
        write(a, 0x80f, 0x1ff)?; // spurious-interrupt vector: enabled
        write(a, 0x832, 0x4_0040)?; // LVT timer: TSC-deadline mode, vector 0x40
        a.rdtsc()?;
        // Late enough for the reads below to find it due, soon enough to be found within one quantum.
        a.add(eax, 50_000)?;
        a.adc(edx, 0)?;
        a.mov(ecx, 0x6e0)?; // IA32_TSC_DEADLINE
        a.wrmsr()?;
        a.mov(ecx, 0x822)?; // the IRR's bits for vectors 0x40 to 0x5f
        let mut wait = a.create_label();
        a.set_label(&mut wait)?;
        a.rdmsr()?;
        a.test(eax, 1)?;
        a.jz(wait)?;
        a.sti()?;
        a.hlt()
    });
    // There is no IDT, so taking it ends in shutdown: it was taken.
    let exit = s.run(VmEntry::Resume);
    assert!(matches!(exit, VmExit::TripleFault), "{exit:?}");
}

#[test]
fn setting_registers_wakes_a_halted_vcpu() {
    let mut s = start(|a| {
        a.inc(eax)?;
        a.hlt()
    });
    s.halt();
    s.halt();
    assert_eq!(s.rax(), 1);
    let mut registers = s.vcpu.x86().unwrap().registers().unwrap();
    registers.rip = CODE;
    s.vcpu.x86().unwrap().set_registers(&registers).unwrap();
    s.halt();
    assert_eq!(s.rax(), 2);
}

#[test]
fn a_halt_is_state() {
    let mut s = start(|a| {
        a.in_(al, 0x10)?;
        a.hlt()?;
        a.inc(eax)?;
        a.hlt()
    });
    let set = |s: &mut Started, activity| s.vcpu.x86().unwrap().set_activity(activity);
    let is = |s: &mut Started| s.vcpu.x86().unwrap().activity().unwrap();
    assert!(matches!(s.run(VmEntry::Resume), VmExit::Pio { write: false, .. }));
    let refused = set(&mut s, Activity::Halted).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidArgument, "an instruction is half done");
    assert!(matches!(s.run(read(&[1])), VmExit::Hlt));
    assert_eq!(is(&mut s), Activity::Halted);
    set(&mut s, Activity::Active).unwrap();
    s.halt();
    assert_eq!(s.rax(), 2);
    let mut registers = s.vcpu.x86().unwrap().registers().unwrap();
    registers.rip = CODE;
    s.vcpu.x86().unwrap().set_registers(&registers).unwrap();
    assert_eq!(is(&mut s), Activity::Active);
    set(&mut s, Activity::Halted).unwrap();
    s.halt();
    assert_eq!(s.rip(), CODE, "a halted vCPU executes nothing");
    set(&mut s, Activity::WaitForInit).unwrap();
    assert_eq!(is(&mut s), Activity::WaitForStartUp);
    s.halt();
    let mut alone = start_with(vec![0xf4], IrqchipKind::None);
    let refused = set(&mut alone, Activity::WaitForStartUp).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidArgument, "nothing could start it");
}

#[test]
fn a_cancel_before_the_run_counts_once() {
    let mut s = start(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.jmp(again)
    });
    let handle = s.vcpu.cancel_handle();
    handle.cancel();
    handle.cancel();
    assert!(matches!(s.run(VmEntry::Resume), VmExit::Cancelled));
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        handle.cancel();
    });
    assert!(matches!(s.run(VmEntry::Resume), VmExit::Cancelled), "guest code that loops for ever");
    late.join().unwrap();
}

#[test]
fn code_written_from_outside_is_seen() {
    let mut s = start(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(eax, 1)?;
        a.out(0x80, al)?;
        a.jmp(again)
    });
    for value in [1, 42, 43] {
        s.memory.write(CODE + 1, &[value]).unwrap();
        match s.run(VmEntry::Resume) {
            VmExit::Pio { data, .. } => assert_eq!(data.as_slice(), [value]),
            other => panic!("{other:?}"),
        }
    }
}

/// A write that comes while its bytes are being decoded must not be lost: the guest would run the old code for ever.
#[test]
fn code_written_while_it_is_decoded_is_seen() {
    const SEEN: u64 = 0x20_0000;
    const ROUNDS: u32 = 1500;
    let mut s = start(|a| {
        let mut again = a.create_label();
        a.mov(ebx, SEEN as u32)?;
        a.set_label(&mut again)?;
        a.mov(eax, 0x1111_1111)?;
        a.mov(dword_ptr(rbx), eax)?;
        a.jmp(again)
    });
    // Behind `mov ebx, imm32` and the opcode of `mov eax, imm32`.
    const IMMEDIATE: u64 = CODE + 6;
    assert_eq!(s.memory.read_array(IMMEDIATE).unwrap(), [0x11; 4]);
    let (memory, cancel) = (s.memory.clone(), s.vcpu.cancel_handle());
    let writer = std::thread::spawn(move || {
        let lost = (1..=ROUNDS).find(|round| {
            // The first write makes the guest decode anew, and the second comes at some moment of that.
            memory.write(IMMEDIATE, &0u32.to_le_bytes()).unwrap();
            for _ in 0..round % 256 * 4 {
                std::hint::spin_loop();
            }
            memory.write(IMMEDIATE, &round.to_le_bytes()).unwrap();
            let patience = Instant::now() + Duration::from_secs(10);
            while memory.read_array(SEEN).unwrap() != round.to_le_bytes() {
                if Instant::now() > patience {
                    return true;
                }
                std::thread::yield_now();
            }
            false
        });
        cancel.cancel();
        lost
    });
    assert!(matches!(s.run(VmEntry::Resume), VmExit::Cancelled));
    assert_eq!(writer.join().unwrap(), None, "the round whose write was lost");
}

#[test]
fn a_store_into_the_running_block_takes_effect_at_the_next_instruction() {
    // mov byte [rip + 1], 7 rewrites the immediate of the mov eax that follows it in the same block.
    let mut s = start_bytes(vec![
        0xc6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x07, // mov byte ptr [rip + 1], 7
        0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
        0xf4, // hlt
    ]);
    s.halt();
    assert_eq!(s.rax(), 7);
}

#[test]
fn instructions_over_a_page_boundary_run_and_follow_changes_of_either_page() {
    let mut image = vec![0x90; 0xffd];
    image.extend([0xb8, 0x11, 0x22, 0x33, 0x44, 0xf4]); // mov eax, 0x44332211 from 0xffd; hlt
    let mut s = start_bytes(image.clone());
    s.halt();
    assert_eq!(s.rax(), 0x4433_2211);
    let mut s = start_bytes(image);
    s.memory.write(CODE + 0x1000, &[0x99]).unwrap();
    s.halt();
    assert_eq!(s.rax(), 0x4499_2211);
}

#[test]
fn a_fault_restores_the_count_and_the_address() {
    let mut s = start(|a| {
        a.mov(eax, 5)?;
        a.inc(eax)?;
        a.mov(rbx, 0x8000_0000_0000u64)?;
        a.mov(ecx, dword_ptr(rbx))?; // #GP: not canonical, and there is no IDT
        a.inc(eax)?;
        a.hlt()
    });
    assert!(matches!(s.run(VmEntry::Resume), VmExit::TripleFault));
    assert_eq!(s.vcpu.instructions(), Some(3));
    assert_eq!(s.rax(), 6);
    assert!(matches!(s.run(VmEntry::Resume), VmExit::TripleFault), "it stays shut down");
}

#[test]
fn states_that_no_processor_has_are_refused() {
    let mut s = start(CodeAssembler::hlt);
    let x86 = s.vcpu.x86().unwrap();
    let good = x86.system_registers().unwrap();
    let bad = [
        squib_core::x86::SystemRegisters { cr0: bits::CR0_PG, ..good },
        squib_core::x86::SystemRegisters { efer: bits::EFER_LMA, ..good },
        squib_core::x86::SystemRegisters { cr4: 0, ..good },
        squib_core::x86::SystemRegisters { cr8: 16, ..good },
    ];
    for registers in bad {
        assert_eq!(x86.set_system_registers(&registers).unwrap_err().code(), ErrorCode::InvalidArgument);
        assert_eq!(x86.system_registers().unwrap(), good);
    }
    assert_eq!(x86.msr(0x1234_5678).unwrap_err().code(), ErrorCode::Register);
    assert_eq!(x86.set_xsave(&[0; 100]).unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[test]
fn msrs_and_extended_state_come_back_as_they_were_set() {
    let mut s = start(CodeAssembler::hlt);
    let x86 = s.vcpu.x86().unwrap();
    for index in x86.msr_indices().unwrap() {
        let value = x86.msr(index).unwrap();
        if let Err(e) = x86.set_msr(index, value) {
            assert_eq!(e.code(), ErrorCode::Register, "{index:#x}");
        }
    }
    let mut area = x86.xsave().unwrap();
    area[160..176].copy_from_slice(&[0xab; 16]);
    x86.set_xsave(&area).unwrap();
    assert_eq!(x86.xsave().unwrap(), area);
}

#[test]
fn more_vcpus_than_there_are_is_an_error() {
    let config = VmConfig {
        memory: GuestMemory::new(1 << 20).unwrap(),
        irqchip: IrqchipKind::Full,
        clock: StdClock::new(),
        waker: ThreadWaker::new(),
        dirty_ring: None,
    };
    let backend = SoftBackend::default();
    let vm = backend.create_vm(&config).unwrap();
    let _first = vm.create_vcpu(0).unwrap();
    for id in [0, 1, 33, u32::MAX] {
        assert_eq!(vm.create_vcpu(id).err().unwrap().code(), ErrorCode::VcpuCount);
    }
    assert_eq!(vm.set_irq_line(24, true).unwrap_err().code(), ErrorCode::IrqLine);
    let again = backend.create_vm(&config).err().unwrap();
    assert_eq!(again.code(), ErrorCode::InvalidArgument, "the memory has a VM already");
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever the bytes: no panic, and the run ends.
        #[test]
        fn random_bytes_as_code(bytes in prop::collection::vec(any::<u8>(), 1..64), regs in any::<[u64; 4]>()) {
            let mut s = start_bytes(bytes);
            let mut registers = s.vcpu.x86().unwrap().registers().unwrap();
            (registers.rax, registers.rbx, registers.rcx, registers.rsi) = (regs[0], regs[1], regs[2], regs[3]);
            s.vcpu.x86().unwrap().set_registers(&registers).unwrap();
            s.vcpu.set_budget(Some(2000)).unwrap();
            for _ in 0..50 {
                match s.run(VmEntry::Resume) {
                    VmExit::Pio { .. } | VmExit::Mmio { .. } | VmExit::Hypercall { .. } => {}
                    _ => break,
                }
            }
        }
    }
}

/// `rep stosb` over its own prefix: what is left of it is `stosb`.
#[test]
fn a_repeated_store_over_its_own_bytes_is_decoded_anew() {
    let mut s = start(|a| {
        let mut here = a.create_label();
        a.lea(rdi, ptr(here))?;
        a.mov(eax, 0x90)?;
        a.mov(ecx, 16)?;
        a.set_label(&mut here)?;
        a.rep().stosb()?;
        a.hlt()?;
        a.hlt()
    });
    s.halt();
    let registers = s.vcpu.x86().unwrap().registers().unwrap();
    assert_eq!(registers.rcx, 15, "one element, then a NOP and one store without REP");
}

/// What a translation may be used for is cached with it, and WRPKRU changes that.
#[test]
fn protection_keys_hold_from_the_next_instruction() {
    const PML4: u64 = 0x20_0000;
    const GUARDED: u32 = 0x30_0000;
    let mut s = start(|a| {
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(ebx, dword_ptr(GUARDED))?;
        // No writes by key 5.
        a.mov(eax, 2 << 10)?;
        a.wrpkru()?;
        a.mov(ebx, dword_ptr(GUARDED))?;
        a.hlt()?;
        a.mov(dword_ptr(GUARDED), ebx)?;
        a.hlt()
    });
    // Pages of 2 MiB: one of the supervisor's, one of a user's with key 5.
    for (at, entry) in
        [(0, PML4 + 0x1007), (0x1000, PML4 + 0x2007), (0x2000, 0x83), (0x2008, 5 << 59 | 0x20_0087)]
    {
        s.memory.write(PML4 + at, &entry.to_le_bytes()).unwrap();
    }
    s.memory.write(GUARDED.into(), &7u32.to_le_bytes()).unwrap();
    let x86 = s.vcpu.x86().unwrap();
    let mut system = x86.system_registers().unwrap();
    system.cr3 = PML4;
    system.cr0 |= bits::CR0_WP;
    system.cr4 |= CR4_PKE;
    system.idt.limit = 0;
    x86.set_system_registers(&system).unwrap();
    s.halt();
    let x86 = s.vcpu.x86().unwrap();
    let registers = x86.registers().unwrap();
    assert_eq!(registers.rbx, 7);
    // That ends the halt.
    x86.set_registers(&registers).unwrap();
    let exit = s.run(VmEntry::Resume);
    assert!(matches!(exit, VmExit::TripleFault), "{exit:?}");
    assert_eq!(s.vcpu.x86().unwrap().system_registers().unwrap().cr2, GUARDED.into());
}
