use std::time::Duration;

use super::*;
use crate::config::options;

fn from_file(text: &str) -> Result<Loaded, LoadErrors> {
    let mut loader = Loader::new();
    loader.file("config.yaml", text);
    loader.finish()
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Loaded, LoadErrors> {
    let mut loader = Loader::new();
    loader.environment(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    loader.finish()
}

#[track_caller]
fn refused(result: Result<Loaded, LoadErrors>, expect: &str) {
    assert_eq!(result.expect_err("it should be refused").to_string(), expect);
}

#[test]
fn keys_may_be_flat_nested_or_mixed_and_lists_of_any_form() {
    let loaded = from_file(
        "# a comment\n\
         parallelism.default: 3\n\
         jobmanager:\n\
        \x20 rpc.address: jm-1\n\
        \x20 raft:\n\
        \x20   peers: [a=h1:1, 'b=h2:2']\n\
         taskmanager.jobmanagers:\n\
        \x20 - h1:1\n\
        \x20 - h2:2\n\
         client.endpoints: x:1;y:2\n\
         heartbeat: {interval: 200 ms, timeout: ~}\n\
         pipeline.name: 1.20\n\
         rest.port:\n\
         log.level: \"info,perennial=debug # not a comment\"\n\
         pipeline.operator-chaining.enabled: False\n",
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.get(&options::PARALLELISM_DEFAULT).get(), 3);
    assert_eq!(config.get(&options::JOBMANAGER_RPC_ADDRESS), "jm-1");
    assert_eq!(config.get(&options::JOBMANAGER_RAFT_PEERS), ["a=h1:1", "b=h2:2"]);
    assert_eq!(config.get(&options::TASKMANAGER_JOBMANAGERS), ["h1:1", "h2:2"]);
    assert_eq!(config.get(&options::CLIENT_ENDPOINTS), ["x:1", "y:2"]);
    assert_eq!(config.get(&options::HEARTBEAT_INTERVAL), Duration::from_millis(200));
    assert_eq!(config.get(&options::HEARTBEAT_TIMEOUT), Duration::from_secs(5), "null is unset");
    assert_eq!(config.get(&options::PIPELINE_NAME).unwrap(), "1.20", "text stays as it was written");
    assert_eq!(config.get(&options::REST_PORT), 8081, "nothing is unset");
    assert_eq!(config.get(&options::LOG_LEVEL), "info,perennial=debug # not a comment");
    assert!(!config.get(&options::OPERATOR_CHAINING));
    let origin = |key| config.effective().find(|(option, ..)| option.key == key).unwrap().2.to_string();
    assert_eq!(origin("jobmanager.raft.peers"), "config.yaml:6");
    assert_eq!(origin("rest.port"), "default");
    assert!(loaded.warnings.is_empty());
}

#[test]
fn an_empty_file_sets_nothing() {
    for text in ["", "\n\n", "# nothing\n", "---\n", "---\n# nothing\n"] {
        assert!(from_file(text).unwrap().config.overrides().is_empty(), "{text:?}");
    }
}

#[test]
fn refusals_of_a_file_name_the_thing_and_the_line() {
    for (text, expect) in [
        (
            "parallelism.default: 2\ntaskmanager:\n  numberOfTaskSlot: 2\n",
            "unknown key `taskmanager.numberOfTaskSlot` (config.yaml:3); did you mean `taskmanager.numberOfTaskSlots`?",
        ),
        ("zzz: 1\n", "unknown key `zzz` (config.yaml:1)"),
        (
            "heartbeat.interval: soon\n",
            "bad value `soon` for `heartbeat.interval` (config.yaml:1): expected a duration such as `100 ms`, `10 s`, \
             `5 min`",
        ),
        ("rest.port: 99999\n", "bad value `99999` for `rest.port` (config.yaml:1): expected a port, 0 to 65535"),
        ("rest.port: 1\nrest:\n  port: 2\n", "`rest.port` is set twice (config.yaml:1 and config.yaml:3); keep one"),
        ("- rest.port\n", "config.yaml:1: expected `key: value` lines, found a list"),
        ("rest.port\n", "config.yaml:1: expected `key: value` lines, found a text"),
        (
            "client.endpoints:\n  - {a: b}\n",
            "`client.endpoints` takes one value or a list, not a map inside a list (config.yaml:1)",
        ),
    ] {
        refused(from_file(text), expect);
    }
}

#[test]
fn broken_yaml_and_repeated_keys_name_the_line() {
    for (text, line) in
        [("rest.port: [1\nlog.level: x\n", "config.yaml:"), ("rest.port: 1\nrest.port: 2\n", "config.yaml:2")]
    {
        let error = from_file(text).unwrap_err().to_string();
        assert!(error.starts_with(line) && error.contains("is not valid YAML: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn all_that_is_wrong_is_listed_together() {
    let mut loader = Loader::new();
    loader.file("config.yaml", "rest.prot: 1\nrest.port: x\n");
    loader.environment([("PERENNIAL__REST__PROT".to_owned(), "1".to_owned())]);
    loader.flag("rest.port");
    refused(
        loader.finish(),
        "unknown key `rest.prot` (config.yaml:1); did you mean `rest.port`?\n\
         bad value `x` for `rest.port` (config.yaml:2): expected a port, 0 to 65535\n\
         environment variable PERENNIAL__REST__PROT names no option; did you mean PERENNIAL__REST__PORT for `rest.port`?\n\
         `-D rest.port` is not an option: expected -D key=value",
    );
}

#[test]
fn flags_win_over_the_environment_over_the_file() {
    let mut loader = Loader::new();
    loader.flag("rest.port=4");
    loader.flag("log.level = a=b ");
    loader.environment([
        ("PERENNIAL__REST__PORT".to_owned(), "3".to_owned()),
        ("PERENNIAL__PARALLELISM__DEFAULT".to_owned(), "3".to_owned()),
    ]);
    loader.file("config.yaml", "rest.port: 2\nparallelism.default: 2\nlog.format: json\n");
    let config = loader.finish().unwrap().config;
    assert_eq!(config.get(&options::REST_PORT), 4);
    assert_eq!(config.get(&options::LOG_LEVEL), "a=b");
    assert_eq!(config.get(&options::PARALLELISM_DEFAULT).get(), 3);
    assert_eq!(config.get(&options::LOG_FORMAT), "json");
}

#[test]
fn flink_properties_keep_inner_spaces_and_name_the_line() {
    let text = "\n  heartbeat.interval: 3 s\n  pipeline.name: my  job\n  jobmanager:\n    rpc.address: jm\n";
    let config = from_environment(&[("FLINK_PROPERTIES", text)]).unwrap().config;
    assert_eq!(config.get(&options::HEARTBEAT_INTERVAL), Duration::from_secs(3));
    assert_eq!(config.get(&options::PIPELINE_NAME).unwrap(), "my  job");
    assert_eq!(config.get(&options::JOBMANAGER_RPC_ADDRESS), "jm");
    let named = [("FLINK_PROPERTIES", "rest.address: ${POD}-$ZONE"), ("POD", "jm-2"), ("ZONE", "a")];
    assert_eq!(from_environment(&named).unwrap().config.get(&options::REST_ADDRESS).unwrap(), "jm-2-a");
    refused(
        from_environment(&[("FLINK_PROPERTIES", "\nrest.port: 1\nrest.prot: 1\n")]),
        "unknown key `rest.prot` (environment FLINK_PROPERTIES, line 3); did you mean `rest.port`?",
    );
}

#[test]
fn variables_name_options_in_any_case_and_with_any_separator() {
    for variable in [
        "PERENNIAL__TASKMANAGER__NUMBER_OF_TASK_SLOTS",
        "PERENNIAL__TASKMANAGER__NUMBEROFTASKSLOTS",
        "PERENNIAL__taskmanager_numberOfTaskSlots",
        "TASK_MANAGER_NUMBER_OF_TASK_SLOTS",
    ] {
        let config = from_environment(&[(variable, "7")]).unwrap().config;
        assert_eq!(config.get(&options::TASKMANAGER_SLOTS).get(), 7, "{variable}");
    }
    refused(
        from_environment(&[("PERENNIAL__REST__PORT", "x")]),
        "bad value `x` for `rest.port` (environment PERENNIAL__REST__PORT): expected a port, 0 to 65535",
    );
    let ignored = [("PERENNIAL_ENDPOINTS", "a:1"), ("PATH", "/bin"), ("FLINK_PROPERTIES", "")];
    assert!(from_environment(&ignored).unwrap().config.overrides().is_empty());
}

#[test]
fn the_more_special_variable_wins() {
    let config = from_environment(&[
        ("JOB_MANAGER_RPC_ADDRESS", "one"),
        ("FLINK_PROPERTIES", "jobmanager.rpc.address: two"),
        ("PERENNIAL__JOBMANAGER__RPC__ADDRESS", "three"),
    ])
    .unwrap()
    .config;
    assert_eq!(config.get(&options::JOBMANAGER_RPC_ADDRESS), "three");
}

#[test]
fn no_two_options_have_the_same_variable() {
    let mut names: Vec<String> = options::all().map(|option| letters(option.key)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), options::all().count());
    assert!(
        options::all().all(|option| letters(&variable_of(option.key)) == format!("perennial{}", letters(option.key)))
    );
}

#[test]
fn flinks_options_that_mean_nothing_here_are_told_and_ignored() {
    let loaded =
        from_file("jobmanager.memory.process.size: 1600m\nblob:\n  server.port: 6124\nrest.port: 1\n").unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "`jobmanager.memory.process.size` (config.yaml:1) is an option of Flink that means nothing here; ignored",
            "`blob.server.port` (config.yaml:3) is an option of Flink that means nothing here; ignored",
        ]
    );
    assert_eq!(loaded.config.overrides().len(), 1);
}
