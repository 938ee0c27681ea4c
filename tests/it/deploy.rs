//! What operators copy from `deploy/`: it parses, refers to what is there, and the binary takes its options.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use perennial_tests::Process;
use serde_json::Value;

use crate::{LIMIT, cluster};

const BINARY: &str = env!("CARGO_BIN_EXE_perennial");

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// Every document of a file.
fn documents(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_saphyr::from_multiple(&text).with_context(|| path.display().to_string())
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer} in {value}"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn map(value: &Value, pointer: &str) -> BTreeMap<String, Value> {
    let map = value.pointer(pointer).and_then(Value::as_object).cloned().unwrap_or_default();
    map.into_iter().collect()
}

/// The options in force in a process.
struct Options(BTreeMap<String, String>);

impl Options {
    /// With this environment and no configuration file. Nothing may be warned of.
    fn of(environment: &[(String, String)]) -> Result<Self> {
        let mut command = Command::new(BINARY);
        command.env_clear().envs(environment.iter().cloned()).current_dir("/").args(["config", "show", "-o", "json"]);
        let output = command.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && stderr.is_empty(), "{environment:?}: {stderr}");
        let shown: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let shown =
            shown.iter().map(|option| Ok((text(option, "/key")?.to_owned(), text(option, "/value")?.to_owned())));
        Ok(Self(shown.collect::<Result<_>>()?))
    }

    fn get(&self, key: &str) -> Result<&str> {
        self.0.get(key).map(String::as_str).with_context(|| format!("no option {key}"))
    }
}

fn check_verb(arguments: &str) -> Result<()> {
    let verb = arguments.split_whitespace().next().unwrap_or_default();
    ensure!(["jobmanager", "taskmanager", "standalone-job"].contains(&verb), "`{verb}` is no verb of the image");
    Ok(())
}

/// The environment of a service, written as a list or as a map.
fn environment_of(service: &Value) -> Vec<(String, String)> {
    let listed = list(service, "/environment").iter().filter_map(|item| item.as_str()?.split_once('='));
    let mapped = map(service, "/environment");
    let mapped = mapped.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    listed.chain(mapped).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn check_service(file: &Value, name: &str, service: &Value) -> Result<()> {
    check_verb(text(service, "/command")?)?;
    let options = Options::of(&environment_of(service))?;
    for port in list(service, "/ports") {
        let port = port.as_str().context("a port is a text")?;
        ensure!(port.ends_with(&format!(":{}", options.get("rest.port")?)), "port {port} is not that of REST");
    }
    for volume in list(service, "/volumes") {
        let source = volume.as_str().and_then(|volume| volume.split(':').next()).context("a volume is a text")?;
        let known = source.starts_with('$') || map(file, "/volumes").contains_key(source);
        ensure!(known, "volume {source} is not there");
    }
    for other in list(service, "/depends_on") {
        ensure!(map(file, "/services").contains_key(other.as_str().unwrap_or_default()), "{other} is not there");
    }
    let (address, peers) = (options.get("jobmanager.rpc.address")?, options.get("jobmanager.raft.peers")?);
    if text(service, "/command")?.starts_with("taskmanager") {
        let services = map(file, "/services");
        let known = !peers.is_empty() || services.contains_key(address);
        ensure!(known, "it looks for its JobManager at {address}");
    } else {
        ensure!(address == name, "others reach it at {address}");
        let member = format!("{name}={name}:{}", options.get("jobmanager.rpc.port")?);
        ensure!(peers.is_empty() || peers.split(',').any(|peer| peer == member), "{member} is not in {peers}");
    }
    Ok(())
}

#[test]
fn compose_files_refer_to_what_is_there_and_their_options_are_known() -> Result<()> {
    for name in ["session.yml", "ha.yml", "application.yml"] {
        let [file] = &documents(&deploy().join("compose").join(name))?[..] else { bail!("{name}: one document") };
        let services = map(file, "/services");
        ensure!(services.contains_key("taskmanager"), "{name}");
        for (service, value) in &services {
            check_service(file, service, value).with_context(|| format!("{name}: {service}"))?;
        }
    }
    Ok(())
}

/// All objects of the manifests, by kind and name.
fn objects() -> Result<BTreeMap<(String, String), Value>> {
    let mut objects = BTreeMap::new();
    for entry in fs::read_dir(deploy().join("kubernetes"))? {
        for object in documents(&entry?.path())? {
            let (kind, name) = (text(&object, "/kind")?.to_owned(), text(&object, "/metadata/name")?.to_owned());
            let version = match kind.as_str() {
                "Service" | "ConfigMap" | "PersistentVolumeClaim" => "v1",
                "PodDisruptionBudget" => "policy/v1",
                "StatefulSet" | "Deployment" => "apps/v1",
                kind => bail!("nobody expects a {kind}"),
            };
            ensure!(text(&object, "/apiVersion")? == version, "{kind} {name} is of another version");
            ensure!(objects.insert((kind, name.clone()), object).is_none(), "{name} is there twice");
        }
    }
    Ok(objects)
}

/// The environment of a pod of this name, as the manifests give it.
fn pod_environment(
    container: &Value,
    pod: &str,
    objects: &BTreeMap<(String, String), Value>,
) -> Result<Vec<(String, String)>> {
    let variables = list(container, "/env").iter().map(|variable| {
        let value = match variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str) {
            Some("metadata.name") => pod.to_owned(),
            Some("status.podIP") => "10.0.0.7".to_owned(),
            Some(other) => bail!("nobody expects the field {other}"),
            None => {
                let of = text(variable, "/valueFrom/configMapKeyRef/name")?;
                let key = text(variable, "/valueFrom/configMapKeyRef/key")?;
                let config = objects.get(&("ConfigMap".to_owned(), of.to_owned())).context("no such ConfigMap")?;
                text(config, &format!("/data/{key}"))?.to_owned()
            }
        };
        Ok((text(variable, "/name")?.to_owned(), value))
    });
    variables.collect()
}

/// Ports and probes of a container against what the process in it listens on.
fn check_ports(container: &Value, options: &Options) -> Result<()> {
    let mut ports = BTreeMap::new();
    for port in list(container, "/ports") {
        let name = text(port, "/name")?;
        let option = match name {
            "rpc" => "jobmanager.rpc.port",
            "rest" => "rest.port",
            other => bail!("nobody listens on a port {other}"),
        };
        let number = port.get("containerPort").context("no containerPort")?.to_string();
        ensure!(number == options.get(option)?, "port {name} is {number}, and {option} {}", options.get(option)?);
        ports.insert(name, number);
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        if let Some(probe) = container.get(probe) {
            ensure!(ports.contains_key(text(probe, "/httpGet/port")?), "{probe}");
            ensure!(["/livez", "/readyz"].contains(&text(probe, "/httpGet/path")?), "{probe}");
        }
    }
    Ok(())
}

fn check_volumes(workload: &Value, container: &Value, objects: &BTreeMap<(String, String), Value>) -> Result<()> {
    let mut volumes: Vec<&str> = Vec::new();
    for volume in list(workload, "/spec/template/spec/volumes") {
        if let Ok(claim) = text(volume, "/persistentVolumeClaim/claimName") {
            let claim = ("PersistentVolumeClaim".to_owned(), claim.to_owned());
            ensure!(objects.contains_key(&claim), "{claim:?} is not there");
        }
        volumes.push(text(volume, "/name")?);
    }
    for template in list(workload, "/spec/volumeClaimTemplates") {
        volumes.push(text(template, "/metadata/name")?);
    }
    for mount in list(container, "/volumeMounts") {
        ensure!(volumes.contains(&text(mount, "/name")?), "{mount} mounts nothing");
    }
    Ok(())
}

#[test]
fn kubernetes_manifests_refer_to_what_is_there_and_their_options_are_known() -> Result<()> {
    let objects = objects()?;
    let mut pods = Vec::new();
    for ((kind, name), object) in &objects {
        if kind != "StatefulSet" && kind != "Deployment" {
            continue;
        }
        let labels = map(object, "/spec/template/metadata/labels");
        ensure!(map(object, "/spec/selector/matchLabels") == labels, "{name} selects other pods than its own");
        let container = object.pointer("/spec/template/spec/containers/0").context("no container")?;
        check_verb(text(container, "/args/0")?)?;
        check_volumes(object, container, &objects).with_context(|| name.clone())?;
        let pod = format!("{name}-0");
        let options = Options::of(&pod_environment(container, &pod, &objects)?)?;
        check_ports(container, &options).with_context(|| name.clone())?;
        if kind == "StatefulSet" {
            let service = text(object, "/spec/serviceName")?;
            let count = object.pointer("/spec/replicas").and_then(Value::as_u64).context("no replicas")?;
            let members = (0..count).map(|ordinal| format!("{name}-{ordinal}={name}-{ordinal}.{service}:6123"));
            ensure!(
                options.get("jobmanager.raft.peers")? == members.collect::<Vec<_>>().join(","),
                "other peers than pods"
            );
            ensure!(options.get("jobmanager.resource-id")? == pod && options.get("jobmanager.rpc.port")? == "6123");
        }
        pods.push((labels, container));
    }
    ensure!(pods.len() == 2, "{} workloads", pods.len());
    for ((kind, name), object) in &objects {
        let selector = match kind.as_str() {
            "Service" => "/spec/selector",
            "PodDisruptionBudget" => "/spec/selector/matchLabels",
            _ => continue,
        };
        let selected = pods.iter().find(|(labels, _)| *labels == map(object, selector));
        let (_, container) = selected.with_context(|| format!("{kind} {name} selects nothing"))?;
        for port in list(object, "/spec/ports") {
            let named = list(container, "/ports").iter().any(|of| of.get("name") == port.get("targetPort"));
            ensure!(named, "{kind} {name}: {port} leads nowhere");
        }
    }
    Ok(())
}

/// The units, with the binary under test in the place of the installed one.
#[test]
fn systemd_units_are_valid_and_their_commands_are_understood() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("perennial-units-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("config.yaml"), "")?;
    let mut units = 0;
    for entry in fs::read_dir(deploy().join("systemd"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "service") {
            continue;
        }
        units += 1;
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        let unit = fs::read_to_string(&path)?.replace("/usr/bin/perennial", BINARY);
        fs::write(dir.join(&name), &unit)?;
        let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("no ExecStart")?;
        let words: Vec<&str> = command.split(' ').collect();
        let [binary, verb, "--configDir", "/etc/perennial", options @ ..] = &words[..] else { bail!("{command}") };
        ensure!(*binary == BINARY && unit.contains("Type=notify"), "{name}");
        check_verb(verb)?;
        let shown = Command::new(BINARY).args(["config", "show", "--configDir"]).arg(&dir).args(options).output()?;
        ensure!(shown.status.success(), "{name}: {}", String::from_utf8_lossy(&shown.stderr));
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(dir.join(&name)).output();
        // Where there is no systemd nobody can tell.
        if let Ok(verified) = verified {
            let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
            ensure!(!complaints.contains(&name), "{complaints}");
        }
    }
    fs::remove_dir_all(&dir)?;
    ensure!(units == 2, "{units} units");
    Ok(())
}

/// A TaskManager tells the service manager that started it, and health checks ask the JobManager of their machine.
#[test]
fn service_managers_and_health_checks_hear_how_it_is() -> Result<()> {
    let mut cluster = cluster().taskmanagers(0, 1).start()?;
    let socket = cluster.dir().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(LIMIT))?;
    let mut command = cluster.command("taskmanager", "tm-1")?;
    command.env("NOTIFY_SOCKET", &socket);
    let mut taskmanager = Process::start("tm-1", command, &cluster.dir().join("tm-1.log"))?;
    let hear = || -> Result<String> {
        let mut bytes = [0; 64];
        let length = manager.recv(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    };
    assert_eq!(hear()?, "READY=1");
    ensure!(taskmanager.terminate(LIMIT)?.success());
    assert_eq!(hear()?, "STOPPING=1");

    let port = cluster.endpoint(0)?.to_string().replace("127.0.0.1:", "rest.port=");
    let elsewhere = ["health", "-D", "rest.address=192.0.2.1", "-D", &port];
    let healthy = cluster.run_cli(&elsewhere)?;
    ensure!(healthy.starts_with("healthy: jm-1 serves"), "{healthy}");
    cluster.take_jobmanager(0)?.kill()?;
    let gone = cluster.cli(&elsewhere).output()?;
    ensure!(gone.status.code() == Some(3), "{gone:?}");
    Ok(())
}
