//! The image and the compose files of `deploy/`, run as a user would run them. Needs a Docker engine, compose and Debian's packages.
//!
//! `ha.yml` comes up, a job is submitted from inside a container, and then the leader is killed, the next one is cut off, and all
//! are restarted one after the other. Then a user's file for Flink comes up with only the image changed.

mod engine;
mod ha;
mod image;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use perennial_tests::{Report, verify_exactly_once};
use serde_json::Value;

use crate::interrupt::{self, wait_for};
use crate::scene::ms;
use engine::{Container, Project, docker};
use image::{Image, deploy};

/// Longest wait for what takes seconds on a quiet machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Records of the sample in `application.yml`.
const RECORDS: usize = 200_000;

/// Size of the image.
const IMAGE_BYTES_MAX: u64 = 60_000_000;

pub(crate) fn run(binary: &Path) -> Result<Report> {
    interrupt::listen()?;
    let scratch = std::env::temp_dir().join(format!("perennial-compose-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let mut report = Report::default();
    let ran = run_in(binary, &scratch, &mut report);
    _ = fs::remove_dir_all(&scratch);
    if ran.is_err() {
        // What was measured until then.
        print!("{report}");
    }
    ran.map(|()| report)
}

fn run_in(binary: &Path, scratch: &Path, report: &mut Report) -> Result<()> {
    let start = Instant::now();
    let image = Image::build(binary, scratch)?;
    report.information("base and image built", ms(start.elapsed()));
    let bytes = image.bytes()?;
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    report.row("image size", format!("≤ {}", megabytes(IMAGE_BYTES_MAX)), megabytes(bytes), bytes <= IMAGE_BYTES_MAX);
    verbs(image.name(), report)?;
    read_only(image.name(), scratch, report)?;
    ha::run(image.name(), scratch, report)?;
    session(image.name(), scratch, report)?;
    application(image.name(), scratch, report)
}

/// Flink's verbs, and anything else.
fn verbs(image: &str, report: &mut Report) -> Result<()> {
    let usage = docker(["run", "--rm", image])?.contains("standalone-job");
    let user = docker(["run", "--rm", image, "id", "-u"])?;
    let history = docker(["run", "--rm", image, "history-server"]).err().map(|error| error.to_string());
    let told = history.is_some_and(|error| error.contains("status: 2") && error.contains("Use the command jobmanager"));
    let seen = format!("usage: {usage}, `id -u`: {user}, told that there is no history-server: {told}");
    report.row("verbs, and anything else as it is", "all", seen, usage && user == "9999" && told);
    Ok(())
}

/// A JobManager whose root and configuration cannot be written, and what it makes of file, variables and flags.
fn read_only(image: &str, scratch: &Path, report: &mut Report) -> Result<()> {
    let file = scratch.join("config.yaml");
    fs::write(&file, "rest:\n  address: from-the-file\nparallelism.default: 3\njobmanager:\n  data-dir: /data\n")?;
    let mount = format!("{}:/opt/flink/conf/config.yaml:ro", file.display());
    let properties = "FLINK_PROPERTIES=\njobmanager:\n  rpc:\n    address: jobmanager\n\npipeline.name: two  words\nparallelism.default: 5\n";
    let container = Container::run(&[
        "--read-only",
        "--tmpfs=/tmp",
        "--volume=/data",
        &format!("--volume={mount}"),
        &format!("--env={properties}"),
        "--env=TASK_MANAGER_NUMBER_OF_TASK_SLOTS=7",
        image,
        "jobmanager",
    ])?;
    let asked = wait_for("a JobManager with a read-only root to serve", LIMIT, || {
        container.exec(&["perennial", "health"])?;
        container.exec(&["perennial", "config", "show", "-o", "json", "-D", "parallelism.default=6"])
    });
    container.docker(&["rm", "--force", "--volumes"])?;
    let shown: Value = serde_json::from_str(&asked?)?;
    let wanted = [
        ("rest.address", "from-the-file"),
        ("jobmanager.rpc.address", "jobmanager"),
        ("pipeline.name", "two  words"),
        ("taskmanager.numberOfTaskSlots", "7"),
        ("parallelism.default", "6"),
    ];
    let wrong = wanted.iter().filter(|(key, value)| option(&shown, key).as_deref() != Some(value));
    let wrong: Vec<String> = wrong.map(|(key, _)| format!("{key} is {:?}", option(&shown, key))).collect();
    let seen = if wrong.is_empty() { "as written".to_owned() } else { wrong.join(", ") };
    report.row("read-only root and configuration: options in force", "as written", seen, wrong.is_empty());
    Ok(())
}

/// The value of an option in the output of `perennial config show -o json`.
fn option(shown: &Value, key: &str) -> Option<String> {
    let entry = shown.as_array()?.iter().find(|entry| entry.get("key").and_then(Value::as_str) == Some(key))?;
    Some(entry.get("value")?.as_str()?.to_owned())
}

/// A user's file for Flink: only its image is another, and its port one that is free.
fn session(image: &str, scratch: &Path, report: &mut Report) -> Result<()> {
    let file = scratch.join("flink-session.yml");
    let text = fs::read_to_string(deploy().join("test/flink-session.yml"))?;
    fs::write(&file, text.replace("flink:latest", image).replace("\"8081:8081\"", "\"127.0.0.1::8081\""))?;
    let project = Project::new("perennial-session", file, image);
    let start = Instant::now();
    project.compose(&["up", "-d"])?;
    let (jobmanager, taskmanager) = (project.container("jobmanager")?, project.container("taskmanager")?);
    taskmanager.exec(&["sh", "-c", "echo 'to be or not to be' > /tmp/text"])?;
    let job =
        ["flink", "run", "-p", "2", "-c", "wordcount", "/opt/flink/bin/flink", "--", "--input", "/tmp/text", "--final"];
    let output = wait_for("the word count to run", LIMIT, || jobmanager.exec(&job))?;
    ensure!(output.contains("has finished"), "{output}");
    let words = ["to 2", "be 2", "or 1", "not 1"];
    wait_for("the counts in the TaskManager's log", LIMIT, || {
        let log = taskmanager.log()?;
        let missing: Vec<_> = words.iter().filter(|word| !log.contains(&format!("> {word} "))).collect();
        ensure!(missing.is_empty(), "{missing:?} are missing in: {log}");
        Ok(())
    })?;
    report.row("a user's compose file for Flink, only the image changed: word count", "exact", "exact", true);
    report.information("the same: `up` to the end of the job", ms(start.elapsed()));
    Ok(())
}

/// One application: its JobManager is killed and started again, ends with the job, and runs nothing when it is started once more.
fn application(image: &str, scratch: &Path, report: &mut Report) -> Result<()> {
    let project = Project::new("perennial-application", deploy().join("compose/application.yml"), image);
    let artifacts = scratch.join("artifacts");
    fs::create_dir_all(&artifacts)?;
    fs::copy(scratch.join("image/perennial"), artifacts.join("job"))?;
    let project = project.variable("ARTIFACTS", &artifacts.display().to_string());
    project.compose(&["up", "-d"])?;
    let (jobmanager, taskmanager) = (project.container("jobmanager")?, project.container("taskmanager")?);
    let finished = ["sh", "-c", "cat /shared/out/* 2>/dev/null | wc -l"];
    wait_for("the application's first output", LIMIT, || {
        ensure!(taskmanager.exec(&finished)?.trim() != "0", "there is none");
        Ok(())
    })?;
    jobmanager.docker(&["kill"])?;
    jobmanager.docker(&["start"])?;
    let code = jobmanager.docker(&["wait"])?;
    report.row("application.yml: JobManager killed and started, exit code at the job's end", "0", &code, code == "0");
    let out = scratch.join("application");
    taskmanager.copy_out("/shared/out", &out)?;
    let (seen, exact) = match verify_exactly_once(&out) {
        Ok(counted) => (format!("{} records, each once", counted.indices.len()), counted.indices.len() == RECORDS),
        Err(error) => (format!("{error:#}"), false),
    };
    report.row("application.yml: output", format!("{RECORDS} records, each once"), seen, exact);
    jobmanager.docker(&["start"])?;
    let code = jobmanager.docker(&["wait"])?;
    let runs = jobmanager.log()?.matches("the application's job is submitted").count();
    let seen = format!("{runs} submission, exit code {code}");
    report.row(
        "application.yml: started again after its end",
        "1 submission, exit code 0",
        seen,
        runs == 1 && code == "0",
    );
    Ok(())
}
