//! The built artifact in its roles, as a cluster and a user start it.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use perennial_types::{ARTIFACT_PROTOCOL, ArtifactManifest, JobGraph, MANIFEST_MAGIC, PlanRequest};

const BINARY: &str = env!("CARGO_BIN_EXE_perennial-examples");

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn plan(dir: &Path, request: &PlanRequest) -> (Output, Option<JobGraph>) {
    let (asked, planned) = (dir.join("request.json"), dir.join("graph.json"));
    fs::write(&asked, serde_json::to_vec(request).unwrap()).unwrap();
    let _ = fs::remove_file(&planned);
    let output = run(&["plan", "--request", asked.to_str().unwrap(), "--output", planned.to_str().unwrap()]);
    let graph = fs::read(&planned).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap());
    (output, graph)
}

#[test]
fn the_executable_contains_the_magic_and_describes_itself() {
    let bytes = fs::read(BINARY).unwrap();
    assert!(bytes.windows(MANIFEST_MAGIC.len()).any(|window| window == MANIFEST_MAGIC));
    let output = run(&["describe"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    let manifest: ArtifactManifest = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest.protocol.max, ARTIFACT_PROTOCOL);
    assert_eq!(manifest.jobs[0], "wordcount");
    assert_eq!(manifest.target, format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS));
}

#[test]
fn the_same_request_gives_the_same_graph() {
    let dir = tempfile::tempdir().unwrap();
    let request = PlanRequest {
        job: Some("wordcount".to_owned()),
        args: vec!["--input".to_owned(), "/nowhere".to_owned()],
        config: BTreeMap::from([("parallelism.default".to_owned(), "3".to_owned())]),
    };
    let (output, graph) = plan(dir.path(), &request);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.is_empty(), "standard output is the builder's");
    let graph = graph.unwrap();
    let names: Vec<&str> = graph.vertices.iter().map(|vertex| vertex.name.as_str()).collect();
    assert_eq!(names, ["Source: File Source -> Words", "Count -> Map -> Map -> Sink: Print to Std. Out"]);
    assert_eq!((graph.name.as_str(), graph.vertices[0].parallelism), ("wordcount", 3));
    let (_, again) = plan(dir.path(), &request);
    assert_eq!(again.as_ref(), Some(&graph));
    let config = BTreeMap::from([("parallelism.default".to_owned(), "2".to_owned())]);
    let (_, other) = plan(dir.path(), &PlanRequest { config, ..request });
    assert_ne!(other.unwrap().structural_hash, graph.structural_hash);
}

/// Every stage of the probed job is a task of its own, with a probe.
#[test]
fn gap_probe_is_four_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let request = PlanRequest {
        job: Some("gap_probe".to_owned()),
        args: vec!["--probes".to_owned(), "/nowhere".to_owned()],
        ..PlanRequest::default()
    };
    let (output, graph) = plan(dir.path(), &request);
    assert!(output.status.success(), "{}", stderr(&output));
    let names: Vec<String> = graph.unwrap().vertices.into_iter().map(|vertex| vertex.name).collect();
    let expect = ["Source: Data Generator -> Map", "Map -> Map", "Keyed Aggregation -> Map", "Map -> Sink: Discard"];
    assert_eq!(names, expect);
}

#[test]
fn bad_requests_say_what_is_wrong_and_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let check = |request: PlanRequest, parts: &[&str]| {
        let (output, graph) = plan(dir.path(), &request);
        assert!(!output.status.success() && graph.is_none());
        let text = stderr(&output);
        parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` is not in {text}"));
    };
    let of = |job: &str| PlanRequest { job: Some(job.to_owned()), ..PlanRequest::default() };
    check(of("wordcuont"), &["wordcuont", "wordcount", "trivial"]);
    check(PlanRequest::default(), &["--job-classname", "wordcount", "trivial"]);
    check(of("wordcount"), &["argument `--input` is missing"]);
    let config = BTreeMap::from([("parallelism.defualt".to_owned(), "1".to_owned())]);
    check(PlanRequest { config, ..of("trivial") }, &["parallelism.defualt", "did you mean `parallelism.default`"]);
    let missing = run(&["plan", "--request", "/no/such", "--output", "/no/where"]);
    assert!(stderr(&missing).contains("/no/such cannot be read"), "{}", stderr(&missing));
    assert_eq!(run(&["plan"]).status.code(), Some(2));
}

#[test]
fn without_a_role_a_job_runs_in_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("input.txt"), dir.path().join("output"));
    fs::write(&input, b"b a\x0bb\xff \t a\r\n\nb").unwrap();
    let paths = (input.to_str().unwrap(), output.to_str().unwrap());
    let counted = run(&["--job", "wordcount", "-p", "2", "--input", paths.0, "--output", paths.1, "--final"]);
    assert!(counted.status.success(), "{}", stderr(&counted));
    assert!(stderr(&counted).contains("job `wordcount` finished in"), "{}", stderr(&counted));
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for part in fs::read_dir(&output).unwrap() {
        let bytes = fs::read(part.unwrap().path()).unwrap();
        lines.extend(bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
    }
    lines.sort();
    assert_eq!(lines, [&b"a 2"[..], b"b 2", b"b\xff 1"]);

    let failed = run(&["--job", "failing"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("record 100 is not welcome"), "{}", stderr(&failed));
    let panicked = run(&["--job", "failing", "--how", "panic"]);
    assert_eq!(panicked.status.code(), Some(1));
    assert!(stderr(&panicked).contains("panicked: record 100 is not welcome"), "{}", stderr(&panicked));
}

/// Every sample job that ends runs to its end.
#[test]
fn sample_jobs_run() {
    for arguments in [
        &["--job", "trivial"][..],
        &["--job", "keyed_count", "-p", "2", "--keys", "10", "--count", "10000"],
        &["--job", "passthrough", "--count", "10000", "--rate", "1000000"],
        &["--job", "slow_sink", "--count", "1000", "--rate", "100000"],
    ] {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    }
}

/// The role `exec` refuses a job that is not the one planned, and a specification that is none.
#[test]
fn exec_refuses_another_job_than_the_planned_one() {
    let dir = tempfile::tempdir().unwrap();
    let spec = dir.path().join("spec.json");
    let exec = |hash: u64| {
        let json = serde_json::json!({
            "job": "0123456789abcdef0123456789abcdef",
            "socket": dir.path().join("socket"),
            "bind_host": "127.0.0.1",
            "host": "127.0.0.1",
            "data_port": 0,
            "taskmanager": "tm-1",
            "request": { "job": "trivial" },
            "structural_hash": hash,
            "config": {},
        });
        fs::write(&spec, json.to_string()).unwrap();
        run(&["exec", "--spec", spec.to_str().unwrap()])
    };
    let output = exec(1);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the builder is not deterministic"), "{}", stderr(&output));
    fs::write(&spec, "{}").unwrap();
    let output = run(&["exec", "--spec", spec.to_str().unwrap()]);
    assert!(stderr(&output).contains("is not an executor's specification"), "{}", stderr(&output));
}

/// A job that ends finishes all its parts, with checkpoints or without, and names them after the way they were finished.
#[test]
fn counts_are_written_once() {
    for (options, first) in
        [(&[][..], "part-0"), (&["-D", "execution.checkpointing.interval=1h"][..], "part-0-0000000000")]
    {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let job = ["--job", "exactly_once", "-p", "2"];
        let arguments = ["--keys", "10", "--count", "1000", "--out", out.to_str().unwrap()];
        let output = run(&[&job[..], options, &arguments[..]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let mut lines = Vec::new();
        let mut names = Vec::new();
        for entry in fs::read_dir(&out).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            lines.extend(fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
        assert!(
            names.iter().any(|name| name == first) && names.iter().all(|name| name.starts_with("part-")),
            "{names:?}"
        );
        let mut counts: Vec<(u64, u64)> = lines
            .iter()
            .map(|line| {
                let mut numbers = line.split(',').map(|number| number.parse().unwrap());
                (numbers.next().unwrap(), numbers.next().unwrap())
            })
            .collect();
        counts.sort_unstable();
        let expect: Vec<(u64, u64)> = (0..10).flat_map(|key| (1..=100).map(move |count| (key, count))).collect();
        assert_eq!(counts, expect);
    }
}
