//! Images built by hand.

/// A segment of an [`Elf`].
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) addr: u64,
    pub(crate) virtual_addr: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) memory_size: u64,
}

impl Segment {
    /// `bytes` at a physical address, and as virtual address what Linux uses for it.
    pub(crate) fn new(addr: u64, bytes: Vec<u8>) -> Self {
        let memory_size = bytes.len() as u64;
        Self { addr, virtual_addr: addr | 0xffff_ffff_8000_0000, bytes, memory_size }
    }
}

/// An ELF executable.
#[derive(Debug, Clone)]
pub(crate) struct Elf {
    pub(crate) is_64: bool,
    pub(crate) machine: u16,
    pub(crate) kind: u16,
    pub(crate) entry: u64,
    pub(crate) segments: Vec<Segment>,
    /// The contents of Xen's PVH note.
    pub(crate) pvh_note: Option<Vec<u8>>,
}

/// Where the headers end and the first segment begins in the file.
pub(crate) const CONTENTS: usize = 0x1000;

impl Elf {
    /// A 64-bit Linux-like kernel: code with calls at 1 MiB, data and zeros at 2 MiB, no PVH note.
    pub(crate) fn kernel() -> Self {
        let mut data = Segment::new(0x20_0000, (0..=255).cycle().take(5000).collect());
        data.memory_size = 0x1_0000;
        Self {
            is_64: true,
            machine: 62,
            kind: 2,
            entry: 0x10_0010,
            segments: vec![Segment::new(0x10_0000, code()), data],
            pvh_note: None,
        }
    }

    /// The same with a PVH entry.
    pub(crate) fn pvh() -> Self {
        Self { pvh_note: Some(0x10_0020u32.to_le_bytes().to_vec()), ..Self::kernel() }
    }

    /// The same for 32-bit mode.
    pub(crate) fn kernel_32() -> Self {
        Self { is_64: false, machine: 3, ..Self::kernel() }
    }

    /// The file.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut contents = Vec::new();
        let mut headers = Vec::new();
        let mut header = |kind: u32, s: &Segment| {
            let offset = (CONTENTS + contents.len()) as u64;
            contents.extend_from_slice(&s.bytes);
            contents.resize(contents.len().next_multiple_of(16), 0);
            let (len, memory_size) = (s.bytes.len() as u64, s.memory_size);
            let fields = if self.is_64 {
                [u64::from(kind) | 7 << 32, offset, s.virtual_addr, s.addr, len, memory_size, 4]
                    .map(u64::to_le_bytes)
                    .concat()
            } else {
                [u64::from(kind), offset, s.virtual_addr, s.addr, len, memory_size, 7, 4]
                    .map(|f| (f as u32).to_le_bytes())
                    .concat()
            };
            headers.push(fields);
        };
        self.segments.iter().for_each(|s| header(1, s));
        if let Some(entry) = &self.pvh_note {
            let mut note = [5u32, 0, 1].map(u32::to_le_bytes).concat();
            note.extend(b"GNU!\0\0\0\0");
            note.extend([4, entry.len() as u32, 18].map(u32::to_le_bytes).concat());
            note.extend(b"Xen\0");
            note.extend(entry);
            header(4, &Segment::new(0, note));
        }
        let count = headers.len() as u16;
        let class = if self.is_64 { 2 } else { 1 };
        let mut file = [b"\x7fELF".as_slice(), &[class, 1, 1], &[0; 9]].concat();
        file.extend([self.kind.to_le_bytes(), self.machine.to_le_bytes()].concat());
        file.extend(1u32.to_le_bytes());
        if self.is_64 {
            file.extend([self.entry, 64, 0].map(u64::to_le_bytes).concat());
        } else {
            file.extend([self.entry, 52, 0].map(|f| (f as u32).to_le_bytes()).concat());
        }
        file.extend(0u32.to_le_bytes());
        let sizes = if self.is_64 { [64, 56, count, 64, 0, 0] } else { [52, 32, count, 40, 0, 0] };
        file.extend(sizes.map(u16::to_le_bytes).concat());
        file.extend(headers.concat());
        assert!(file.len() <= CONTENTS);
        file.resize(CONTENTS, 0);
        file.extend(contents);
        file
    }
}

/// Calls of one function from many places, so that xz's x86 filter has something to undo.
pub(crate) fn code() -> Vec<u8> {
    (0..800i32).flat_map(|i| [&[0xe8][..], &(0x4000 - 16 * i).to_le_bytes(), &[0x90; 11]].concat()).collect()
}

/// A bzImage of protocol 2.15 around `payload`, with one sector of set-up code.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x20e, &0x180u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x2ff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x238, &255u32.to_le_bytes());
    put(0x248, &0x40u32.to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    put(0x380, b"9.9.9-squib (test) #1\0");
    image.extend([0xcc; 0x40]);
    image.extend(payload);
    // Relocations and the like follow the payload.
    image.extend([0xdd; 100]);
    image
}

/// An image whose multiboot header at offset 16 has the address fields `header, load, load_end, bss_end, entry`.
pub(crate) fn multiboot_flat(flags: u32, addresses: [u32; 5], len: usize) -> Vec<u8> {
    let mut image = vec![0x90; 16];
    image.extend(multiboot_header(flags));
    image.extend(addresses.map(u32::to_le_bytes).concat());
    image.resize(len, 0xf4);
    image
}

/// The three words of every multiboot header.
pub(crate) fn multiboot_header(flags: u32) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    [magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)].map(u32::to_le_bytes).concat()
}
