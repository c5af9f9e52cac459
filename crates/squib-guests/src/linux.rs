//! A user space for Linux, in a kilobyte: an initial RAM disk with one program.

use iced_x86::code_asm::*;

use crate::asm::{Assembled, assemble};
use crate::elf::elf64;

/// What `init` prints first.
pub const LINUX_BANNER: &str = "squib: user space";

/// What it prints when it waits for a line.
pub const LINUX_READY: &str = "squib: ready";

const LOAD: u64 = 0x40_0000;

/// System calls (Linux, arch/x86/entry/syscalls/syscall_64.tbl).
const READ: u32 = 0;
const WRITE: u32 = 1;
const IOCTL: u32 = 16;
const NANOSLEEP: u32 = 35;
const REBOOT: u32 = 169;
const SCHED_SETAFFINITY: u32 = 203;
const SCHED_GETAFFINITY: u32 = 204;

/// With argument 1: wait until all output is sent (Linux, include/uapi/asm-generic/ioctls.h).
const TCSBRK: u32 = 0x5409;
/// Linux, include/uapi/linux/reboot.h.
const REBOOT_MAGIC: [u32; 2] = [0xfee1_dead, 672_274_793];
const POWER_OFF: u32 = 0x4321_fedc;

const NAP_NS: u32 = 1_000_000;
/// Bytes of the longest line.
const LINE: u32 = 64;

/// An initial RAM disk whose `init` prints [`LINUX_BANNER`]; for each processor moves there, sleeps a
/// millisecond and prints `cpu N`; prints [`LINUX_READY`]; prints back the line that it is given; and switches
/// the machine off.
///
/// So timers and inter-processor interrupts have worked on each processor, and the console's interrupts both ways.
pub fn linux_initrd() -> Vec<u8> {
    archive(&[("init", 0o100_755, &elf64(LOAD, &assemble(64, LOAD, init)))])
}

/// The same for any architecture whose `busybox`, a static one, is given: it runs a script.
pub fn linux_busybox_initrd(busybox: &[u8]) -> Vec<u8> {
    let script = format!(
        "#!/busybox sh\n\
         echo '{LINUX_BANNER}'\n\
         for cpu in 0 1 2 3; do\n\
         /busybox taskset $((1 << cpu)) /busybox usleep 1000 2>/busybox.log && echo \"cpu $cpu\"\n\
         done\n\
         echo '{LINUX_READY}'\n\
         read line\n\
         echo \"$line\"\n\
         /busybox usleep 100000\n\
         /busybox poweroff -f\n"
    );
    archive(&[("busybox", 0o100_755, busybox), ("init", 0o100_755, script.as_bytes())])
}

/// A cpio archive of these members: name, mode, contents.
fn archive(members: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, contents) in members.iter().chain(&[("TRAILER!!!", 0, &[][..])]) {
        member(&mut archive, name, *mode, contents);
    }
    archive
}

/// Adds a member to a cpio archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
fn member(archive: &mut Vec<u8>, name: &str, mode: u32, contents: &[u8]) {
    let (len, name_len) = (contents.len() as u32, name.len() as u32 + 1);
    let fields = [0, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
    archive.extend(b"070701");
    archive.extend(fields.iter().flat_map(|field| format!("{field:08X}").into_bytes()));
    for part in [format!("{name}\0").as_bytes(), contents] {
        archive.extend(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}

fn init(a: &mut CodeAssembler) -> Assembled {
    let (mut next, mut skip, mut done) = (a.create_label(), a.create_label(), a.create_label());
    a.sub(rsp, 256)?;
    print(a, &format!("{LINUX_BANNER}\n"))?;

    // R12: the processors still to visit; R13: the one looked at, R14 its bit.
    a.xor(edi, edi)?;
    a.mov(esi, 128)?;
    a.mov(rdx, rsp)?;
    system_call(a, SCHED_GETAFFINITY)?;
    a.mov(r12, qword_ptr(rsp))?;
    a.xor(r13d, r13d)?;
    a.mov(r14d, 1)?;
    a.set_label(&mut next)?;
    a.test(r12, r14)?;
    a.jz(skip)?;
    a.mov(qword_ptr(rsp), r14)?;
    a.xor(edi, edi)?;
    a.mov(esi, 8)?;
    a.mov(rdx, rsp)?;
    system_call(a, SCHED_SETAFFINITY)?;
    a.mov(qword_ptr(rsp), 0)?;
    a.mov(qword_ptr(rsp + 8), NAP_NS as i32)?;
    a.mov(rdi, rsp)?;
    a.xor(esi, esi)?;
    system_call(a, NANOSLEEP)?;
    // "cpu N\n", N below ten.
    a.mov(rax, u64::from_le_bytes(*b"cpu 0\n\0\0"))?;
    a.mov(qword_ptr(rsp), rax)?;
    a.add(byte_ptr(rsp + 4), r13b)?;
    a.mov(rsi, rsp)?;
    a.mov(edx, 6)?;
    write(a)?;
    a.set_label(&mut skip)?;
    a.inc(r13d)?;
    a.add(r14, r14)?;
    a.cmp(r13d, 10)?;
    a.jb(next)?;

    print(a, &format!("{LINUX_READY}\n"))?;
    a.xor(edi, edi)?;
    a.mov(rsi, rsp)?;
    a.mov(edx, LINE)?;
    system_call(a, READ)?;
    a.mov(edx, eax)?;
    a.mov(rsi, rsp)?;
    write(a)?;
    a.mov(edi, 1)?;
    a.mov(esi, TCSBRK)?;
    a.mov(edx, 1)?;
    system_call(a, IOCTL)?;
    a.mov(edi, REBOOT_MAGIC[0])?;
    a.mov(esi, REBOOT_MAGIC[1])?;
    a.mov(edx, POWER_OFF)?;
    system_call(a, REBOOT)?;
    a.set_label(&mut done)?;
    a.jmp(done)
}

fn system_call(a: &mut CodeAssembler, number: u32) -> Assembled {
    a.mov(eax, number)?;
    a.syscall()
}

/// Writes the EDX bytes at RSI to standard output.
fn write(a: &mut CodeAssembler) -> Assembled {
    a.mov(edi, 1)?;
    system_call(a, WRITE)
}

fn print(a: &mut CodeAssembler, text: &str) -> Assembled {
    let (mut data, mut over) = (a.create_label(), a.create_label());
    a.lea(rsi, ptr(data))?;
    a.mov(edx, text.len() as u32)?;
    a.jmp(over)?;
    a.set_label(&mut data)?;
    a.db(text.as_bytes())?;
    a.set_label(&mut over)?;
    write(a)
}
