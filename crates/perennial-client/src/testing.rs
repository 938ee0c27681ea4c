//! Stand-ins for tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A shell script as a program, in a directory that lives as long as the first value.
pub(crate) fn script(body: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}
