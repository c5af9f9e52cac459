//! Debug console ports: a write is a byte of output, a read tells that the console is there.
//!
//! Bochs' port (Bochs documentation, `port_e9_hack`) and the one to which QEMU's `isa-debugcon` puts firmware
//! logs.

/// Bochs' debug console. A read gives 0xe9 when it is there.
pub const PORT_BOCHS: u16 = 0xe9;
/// SeaBIOS' and EDK II's debug console.
pub const PORT_FIRMWARE: u16 = 0x402;
/// What a read of either gives: how a guest finds out that somebody listens.
pub const PRESENT: u8 = 0xe9;
