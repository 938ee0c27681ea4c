//! perennial-jobmanager
