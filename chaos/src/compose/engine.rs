//! The Docker engine and compose, by their command lines.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs a program that must succeed, and gives what it printed.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?} ended with {}\n{stdout}{stderr}", output.status);
    Ok(stdout.trim_end().to_owned())
}

/// `docker` with these arguments, which must succeed.
pub(crate) fn docker(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
    output_of(Command::new("docker").args(args))
}

/// Containers, networks and volumes of one compose file, under a name of their own. Dropped, it takes them all down.
pub(crate) struct Project {
    name: String,
    file: PathBuf,
    /// Variables that its file asks for.
    variables: Vec<(String, String)>,
    /// `docker-compose`, or `docker compose` where that is all there is.
    program: Vec<&'static str>,
}

impl Project {
    /// Nothing of it runs yet.
    pub(crate) fn new(name: &str, file: PathBuf, image: &str) -> Self {
        let has_one =
            Command::new("docker-compose").arg("version").output().is_ok_and(|output| output.status.success());
        let program = if has_one { vec!["docker-compose"] } else { vec!["docker", "compose"] };
        let name = format!("{name}-{}", std::process::id());
        let project = Self { name, file, variables: Vec::new(), program };
        // Free ports of this machine alone.
        let ports = ["JOBMANAGER_PORT", "JM_1_PORT", "JM_2_PORT", "JM_3_PORT"];
        let project = ports.iter().fold(project, |project, port| project.variable(port, "127.0.0.1:"));
        project.variable("PERENNIAL_IMAGE", image)
    }

    /// Sets a variable that its file asks for.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its network, which all its containers are in.
    pub(crate) fn network(&self) -> String {
        format!("{}_default", self.name)
    }

    /// Carries out a command of compose.
    pub(crate) fn compose(&self, args: &[&str]) -> Result<String> {
        let (program, first) = self.program.split_first().context("compose is a program")?;
        let mut command = Command::new(program);
        command.args(first).args(["-p", &self.name, "-f"]).arg(&self.file).args(args);
        command.envs(self.variables.iter().cloned());
        output_of(&mut command)
    }

    /// Ids of the containers of a service, stopped ones too.
    pub(crate) fn containers(&self, service: &str) -> Result<Vec<Container>> {
        let filters =
            ["com.docker.compose.project", "com.docker.compose.service"].into_iter().zip([&self.name, service]);
        let filters = filters.map(|(label, value)| format!("--filter=label={label}={value}"));
        let ids = docker(["ps", "-aq"].map(str::to_owned).into_iter().chain(filters))?;
        Ok(ids.lines().map(|id| Container { id: id.to_owned() }).collect())
    }

    /// The first container of a service.
    pub(crate) fn container(&self, service: &str) -> Result<Container> {
        self.containers(service)?.into_iter().next().with_context(|| format!("{service} has no container"))
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if let Err(error) = self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "5"]) {
            eprintln!("cannot take down {}: {error:#}", self.name);
        }
    }
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    id: String,
}

impl Container {
    /// Starts one in the background, with these words after `docker run`.
    pub(crate) fn run(words: &[&str]) -> Result<Self> {
        Ok(Self { id: docker(["run", "--detach"].iter().chain(words))? })
    }

    /// Runs a command in it.
    pub(crate) fn exec(&self, args: &[&str]) -> Result<String> {
        docker(["exec", &self.id].iter().chain(args))
    }

    /// `docker` with its id as the last argument.
    pub(crate) fn docker(&self, args: &[&str]) -> Result<String> {
        docker(args.iter().copied().chain([self.id.as_str()]))
    }

    /// A field of what the engine knows of it, as a Go template.
    pub(crate) fn inspect(&self, template: &str) -> Result<String> {
        self.docker(&["inspect", "--format", template])
    }

    /// All it has printed, in either stream.
    pub(crate) fn log(&self) -> Result<String> {
        let output = Command::new("docker").args(["logs", &self.id]).output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Copies a directory out of it, below `to`.
    pub(crate) fn copy_out(&self, path: &str, to: &Path) -> Result<()> {
        docker(["cp".as_ref(), format!("{}:{path}", self.id).as_ref(), to.as_os_str()]).map(drop)
    }
}
