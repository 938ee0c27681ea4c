//! perennial-coordination
