//! Writes the smallest ELF32 file that a multiboot loader takes (ELF specification 1.2; Multiboot 0.6.96, 3.1).

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
