//! What multiboot programs find on a machine: the interrupt controllers and the timer as a BIOS leaves them.

use iced_x86::code_asm::*;
use squib_core::IrqchipKind;
use squib_soft::SoftBackend;
use squib_vmm::boot::BootSource;
use squib_vmm::host::{StdClock, ThreadHost, ThreadWaker};
use squib_vmm::{Machine, MachineConfig, Stop};

const LOAD: u32 = 0x10_0000;
const ENTRY: u32 = LOAD + 0x20;
const IDT: u32 = 0x2_0000;
const HANDLER: u32 = LOAD + 0x200;

fn assemble(at: u32, program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(32).unwrap();
    program(&mut a).unwrap();
    a.assemble(at.into()).unwrap()
}

#[test]
fn the_timer_ticks_at_vector_8() {
    const FLAGS: u32 = 1 << 16;
    let header = [0x1bad_b002, FLAGS, 0_u32.wrapping_sub(0x1bad_b002 + FLAGS), LOAD, LOAD, 0, 0, ENTRY];
    let mut image = header.map(u32::to_le_bytes).concat();
    image.extend(assemble(ENTRY, |a| {
        // EAX and EBX are the loader's, although other code ran before.
        a.mov(esp, 0x3_0000)?;
        a.mov(ecx, dword_ptr(ebx + 64))?;
        a.cmp(dword_ptr(ecx), u32::from_le_bytes(*b"squi"))?;
        let mut good = a.create_label();
        a.je(good)?;
        a.out(0xf4, al)?;
        a.set_label(&mut good)?;
        a.mov(dword_ptr(0x1_0000), eax)?;
        a.mov(dword_ptr(IDT + 8 * 8), 0x10 << 16 | (HANDLER & 0xffff))?;
        a.mov(dword_ptr(IDT + 8 * 8 + 4), HANDLER & 0xffff_0000 | 0x8e00)?;
        a.mov(word_ptr(0x1_1000), 0x7ff)?;
        a.mov(dword_ptr(0x1_1002), IDT)?;
        a.lidt(ptr(0x1_1000))?;
        a.sti()?;
        a.hlt()?;
        a.out(0xf4, al)
    }));
    image.resize((HANDLER - LOAD) as usize, 0);
    image.extend(assemble(HANDLER, |a| {
        a.mov(eax, dword_ptr(0x1_0000))?;
        a.out(0xf4, eax)
    }));
    let (clock, waker) = (StdClock::new(), ThreadWaker::new());
    let config = MachineConfig {
        memory_size: 4 << 20,
        vcpus: 1,
        irqchip: IrqchipKind::Full,
        boot: BootSource::new(&image),
        clock: clock.clone(),
        waker: waker.clone(),
        console: Box::new(()),
    };
    let machine = Machine::new(&SoftBackend::default(), config).unwrap();
    assert_eq!(machine.boot().entry, u64::from(ENTRY));
    let stop = machine.run(0, &mut ThreadHost::new(clock, waker)).unwrap();
    assert!(matches!(stop, Stop::DebugExit(status) if status == 0x2bad_b002_u32 << 1 | 1), "{stop:?}");
    let vectors: [[u8; 4]; 256] = std::array::from_fn(|n| machine.ram().read_array(n as u64 * 4).unwrap());
    for (vector, offset) in
        [(0, 0xf000), (8, 0xf010), (0x0f, 0xf010), (0x10, 0xf000), (0x73, 0xf020), (0xff, 0xf000)]
    {
        assert_eq!(u32::from_le_bytes(vectors[vector]), 0xf000 << 16 | offset, "{vector:#x}");
    }
}
