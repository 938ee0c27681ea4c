//! perennial-chaos
