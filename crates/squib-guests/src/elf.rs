//! Writes the smallest ELF files: one that a multiboot loader takes (ELF specification 1.2; Multiboot 0.6.96, 3.1),
//! and one that Linux runs as a program.

const HEADER_LEN: u32 = 52;
const PROGRAM_HEADER_LEN: u32 = 32;
/// File offset of the segment: after the headers, 16-byte aligned.
const SEGMENT_OFFSET: u32 = 96;

const MULTIBOOT_MAGIC: u32 = 0x1bad_b002;
/// Page-aligned modules, memory map wanted.
const MULTIBOOT_FLAGS: u32 = 3;

/// The multiboot header, which has to come 4-byte aligned in the file's first 8 KiB.
pub(crate) fn multiboot_header() -> [u8; 12] {
    let checksum = 0u32.wrapping_sub(MULTIBOOT_MAGIC).wrapping_sub(MULTIBOOT_FLAGS);
    let mut header = [0; 12];
    for (bytes, word) in header.chunks_exact_mut(4).zip([MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, checksum]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    header
}

/// An executable of one segment, `contents` at `addr`, in `memory_len` bytes of memory.
pub(crate) fn elf32(addr: u32, entry: u32, contents: &[u8], memory_len: u32) -> Vec<u8> {
    let mut file = Vec::with_capacity(SEGMENT_OFFSET as usize + contents.len());
    let half = |file: &mut Vec<u8>, values: &[u16]| file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    let word = |file: &mut Vec<u8>, values: &[u32]| file.extend(values.iter().flat_map(|v| v.to_le_bytes()));

    // Identification: 32 bits, little-endian, version 1.
    file.extend([0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // An executable for the 386, version 1.
    half(&mut file, &[2, 3]);
    word(&mut file, &[1, entry, HEADER_LEN, 0, 0]);
    // Header sizes and counts: one program header, no sections.
    half(&mut file, &[HEADER_LEN as u16, PROGRAM_HEADER_LEN as u16, 1, 0, 0, 0]);
    // Load, readable, writable and executable, page-aligned.
    let len = contents.len() as u32;
    word(&mut file, &[1, SEGMENT_OFFSET, addr, addr, len, memory_len.max(len), 7, 4]);
    file.resize(SEGMENT_OFFSET as usize, 0);
    file.extend_from_slice(contents);
    file
}

/// A 64-bit program of one segment, `code` at page-aligned `addr`, entered at its first byte (System V ABI, AMD64).
pub(crate) fn elf64(addr: u64, code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    // The file is mapped whole, so the code comes at the same offset within a page; a page after the headers.
    const OFFSET: u64 = 0x1000;
    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // An executable for x86-64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    // Entry, program headers after this one, no sections.
    file.extend([addr, 64, 0].iter().flat_map(|v| v.to_le_bytes()));
    // No flags; header sizes and counts: one program header.
    file.extend([0_u16, 0, 64, 56, 1, 0, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
    // Load, readable and executable.
    file.extend([1_u32, 5].iter().flat_map(|v| v.to_le_bytes()));
    let len = code.len() as u64;
    file.extend([OFFSET, addr, addr, len, len, 0x1000].iter().flat_map(|v| v.to_le_bytes()));
    debug_assert_eq!(file.len() as u64, HEADERS);
    file.resize(OFFSET as usize, 0);
    file.extend_from_slice(code);
    file
}
