//! perennial-bench
