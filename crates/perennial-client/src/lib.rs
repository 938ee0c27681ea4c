//! perennial-client
