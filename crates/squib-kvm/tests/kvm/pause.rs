//! Pausing with half an access done: finish it, look, put the state back, go on.

use iced_x86::code_asm::*;
use squib_core::{ExitData, VmEntry, VmExit};

use crate::harness::*;

#[test]
fn a_thousand_pauses_with_half_done_reads() {
    let Some(kvm) = backend() else { return };
    const PAUSES: u64 = 1000;
    // RAX: a port and a memory-mapped read in turn, of which RSI keeps the sum.
    let mut guest = Guest::long(&kvm, |a| {
        let mut again = a.create_label();
        a.mov(dx, PORT)?;
        a.mov(rbx, MMIO)?;
        a.mov(ecx, PAUSES as u32 / 2)?;
        a.set_label(&mut again)?;
        a.in_(eax, dx)?;
        a.add(rsi, rax)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.add(rsi, rax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    });
    let mut sum = 0;
    for n in 1..=PAUSES {
        let len = match guest.resume() {
            VmExit::Pio { write: false, data, .. } | VmExit::Mmio { write: false, data, .. } => data.len(),
            other => panic!("expected read {n}, got {other:?}"),
        };
        let value = n * 0x0101_0101;
        let data = ExitData::from_slice(&value.to_le_bytes()[..len]);
        sum += value & u64::MAX >> (64 - 8 * len);
        let exit = guest.run(VmEntry::Complete(Some(data)));
        assert!(matches!(exit, VmExit::Completed), "{exit:?}");
        // What a snapshot takes, and a restore gives: the whole access is in it.
        let x86 = guest.vcpu.x86().unwrap();
        let (registers, system) = (x86.registers().unwrap(), x86.system_registers().unwrap());
        assert_eq!(registers.rax & u64::MAX >> (64 - 8 * len), value & u64::MAX >> (64 - 8 * len));
        let events = x86.pending_events().unwrap();
        x86.set_registers(&Default::default()).unwrap();
        x86.set_system_registers(&system).unwrap();
        x86.set_registers(&registers).unwrap();
        x86.set_pending_events(&events).unwrap();
    }
    assert_hlt(&guest.resume());
    assert_eq!(guest.registers().rsi, sum);
}
