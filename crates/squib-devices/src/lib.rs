//! Register models of the platform's devices: no threads, no host I/O.
