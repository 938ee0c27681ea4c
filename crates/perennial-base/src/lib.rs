//! perennial-base
