//! perennial-derive
