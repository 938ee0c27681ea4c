//! perennial-connectors
