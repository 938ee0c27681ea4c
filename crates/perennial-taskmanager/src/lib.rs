//! perennial-taskmanager
