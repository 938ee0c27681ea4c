//! perennial-tests
