//! One service of the example shop, as a child of `bulla dev`.

use std::error::Error;
use std::path::PathBuf;

use bulla_examples::shop;
use bulla_identity::WorkloadId;
use bulla_process::LogFormat;
use bulla_sdk::ConnectOptions;

#[derive(Debug, clap::Args)]
pub(super) struct ServiceArgs {
    service: Service,
    #[arg(long)]
    nats_url: String,
    #[arg(long, value_parser = WorkloadId::parse)]
    workload: WorkloadId,
    #[arg(long)]
    seed_file: PathBuf,
    #[arg(long)]
    trust_root_file: PathBuf,
    #[arg(long, default_value = "pretty")]
    log: LogFormat,
    #[arg(long)]
    until_stdin_closes: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Service {
    Orders,
    Billing,
}

pub(super) fn run(args: ServiceArgs) -> Result<(), Box<dyn Error>> {
    let name = match args.service {
        Service::Orders => "orders",
        Service::Billing => "billing",
    };
    let traces = bulla_process::init_tracing_with_traces(args.log, name)?;
    let ended = super::on_runtime(async move {
        let stop = bulla_process::shutdown_signal(args.until_stdin_closes)?;
        let options = ConnectOptions::new(
            args.nats_url,
            args.workload,
            args.seed_file,
            args.trust_root_file,
        );
        let running = Box::pin(async {
            match args.service {
                Service::Orders => shop::orders::run(options, stop.clone()).await,
                Service::Billing => shop::billing::run(options, stop.clone()).await,
            }
        });
        super::until_drained(running, &stop).await.transpose()?;
        Ok(())
    });
    traces.finish();
    ended
}
