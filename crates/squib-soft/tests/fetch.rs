//! Where the soft vCPU fetches code from: segments with a base and a limit, and pages that move.

use std::sync::Arc;

use iced_x86::code_asm::*;
use squib_core::x86::{Registers, bits};
use squib_core::{GuestMemory, HypervisorBackend, IrqchipKind, Vcpu, VmConfig, VmEntry, VmExit};
use squib_guests::{Guest, Mode};
use squib_soft::SoftBackend;
use squib_vmm::host::{StdClock, ThreadWaker};

struct Started {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
}

fn start(mode: Mode, load_addr: u64, image: Vec<u8>) -> Started {
    let config = VmConfig {
        memory: GuestMemory::new(4 << 20).unwrap(),
        irqchip: IrqchipKind::None,
        clock: StdClock::new(),
        waker: ThreadWaker::new(),
        dirty_ring: None,
    };
    let vm = SoftBackend::default().create_vm(&config).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    Guest { name: "test", about: "a test", mode, load_addr, image }
        .start(&config.memory, &mut *vcpu)
        .unwrap();
    Started { memory: config.memory, vcpu }
}

impl Started {
    fn registers(&mut self) -> Registers {
        self.vcpu.x86().unwrap().registers().unwrap()
    }

    /// Runs to the next HLT.
    fn halt(&mut self) -> Registers {
        let exit = self.vcpu.run(VmEntry::Resume).unwrap();
        assert!(matches!(exit, VmExit::Hlt), "{exit:?}");
        self.registers()
    }
}

#[test]
fn code_is_found_at_the_base_of_its_segment() {
    // The same offset in three segments, none of whose bases is a page's, twice: from memory, and from decoded blocks.
    let round = [
        &[0x9a, 0x10, 0x00, 0x01, 0x10][..], // call 0x1001:0x10
        &[0x9a, 0x10, 0x00, 0x02, 0x20],     // call 0x2002:0x10
        &[0xcd, 0x40],                       // int 0x40, at 0x3003:0x10
    ]
    .concat();
    let mut s = start(Mode::Real16, 0x7c00, [&round[..], &round, &[0xf4]].concat());
    s.memory.write(0x1_0020, &[0x80, 0xc3, 0x01, 0xcb]).unwrap(); // add bl, 1; retf
    s.memory.write(0x2_0030, &[0x80, 0xc7, 0x10, 0xcb]).unwrap(); // add bh, 0x10; retf
    s.memory.write(0x3_0040, &[0x80, 0xc1, 0x05, 0xcf]).unwrap(); // add cl, 5; iret
    s.memory.write(0x40 * 4, &[0x10, 0x00, 0x03, 0x30]).unwrap();
    let r = s.halt();
    assert_eq!((r.rbx, r.rcx, r.rsp), (0x2002, 10, 0x7c00));
}

#[test]
fn an_instruction_crosses_pages_of_its_segment() {
    let mut s = start(Mode::Real16, 0x7c00, vec![0xea, 0xee, 0x00, 0xf1, 0x0e]); // jmp 0xef1:0xee
    s.memory.write(0xeffe, &[0xb8, 0x34, 0x12, 0xf4]).unwrap(); // mov ax, 0x1234; hlt
    assert_eq!(s.halt().rax, 0x1234);
}

#[test]
fn code_ends_at_the_limit_of_its_segment() {
    // What the last bytes are, where the fault is, and what AL is then.
    for (last, ip, counted) in [(&[0x40, 0x40, 0x40][..], 0, 3), (&[0x40, 0x40, 0xb0, 0x7f], 0xffff, 2)] {
        let at = 0xfffd_u16;
        let [low, high] = at.to_le_bytes();
        let mut s = start(Mode::Real16, 0x7c00, vec![0xea, low, high, 0x00, 0x10]); // jmp 0x1000:at
        s.memory.write(0x1_0000 + u64::from(at), last).unwrap();
        s.memory.write(13 * 4, &[0x00, 0x09, 0x00, 0x00]).unwrap();
        s.memory.write(0x900, &[0x5b, 0xf4]).unwrap(); // pop bx; hlt
        let r = s.halt();
        assert_eq!((r.rbx, r.rax), (ip, counted), "{last:x?}");
    }
}

/// An instruction over two pages, run in ring 0 and ring 3 at one linear address. Its second page moves in between, and
/// ring 3, which has not seen it yet, decodes it anew: nobody may come back to the block that it replaces.
#[test]
fn a_replaced_block_is_forgotten_by_both_rings() {
    const CODE: u64 = 0x10_0000;
    const SHARED: u64 = 0x40_0ffe;
    const TABLES: u64 = 0x20_0000;
    const USER: u64 = 7;
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    let mut a = CodeAssembler::new(64).unwrap();
    let (mut first, mut user, mut from_user, mut third) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    let mut entry = a.create_label();
    let program = (|| {
        a.lea(r15, ptr(first))?;
        a.jmp(SHARED)?;
        a.set_label(&mut first)?;
        a.mov(r8, rax)?;
        a.mov(qword_ptr(TABLES + 0x3008), 0x39_2000 | USER as i32)?;
        a.lea(rcx, ptr(user))?;
        a.mov(r11d, bits::RFLAGS_FIXED as i32)?;
        a.sysretq()?;
        a.set_label(&mut user)?;
        a.lea(r15, ptr(from_user))?;
        a.jmp(SHARED)?;
        a.set_label(&mut from_user)?;
        a.mov(r9, rax)?;
        a.syscall()?;
        a.set_label(&mut entry)?;
        a.hlt()?;
        a.lea(r15, ptr(third))?;
        a.jmp(SHARED)?;
        a.set_label(&mut third)?;
        a.hlt()
    })();
    program.unwrap();
    let options = iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
    let done = a.assemble_options(CODE, options).unwrap();
    let entry = done.label_ip(&entry).unwrap();
    let mut s = start(Mode::Long64, CODE, done.inner.code_buffer);
    let tables = [
        (0, TABLES + 0x1000),
        (0x1000, TABLES + 0x2000),
        (0x2000, 1 << 7),
        (0x2008, 0x20_0000 | 1 << 7),
        (0x2010, TABLES + 0x3000),
        (0x3000, 0x39_0000),
        (0x3008, 0x39_1000),
    ];
    for (offset, entry) in tables {
        s.memory.write(TABLES + offset, &(entry | USER).to_le_bytes()).unwrap();
    }
    s.memory.write(0x39_0ffe, &[0xb8, 0x11]).unwrap(); // mov eax, …
    s.memory.write(0x39_1000, &[0x22, 0x33, 0x44, 0x41, 0xff, 0xe7]).unwrap(); // …; jmp r15
    s.memory.write(0x39_2000, &[0x66, 0x77, 0x08, 0x41, 0xff, 0xe7]).unwrap();
    let x86 = s.vcpu.x86().unwrap();
    let mut system = x86.system_registers().unwrap();
    (system.cr3, system.efer) = (TABLES, system.efer | bits::EFER_SCE);
    x86.set_system_registers(&system).unwrap();
    x86.set_msr(STAR, 0x0013_0008 << 32).unwrap();
    x86.set_msr(LSTAR, entry).unwrap();
    let r = s.halt();
    assert_eq!((r.r8, r.r9), (0x4433_2211, 0x0877_6611));
    let again = s.halt().rax;
    assert!([r.r8, r.r9].contains(&again), "{again:#x}: no page was flushed, so both are right");
}
