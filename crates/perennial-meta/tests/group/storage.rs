//! Damage, snapshots, rebuilding.
