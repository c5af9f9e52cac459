//! Buses, run loop, machine builder, interrupt routing and boot, for any backend.
