//! Process plumbing shared by broker, gateway and services: logs, shutdown,
//! readiness, secret files and directories, work that several wait for; with the
//! feature `admin`, the listener that operators and orchestrators ask, and with `otlp`
//! spans for a collector.
//!
//! What it deliberately does not do: it parses no configuration, opens no other
//! socket and holds no key longer than the caller does.
//!
//! ```no_run
//! # async fn serve(stop: bulla_process::CancellationToken) {}
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! bulla_process::init_tracing(bulla_process::LogFormat::Json)?;
//! let stop = bulla_process::shutdown_signal(false)?;
//! serve(stop).await;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "admin")]
pub mod admin;
mod logs;
mod private_dir;
mod readiness;
pub mod secret_file;
mod shutdown;
mod single_flight;
#[cfg(feature = "otlp")]
mod traces;
#[cfg(feature = "admin")]
mod usage;

#[cfg(feature = "otlp")]
pub use logs::init_tracing_with_traces;
pub use logs::{LOG_VARIABLE, LogFormat, LogsError, init_tracing, withheld};
pub use private_dir::{PrivateDir, PrivateDirError};
pub use readiness::{READY_TARGET, Readiness};
pub use secret_file::SecretFileError;
pub use shutdown::shutdown_signal;
pub use single_flight::SingleFlight;
pub use tokio_util::sync::CancellationToken;
#[cfg(feature = "otlp")]
pub use traces::{TRACE_TARGET, Traces};
#[cfg(feature = "admin")]
pub use usage::Usage;
pub use zeroize::Zeroizing;
