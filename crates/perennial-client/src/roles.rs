//! Runs an artifact in its roles `describe` and `plan`, as child processes with a time limit.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use perennial_types::{ArtifactManifest, JobGraph, PlanRequest, RequestId};
use tokio::process::Command;

/// Lines of a failed child's error output that are shown.
const STDERR_LINES_MAX: usize = 20;

/// What a job's builder made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the artifact says of itself.
    pub manifest: ArtifactManifest,
    /// The job.
    pub graph: JobGraph,
}

/// Why an artifact did not say what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// It could not be started.
    #[error("cannot run the artifact in its role `{role}`")]
    Start {
        /// What it was asked.
        role: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error: most often the job's builder refused its arguments.
    #[error("the artifact failed in its role `{role}` ({status}){stderr}")]
    Failed {
        /// What it was asked.
        role: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of its error output, each line on a line of its own; empty when it said nothing.
        stderr: String,
    },
    /// It did not end in time and was killed.
    #[error("the artifact did not finish its role `{role}` within {limit_ms} ms (jobmanager.plan-timeout)")]
    TimedOut {
        /// What it was asked.
        role: &'static str,
        /// The limit in milliseconds.
        limit_ms: u128,
    },
    /// Its answer makes no sense.
    #[error("the artifact's answer in its role `{role}` cannot be read: {problem}")]
    Answer {
        /// What it was asked.
        role: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
}

/// Asks an artifact what it is.
pub(crate) async fn describe(program: &Path, limit: Duration) -> Result<ArtifactManifest, RoleError> {
    const ROLE: &str = "describe";
    let output = run(ROLE, Command::new(program).arg(ROLE), limit).await?;
    read(ROLE, &output.stdout)
}

/// Asks an artifact for the graph of a job.
pub(crate) async fn plan(program: &Path, request: &PlanRequest, limit: Duration) -> Result<JobGraph, RoleError> {
    const ROLE: &str = "plan";
    let start = |source| RoleError::Start { role: ROLE, source };
    let exchange = Exchange::new().map_err(start)?;
    let request = serde_json::to_vec(request).map_err(|error| start(error.into()))?;
    tokio::fs::write(exchange.request(), request).await.map_err(start)?;
    let mut command = Command::new(program);
    command.arg(ROLE).arg("--request").arg(exchange.request()).arg("--output").arg(exchange.answer());
    run(ROLE, &mut command, limit).await?;
    let answer = tokio::fs::read(exchange.answer())
        .await
        .map_err(|error| RoleError::Answer { role: ROLE, problem: format!("it ended well and wrote none: {error}") })?;
    read(ROLE, &answer)
}

/// A directory for the files of one `plan`, removed with the value.
struct Exchange {
    dir: PathBuf,
}

impl Exchange {
    fn new() -> std::io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("perennial-plan-{}", RequestId::random()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    fn request(&self) -> PathBuf {
        self.dir.join("request.json")
    }

    fn answer(&self) -> PathBuf {
        self.dir.join("graph.json")
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs the artifact to its end, or kills it when the limit is over or the future is dropped.
async fn run(role: &'static str, command: &mut Command, limit: Duration) -> Result<Output, RoleError> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| RoleError::Start { role, source })?;
    let output = match tokio::time::timeout(limit, child.wait_with_output()).await {
        Ok(output) => output.map_err(|source| RoleError::Start { role, source })?,
        Err(_) => return Err(RoleError::TimedOut { role, limit_ms: limit.as_millis() }),
    };
    if !output.status.success() {
        return Err(RoleError::Failed { role, status: output.status, stderr: last_lines(&output.stderr) });
    }
    Ok(output)
}

fn read<T: serde::de::DeserializeOwned>(role: &'static str, json: &[u8]) -> Result<T, RoleError> {
    serde_json::from_slice(json).map_err(|error| RoleError::Answer { role, problem: error.to_string() })
}

fn last_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let from = lines.len().saturating_sub(STDERR_LINES_MAX);
    lines.iter().skip(from).fold(String::new(), |shown, line| format!("{shown}\n  {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::script;

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_manifest_is_on_standard_output_and_the_graph_in_a_file() {
        let manifest =
            r#"{"protocol":{"min":1,"max":1},"library_version":"0.1.0","target":"x86_64-linux","jobs":["a","b"]}"#;
        let graph = r#"{"name":"'$(grep -c '"job":"b"' $3)'","vertices":[],"edges":[],"structural_hash":5}"#;
        let (_dir, program) = script(&format!(
            "if [ $1 = describe ]; then echo '{manifest}'; else echo chatter; echo '{graph}' > $5; fi"
        ));
        assert_eq!(describe(&program, LIMIT).await.unwrap().jobs, ["a", "b"]);
        let request = PlanRequest { job: Some("b".to_owned()), ..PlanRequest::default() };
        let graph = plan(&program, &request, LIMIT).await.unwrap();
        assert_eq!((graph.name.as_str(), graph.structural_hash), ("1", 5));
    }

    #[tokio::test]
    async fn a_failing_builder_shows_the_end_of_its_error_output() {
        let (_dir, program) = script("for i in $(seq 30); do echo line $i >&2; done; exit 3");
        let error = plan(&program, &PlanRequest::default(), LIMIT).await.unwrap_err().to_string();
        assert!(error.starts_with("the artifact failed in its role `plan` (exit status: 3)\n  line 11\n"), "{error}");
        assert!(error.ends_with("\n  line 30"), "{error}");
    }

    #[tokio::test]
    async fn a_builder_that_does_not_end_is_killed() {
        let (dir, program) = script("echo $$ > \"$(dirname $0)/pid\"; exec sleep 600");
        let error = plan(&program, &PlanRequest::default(), Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the artifact did not finish its role `plan` within 300 ms (jobmanager.plan-timeout)"
        );
        let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
        let gone = async {
            while std::fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|line| !line.is_empty()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, gone).await.expect("the child is killed");
    }

    #[tokio::test]
    async fn an_answer_that_is_missing_or_no_json_is_refused() {
        let (_dir, program) = script("echo nonsense");
        let error = describe(&program, LIMIT).await.unwrap_err().to_string();
        assert!(error.starts_with("the artifact's answer in its role `describe` cannot be read: "), "{error}");
        let error = plan(&program, &PlanRequest::default(), LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("it ended well and wrote none"), "{error}");
    }
}
