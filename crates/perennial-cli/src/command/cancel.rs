//! `perennial cancel`.

use perennial_client::DispatcherGateway;
use perennial_types::{Configuration, JobId, RequestId};

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::{output, settings};

pub(crate) async fn run(job: JobId, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let client = settings::client(global, config)?;
    output::line(format_args!("Cancelling job {job}."))?;
    client.cancel_job(job, RequestId::random()).await?;
    output::line(format_args!("Cancelled job {job}."))?;
    Ok(Exit::Done)
}
