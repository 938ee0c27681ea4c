//! perennial-examples
