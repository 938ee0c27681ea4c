//! perennial-exchange
