//! An executor that the tests play: this test binary again, started through a script that is the job's artifact.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use perennial_rpc::executor::{
    ExecutorAction, ExecutorSpec, FromExecutor, Hello, read_to_executor, write_from_executor,
};
use perennial_rpc::taskmanager::{CommandError, ExecutionReport};
use perennial_types::{ARTIFACT_PROTOCOL, ExecutionState, Fence, JobId, LeaderEpoch};

/// An artifact whose executor behaves as `mode` says.
pub(crate) fn artifact(mode: &str) -> Vec<u8> {
    let binary = std::env::current_exe().unwrap();
    let binary = binary.display();
    format!("#!/bin/sh\nFAKE_MODE={mode} FAKE_SPEC=$3 exec {binary} --exact executor::role --nocapture\n").into_bytes()
}

/// Not a test: the role that the artifact starts. Under the test runner it has nothing to do.
#[test]
fn role() {
    let (Ok(mode), Ok(spec)) = (std::env::var("FAKE_MODE"), std::env::var("FAKE_SPEC")) else { return };
    let path = std::path::PathBuf::from(spec);
    let spec: ExecutorSpec = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // A test that failed takes its directory along, and should leave nothing running.
    std::thread::spawn(move || {
        while path.exists() {
            std::thread::sleep(Duration::from_millis(100));
        }
        std::process::exit(0);
    });
    match mode.as_str() {
        "fails" => {
            eprintln!("no such job\nknown jobs: wordcount");
            std::process::exit(3);
        }
        "mute" => loop {
            std::thread::park();
        },
        _ => serve(&mode, &spec),
    }
}

fn serve(mode: &str, spec: &ExecutorSpec) -> ! {
    let listener = UnixListener::bind(&spec.socket).unwrap();
    println!("hello from {mode}");
    // One that heard a later leader than its TaskManager ever will.
    let epoch = LeaderEpoch(if mode == "ahead" { 1000 } else { 0 });
    let (mut fence, mut stale_commands) = (Fence { epoch, index: 0 }, 0);
    let mut executions: BTreeMap<_, ExecutionReport> = BTreeMap::new();
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let hello = Hello {
            protocol: if mode == "old" { 0 } else { ARTIFACT_PROTOCOL },
            job: if mode == "impostor" { JobId::from_bytes([0xff; 16]) } else { spec.job },
            pid: std::process::id(),
            data_port: 4242,
            fence,
            executions: executions.values().cloned().collect(),
            stale_commands,
        };
        let say = |stream: &mut UnixStream, message| _ = write_from_executor(stream, &message);
        say(&mut stream, FromExecutor::Hello(hello));
        while let Ok(command) = read_to_executor(&mut stream) {
            let mut result = Ok(());
            let report = |attempt, state, failure| ExecutionReport {
                job: spec.job,
                attempt,
                state,
                failure,
                progress: None,
                peer_lost: false,
                start_ms: None,
                checkpoints: Vec::new(),
                ended: false,
            };
            let mut reports = Vec::new();
            if !fence.admit(command.fence) {
                stale_commands += 1;
                result = Err(CommandError::Stale { seen: fence });
            } else {
                match command.action {
                    ExecutorAction::Deploy(deploy) if mode == "refuses" => {
                        result = Err(CommandError::Failed(format!("{} tasks are too many", deploy.tasks.len())));
                    }
                    ExecutorAction::Deploy(deploy) => {
                        let new = deploy.tasks.iter().filter(|task| !executions.contains_key(&task.attempt));
                        reports.extend(new.map(|task| report(task.attempt, ExecutionState::Running, None)));
                    }
                    ExecutorAction::Cancel { .. } | ExecutorAction::Stop if mode == "stubborn" => {}
                    ExecutorAction::Cancel { attempts } => {
                        reports.extend(attempts.into_iter().map(|a| report(a, ExecutionState::Canceled, None)));
                    }
                    ExecutorAction::Stop => {
                        for attempt in executions.keys() {
                            let report = report(*attempt, ExecutionState::Canceled, None);
                            say(&mut stream, FromExecutor::Execution(report));
                        }
                        print!("last words");
                        std::io::stdout().flush().unwrap();
                        std::process::exit(0);
                    }
                    ExecutorAction::TriggerCheckpoint(_) | ExecutorAction::NotifyCheckpoint(_) => {}
                    ExecutorAction::Heartbeat => continue,
                }
            }
            say(&mut stream, FromExecutor::Answer { id: command.id, result });
            for report in reports {
                executions.insert(report.attempt, report.clone());
                say(&mut stream, FromExecutor::Execution(report));
            }
        }
    }
}

/// Whether a process runs; one that waits to be collected by its parent does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with(['Z', 'X']))
}

/// A short time in which something must not happen.
pub(crate) const A_WHILE: Duration = Duration::from_millis(50);
