//! Golden listings: the operations of one instruction of each family, as the listing emitter writes them down.
//!
//! `SQUIB_BLESS=1 cargo test -p squib-x86 --test listing` writes the file anew; read the difference before you
//! commit it.

use std::fmt::Write;
use std::path::Path;

use squib_x86::CodeMode;
use squib_x86::insn::decode;
use squib_x86::listing::listing;

/// Encoding, and what it is in Intel syntax.
const CASES: &[(&[u8], &str)] = &[
    (&[0x48, 0x01, 0xd8], "add rax, rbx"),
    (&[0x80, 0x41, 0x10, 0x05], "add byte ptr [rcx+16], 5"),
    (&[0x48, 0x11, 0xd8], "adc rax, rbx"),
    (&[0x39, 0x1c, 0x8e], "cmp [rsi+rcx*4], ebx"),
    (&[0xff, 0xc0], "inc eax"),
    (&[0xf6, 0xdc], "neg ah"),
    (&[0xc1, 0xe0, 0x05], "shl eax, 5"),
    (&[0xd3, 0xe8], "shr eax, cl"),
    (&[0x48, 0xd3, 0xc0], "rol rax, cl"),
    (&[0x48, 0x0f, 0xa5, 0xd8], "shld rax, rbx, cl"),
    (&[0x48, 0xf7, 0xe3], "mul rbx"),
    (&[0x48, 0x0f, 0xaf, 0xc3], "imul rax, rbx"),
    (&[0x48, 0xf7, 0xfb], "idiv rbx"),
    (&[0x48, 0x0f, 0xba, 0xe8, 0x03], "bts rax, 3"),
    (&[0x0f, 0xbc, 0xc3], "bsf eax, ebx"),
    (&[0x89, 0xd8], "mov eax, ebx"),
    (&[0x65, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], "mov rax, gs:[0x28]"),
    (&[0x0f, 0xb6, 0xc4], "movzx eax, ah"),
    (&[0x48, 0x63, 0x03], "movsxd rax, dword ptr [rbx]"),
    (&[0x48, 0x8d, 0x44, 0x8b, 0x08], "lea rax, [rbx+rcx*4+8]"),
    (&[0x48, 0x8d, 0x05, 0x10, 0, 0, 0], "lea rax, [rip+0x10]"),
    (&[0x87, 0x03], "xchg [rbx], eax"),
    (&[0xf0, 0x48, 0x0f, 0xb1, 0x0b], "lock cmpxchg [rbx], rcx"),
    (&[0x0f, 0xc1, 0x03], "xadd [rbx], eax"),
    (&[0x50], "push rax"),
    (&[0x58], "pop rax"),
    (&[0xc9], "leave"),
    (&[0x0f, 0x9c, 0xc0], "setl al"),
    (&[0x48, 0x0f, 0x44, 0xc3], "cmove rax, rbx"),
    (&[0x75, 0xfe], "jne $"),
    (&[0xe8, 0, 0, 0, 0], "call $+5"),
    (&[0xff, 0x23], "jmp [rbx]"),
    (&[0xc2, 0x08, 0x00], "ret 8"),
    (&[0xe2, 0xfe], "loop $"),
    (&[0x0f, 0x28, 0xc1], "movaps xmm0, xmm1"),
    (&[0xf2, 0x0f, 0x58, 0x03], "addsd xmm0, [rbx]"),
    (&[0x66, 0x0f, 0x70, 0xc1, 0x1b], "pshufd xmm0, xmm1, 0x1b"),
    (&[0x66, 0x0f, 0x2e, 0xc1], "ucomisd xmm0, xmm1"),
    (&[0x0f, 0xfc, 0xc1], "paddb mm0, mm1"),
    (&[0xf3, 0x0f, 0xbc, 0xc3], "tzcnt eax, ebx"),
    (&[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc3], "crc32 rax, rbx"),
    (&[0xc4, 0xe2, 0x60, 0xf2, 0x01], "andn eax, ebx, [rcx]"),
    (&[0xc4, 0xe2, 0xe3, 0xf5, 0xc1], "pdep rax, rbx, rcx"),
    (&[0x66, 0x0f, 0x38, 0xf6, 0xc3], "adcx eax, ebx"),
    (&[0x66, 0x0f, 0x38, 0x10, 0xc1], "pblendvb xmm0, xmm1"),
    (&[0x66, 0x0f, 0x38, 0xdc, 0x03], "aesenc xmm0, [rbx]"),
    (&[0x0f, 0xa2], "cpuid"),
    (&[0x48, 0xab], "stosq"),
];

#[test]
fn listings_are_what_they_were() {
    let mut text = String::new();
    for (bytes, name) in CASES {
        let insn = decode(bytes, 0x1000, CodeMode::Bits64).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(usize::from(insn.len), bytes.len(), "{name}");
        let _ = writeln!(text, "# {name}\n{}", listing(&insn));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/listing.txt");
    if std::env::var_os("SQUIB_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (new, old) in text.split("\n\n").zip(golden.split("\n\n")) {
        assert_eq!(new, old, "the meaning of an instruction has changed");
    }
    assert_eq!(text, golden);
}
