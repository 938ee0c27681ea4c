//! The sample artifact: `cargo run -p perennial-examples -- --job-classname wordcount --input README.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    perennial_examples::registry().run()
}
