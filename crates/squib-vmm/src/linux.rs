//! What Linux is told on these boards.

use squib_core::Architecture;

/// The command line for a Linux kernel on a PC when nobody asks for another.
///
/// | word | why |
/// |---|---|
/// | `console=ttyS0` | the console is COM1; without the word Linux looks for a screen |
/// | `panic=-1` | a panic resets at once instead of halting for ever, so the machine ends and its outcome says why |
/// | `reboot=a` | reset by the ACPI register; left to itself Linux goes back to real mode for it, see `docs/design/acpi.md` |
/// | `cryptomgr.notests` | no self-tests of the ciphers at boot: 0.74 G of the 1.59 G instructions from Debian's 6.12 to busybox and off |
///
/// These were measured and left out, as they gain under 3 %: `tsc=reliable`, `pci=off`, `8250.nr_uarts=1`,
/// `mitigations=off`, `lsm=`, `rcupdate.rcu_expedited=1`. `quiet` saves four fifths of the exits, and the output
/// with them.
pub const COMMAND_LINE: &str = "console=ttyS0 panic=-1 reboot=a cryptomgr.notests";

/// The same on the board for aarch64, whose console is a PL011; it resets by PSCI.
pub const COMMAND_LINE_ARM64: &str = "console=ttyAMA0 panic=-1 cryptomgr.notests";

/// One that does on both boards: Linux passes over a console that is not there, and over x86's ways to reset.
pub const COMMAND_LINE_EITHER: &str = "console=ttyS0 console=ttyAMA0 panic=-1 reboot=a cryptomgr.notests";

/// The command line when nobody asks for another.
pub const fn command_line(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => COMMAND_LINE,
        Architecture::Arm64 => COMMAND_LINE_ARM64,
    }
}
