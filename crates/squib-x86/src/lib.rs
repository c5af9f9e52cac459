//! What x86-64 instructions mean, written once for every tier.
