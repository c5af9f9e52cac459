//! Code that is written while blocks of it are decoded.

mod support;

use iced_x86::code_asm::*;
use support::start;

const FUNCTION_PAGE: u64 = 0x18_0000;

/// MOV EAX, 0; RET
const FUNCTION: [u8; 6] = [0xb8, 0, 0, 0, 0, 0xc3];

#[test]
fn a_store_to_any_byte_of_a_block_is_seen() {
    // In the middle of a page, and with any number of its bytes in the next.
    for at in [0x800, 0xffa, 0xffb, 0xffc, 0xffd, 0xffe, 0xfff] {
        let mut s = start(false, |a| {
            a.mov(esi, (FUNCTION_PAGE + at) as u32)?;
            a.xor(edx, edx)?;
            for byte in 1..5 {
                a.call(rsi)?;
                a.add(edx, eax)?;
                a.inc(byte_ptr(rsi + byte))?;
            }
            a.call(rsi)?;
            a.add(edx, eax)?;
            // MOV ECX, imm32
            a.mov(byte_ptr(rsi), 0xb9)?;
            a.call(rsi)?;
            // MOV ECX, imm32; ADD ECX, ECX; RET
            a.mov(dword_ptr(rsi + 5), 0xc3_c901)?;
            a.call(rsi)?;
            a.hlt()
        });
        s.memory.write(FUNCTION_PAGE + at, &FUNCTION).unwrap();
        let (r, _) = s.run();
        assert_eq!(r.rdx, 0x1 + 0x101 + 0x1_0101 + 0x101_0101, "{at:#x}");
        assert_eq!(r.rcx, 0x202_0202, "{at:#x}");
    }
}
