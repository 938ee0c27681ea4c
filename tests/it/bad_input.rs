//! Bad input gets a clear error that names the thing and the next step, and a non-zero exit code.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Result;
use perennial_tests::Cluster;

use crate::{LIMIT, cluster};

/// Runs a command that must fail, and checks that its error output has all the parts.
fn refused(cluster: &Cluster, args: &[&str], parts: &[&str]) -> Result<()> {
    let output = cluster.cli(args).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "perennial {args:?} succeeded");
    for part in parts {
        assert!(text.contains(part), "perennial {args:?}: `{part}` is not in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    Ok(())
}

#[test]
fn artifacts_that_cannot_run_are_refused_before_submission() -> Result<()> {
    let cluster = cluster().start()?;
    let path = |name: &str| cluster.dir().join(name).display().to_string();
    refused(&cluster, &["run", &path("missing")], &["missing", "hint:"])?;

    fs::write(path("text"), "not a program")?;
    refused(&cluster, &["run", &path("text")], &["text", "hint:"])?;

    fs::write(path("script"), "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions(path("script"), fs::Permissions::from_mode(0o755))?;
    refused(&cluster, &["run", &path("script")], &["script", "perennial"])?;

    // The right kind of file for another machine: the ELF header's machine field says aarch64.
    let mut foreign = fs::read(cluster.binary())?;
    foreign[18] = 183;
    fs::write(path("foreign"), foreign)?;
    fs::set_permissions(path("foreign"), fs::Permissions::from_mode(0o755))?;
    refused(&cluster, &["run", &path("foreign")], &["aarch64"])?;

    let binary = cluster.binary().display().to_string();
    refused(&cluster, &["run", "--job-classname", "wordcuont", &binary], &["wordcuont", "wordcount", "trivial"])?;
    refused(&cluster, &["run", &binary], &["wordcount", "--job-classname"])?;
    refused(&cluster, &["run", "--job-classname", "wordcount", &binary], &["input"])?;
    assert!(cluster.run_cli(&["list", "-a", "-o", "json"])?.trim() == "[]");
    Ok(())
}

/// More parallelism than slots is said at once, with the TaskManagers, and said again when the wait is over.
#[test]
fn missing_slots_are_named_at_once_and_at_the_end() -> Result<()> {
    let mut cluster = cluster().taskmanagers(2, 2).config("slot.request.timeout", "1 s").start()?;
    let job = cluster.submit("idle", 8, &[])?;
    cluster.wait_state(&job, "FAILED", LIMIT)?;
    let text = cluster.job(&job)?.to_string() + &cluster.run_cli(&["list", "-a", "-o", "json"])?;
    for part in ["needs 8", "4", "tm-1", "tm-2"] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    Ok(())
}

#[test]
fn unreachable_jobmanagers_are_listed_with_their_reasons() -> Result<()> {
    let cluster = cluster().prepare()?;
    let endpoints = cluster.endpoints();
    refused(&cluster, &["list"], &[&endpoints, "refused"])
}

#[test]
fn a_port_in_use_is_named_with_its_option() -> Result<()> {
    let mut cluster = cluster().prepare()?;
    let port = cluster.endpoints().rsplit(':').next().unwrap().to_owned();
    let taken = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    cluster.start_jobmanager(0)?;
    let status = cluster.jobmanager(0)?.wait(Duration::from_secs(20))?;
    let log = cluster.jobmanager(0)?.log();
    assert!(!status.success());
    assert!(log.contains(&port) && log.contains("rest.port"), "{log}");
    drop(taken);
    Ok(())
}

/// A JobManager whose directory is damaged or of another member says so and ends, and leaves the directory as it is.
#[test]
fn unreadable_options_and_directories_are_refused() -> Result<()> {
    let cluster = cluster().prepare()?;
    refused(&cluster, &["jobmanager", "-D", "rest.prot=1"], &["rest.prot", "rest.port"])?;
    refused(
        &cluster,
        &["taskmanager", "-D", "taskmanager.numberOfTaskSlots=none"],
        &["numberOfTaskSlots", "none", "whole number"],
    )?;
    let file = cluster.dir().join("a-file");
    fs::write(&file, "")?;
    let place = format!("jobmanager.data-dir={}", file.display());
    refused(&cluster, &["jobmanager", "-D", &place, "-D", "rest.port=0", "-D", "jobmanager.rpc.port=0"], &["a-file"])
}
