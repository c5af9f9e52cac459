//! What a workload stands on: as a guest, the way from a PVH or 64-bit loader to `run` and the debug ports; with
//! `--cfg native`, a Linux program that prints checksum and nanoseconds.

#![allow(dead_code, reason = "no workload uses all of it")]

use core::cell::UnsafeCell;

/// Memory of a workload, zero at first.
#[repr(C, align(4096))]
pub struct Scratch<T>(UnsafeCell<T>);

// SAFETY: workloads have one thread.
unsafe impl<T> Sync for Scratch<T> {}

impl<T> Scratch<T> {
    pub const fn new(zero: T) -> Self {
        Self(UnsafeCell::new(zero))
    }

    /// The memory. A workload calls this once a run for each of its statics.
    #[allow(clippy::mut_from_ref, reason = "the caller takes it once")]
    pub fn take(&self) -> &mut T {
        // SAFETY: one thread, and one call a run, after which the earlier run's borrow is gone.
        unsafe { &mut *self.0.get() }
    }
}

/// A pseudo-random sequence (Marsaglia's xorshift64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// FNV-1a over `bytes`, to sum up what a workload left in memory.
pub fn checksum(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Makes the program's entry out of the crate's `fn run() -> u64`.
#[cfg(native)]
#[macro_export]
macro_rules! workload {
    () => {
        fn main() {
            let start = std::time::Instant::now();
            let sum = std::hint::black_box(run());
            println!("{sum:016x} {}", start.elapsed().as_nanos());
        }
    };
}

/// Makes the program's entry out of the crate's `fn run() -> u64`.
#[cfg(not(native))]
#[macro_export]
macro_rules! workload {
    () => {
        /// Called on a stack of its own in 64-bit mode, ring 0, interrupts off.
        #[unsafe(no_mangle)]
        extern "C" fn guest_main() -> ! {
            support::finish(run())
        }
    };
}

#[cfg(not(native))]
mod guest {
    use core::arch::{asm, global_asm};

    // Both entries end in `guest_main`: a PVH loader's in 32-bit protected mode without paging (the note names
    // it), a 64-bit loader's at `_start`. The tables map the first 4 GiB one to one.
    global_asm!(
        r#"
    .section .note.Xen, "a", @note
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_start

    .text
    .code32
pvh_start:
    cli
    movl $tables + 0x1003, tables
    movl $0, %ecx
1:  movl %ecx, %eax
    shll $12, %eax
    addl $tables + 0x2003, %eax
    movl %eax, tables + 0x1000(,%ecx,8)
    incl %ecx
    cmpl $4, %ecx
    jb 1b
    movl $0x83, %eax
    movl $0, %ecx
2:  movl %eax, tables + 0x2000(,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jb 2b
    movl $tables, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    lgdt gdtr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmp $8, $_start

    .code64
    .globl _start
_start:
    cli
    cld
    movq %cr0, %rax
    andq $~4, %rax
    orq $2, %rax
    movq %rax, %cr0
    movq %cr4, %rax
    orq $0x600, %rax
    movq %rax, %cr4
    movl $stack_end, %esp
    xorl %ebp, %ebp
    call guest_main

    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:
    .word 23
    .long gdt

    .bss
    .balign 4096
tables:
    .skip 0x6000
    .skip 0x10000
stack_end:
"#,
        options(att_syntax)
    );

    /// Prints `sum` on the debug console and ends the run.
    pub fn finish(sum: u64) -> ! {
        for shift in (0..64).step_by(4).rev() {
            put(b"0123456789abcdef"[(sum >> shift) as usize & 15]);
        }
        put(b'\n');
        loop {
            // SAFETY: the debug exit port; where there is none, the guest halts.
            unsafe { asm!("out 0xf4, al", "hlt", in("al") 0u8, options(nomem, nostack)) }
        }
    }

    fn put(byte: u8) {
        // SAFETY: the debug console port.
        unsafe { asm!("out 0xe9, al", in("al") byte, options(nomem, nostack)) }
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        // SAFETY: any other status than a finished run's.
        unsafe { asm!("out 0xf4, al", "2: hlt", "jmp 2b", in("al") 1u8, options(noreturn)) }
    }

    /// # Safety
    /// As for C's `memcpy`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        // A loop in assembly: the compiler would make a call of `memcpy` out of one in Rust.
        // SAFETY: as the caller promises.
        unsafe {
            asm!(
                "test {n}, {n}", "jz 3f",
                "2: mov {t:l}, [{f} + {i}]", "mov [{d} + {i}], {t:l}", "inc {i}", "cmp {i}, {n}", "jb 2b",
                "3:",
                n = in(reg) len, f = in(reg) from, d = in(reg) to, i = inout(reg) 0usize => _,
                t = out(reg_abcd) _, options(nostack)
            );
        }
        to
    }

    /// # Safety
    /// As for C's `memset`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe {
            asm!(
                "test {n}, {n}", "jz 3f",
                "2: mov [{d} + {i}], {b:l}", "inc {i}", "cmp {i}, {n}", "jb 2b",
                "3:",
                n = in(reg) len, b = in(reg_abcd) byte, d = in(reg) to, i = inout(reg) 0usize => _,
                options(nostack)
            );
        }
        to
    }

    /// # Safety
    /// As for C's `memcmp`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        for i in 0..len {
            // SAFETY: as the caller promises; volatile, so that this loop is not made a call of itself.
            let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
            if x != y {
                return i32::from(x) - i32::from(y);
            }
        }
        0
    }
}

#[cfg(not(native))]
pub use guest::finish;
