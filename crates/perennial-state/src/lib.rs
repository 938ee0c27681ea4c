//! perennial-state
