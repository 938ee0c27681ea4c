//! `deploy/config.yaml` lists every option with its default and meaning, generated from the registry.

use std::path::Path;

use perennial_types::config::options;

fn sample() -> String {
    let mut text = String::from(
        "# Every option with its default. Uncomment what you change; the environment and -D win over this file.\n\
         # Generated: UPDATE_SAMPLE=1 cargo test -p perennial-types --test sample_config\n",
    );
    for option in options::all() {
        let value = if option.default.is_empty() { "~" } else { option.default };
        text += &format!("\n# {} Takes {}.\n# {}: {value}\n", option.doc, option.expected, option.key);
    }
    text
}

#[test]
fn the_sample_in_deploy_is_todays_registry() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config.yaml");
    if std::env::var_os("UPDATE_SAMPLE").is_some() {
        std::fs::write(&path, sample()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), sample(), "run it with UPDATE_SAMPLE=1 and commit the file");
}
