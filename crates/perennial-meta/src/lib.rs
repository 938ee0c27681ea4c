//! perennial-meta
