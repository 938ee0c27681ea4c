//! `perennial member add|promote|remove` and `perennial raft transfer-leader`.

use perennial_client::{GroupGateway, GroupMember, MemberChange};
use perennial_types::Configuration;

use super::endpoint;
use crate::args::{Global, MemberCommand};
use crate::failure::{Exit, Failure};
use crate::{output, settings};

fn who(member: &GroupMember) -> String {
    format!("{} ({})", member.name, member.id.0)
}

pub(crate) async fn run(command: MemberCommand, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let client = settings::client(global, config)?;
    match command {
        MemberCommand::List { output } => return endpoint::members(output.format, global, config).await,
        MemberCommand::Add { member } => {
            let Some((name, address)) = member.split_once('=') else {
                let error = anyhow::anyhow!("`{member}` is no member: expected NAME=HOST:PORT");
                return Err(Failure::new(Exit::Usage, error).hint("the address is that of its jobmanager.rpc.port"));
            };
            let change = MemberChange::Add { name: name.trim().to_owned(), address: address.trim().to_owned() };
            let added = client.change_member(change).await?;
            let name = &added.member.name;
            let how = if added.was_so { "is a member already" } else { "added, without a vote" };
            output::line(format_args!("{} {how}", who(&added.member)))?;
            let peers: Vec<String> = match endpoint::newest(&client).await {
                Some(status) => {
                    let others = status.members.into_iter().filter(|member| member.id != added.member.id);
                    others.map(|member| format!("{}={}", member.name, member.address)).collect()
                }
                None => vec!["NAME=HOST:PORT".to_owned()],
            };
            let (host, port) = added.member.address.rsplit_once(':').unwrap_or((&added.member.address, "6123"));
            output::line(format_args!(
                "start it there, with an empty data directory:\n  perennial jobmanager -D jobmanager.raft.join=true \
                 -D jobmanager.resource-id={name} \\\n    -D jobmanager.rpc.address={host} -D jobmanager.rpc.port={port} \\\n    \
                 -D jobmanager.raft.peers={}\nthen give it a vote: perennial member promote {name}",
                peers.join(",")
            ))?;
        }
        MemberCommand::Promote { member } => {
            let promoted = client.change_member(MemberChange::Promote(member)).await?;
            let how = if promoted.was_so { "votes already" } else { "votes now" };
            output::line(format_args!("{} {how}", who(&promoted.member)))?;
        }
        MemberCommand::Remove { member } => {
            let removed = client.change_member(MemberChange::Remove(member)).await?;
            let how = if removed.was_so { "was removed before" } else { "removed; its process ends by itself" };
            output::line(format_args!("{} {how}", who(&removed.member)))?;
        }
    }
    Ok(Exit::Done)
}

pub(crate) async fn transfer(to: Option<String>, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let done = settings::client(global, config)?.transfer_leader(to).await?;
    output::line(format_args!(
        "{} -> {}, epoch {} -> {}, {} ms without a leader",
        who(&done.from),
        who(&done.to),
        done.old_epoch,
        done.new_epoch,
        done.gap_ms
    ))?;
    Ok(Exit::Done)
}
