//! Commands run under another program, such as `strace`.

use std::process::Command;

/// The same command as the last arguments of `wrapper`: same directory, same environment.
pub(crate) fn wrapped(command: &Command, wrapper: &[String]) -> Option<Command> {
    let (program, args) = wrapper.split_first()?;
    let mut outer = Command::new(program);
    outer.args(args).arg(command.get_program()).args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(key, value),
            None => outer.env_remove(key),
        };
    }
    Some(outer)
}
