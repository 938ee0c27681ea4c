//! `perennial recover quorum`.

use perennial_meta::RecoverMode;

use super::snapshot::{member, offline};
use crate::args::RecoverCommand;
use crate::failure::{Exit, Failure};
use crate::output;

pub(crate) async fn run(command: RecoverCommand) -> Result<Exit, Failure> {
    let RecoverCommand::Quorum { data_dir, i_accept_data_loss } = command;
    let mode = if i_accept_data_loss { RecoverMode::AcceptDataLoss } else { RecoverMode::DryRun };
    let found = perennial_meta::recover_quorum(&data_dir, mode).await.map_err(offline)?;
    let members: Vec<String> = found.members.iter().map(member).collect();
    output::line(format_args!(
        "this member  {}\ncluster      {}\nterm         {}\nlast entry   {}\ncommitted    {} as far as it knows\nmembers      {}\n",
        member(&found.this),
        found.cluster.map_or_else(|| "not founded".to_owned(), |cluster| cluster.to_string()),
        found.term,
        found.last,
        found.committed,
        members.join(", ")
    ))?;
    let others = found.members.iter().filter(|other| other.id != found.this.id);
    let others: Vec<&str> = others.map(|other| other.name.as_str()).collect();
    let plan = format!(
        "{} {} the only member, in term {}; the cluster keeps its name, so that running jobs are adopted\nlost: what the other \
         members acknowledged after entry {}; entries {} to {} become committed, whether they were or not\nremove the data \
         directories of {} before they are added again under new names: perennial member add NEWNAME=HOST:PORT",
        found.this.name,
        if i_accept_data_loss { "is now" } else { "would become" },
        found.new_term,
        found.last,
        found.committed + 1,
        found.last,
        if others.is_empty() { "the others".to_owned() } else { others.join(", ") }
    );
    output::line(plan)?;
    if !i_accept_data_loss {
        output::line("\nnothing was changed; to do it: the same command with --i-accept-data-loss")?;
    }
    Ok(Exit::Done)
}
