//! One way to log: JSON lines for machines, compact text for people.

use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

#[cfg(feature = "otlp")]
use crate::traces::{TRACE_TARGET, Traces};

/// How log events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line on stdout, the event's fields at its top level.
    Json,
    /// Compact text on stderr, coloured on a terminal.
    Pretty,
}

impl FromStr for LogFormat {
    type Err = LogsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            other => Err(LogsError::UnknownFormat(other.to_owned())),
        }
    }
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Pretty => "pretty",
        })
    }
}

/// Installs the process-wide subscriber.
///
/// What is logged is chosen by the variable [`LOG_VARIABLE`] in the syntax of
/// `tracing-subscriber`'s filters, by default `info` for Bulla and `warn` for
/// the NATS client, and never what [`withheld`] leaves out.
///
/// # Errors
/// If the filter does not parse, or a subscriber is already installed.
pub fn init_tracing(format: LogFormat) -> Result<(), LogsError> {
    let lines = lines(format);
    let subscriber = Registry::default().with(lines).with(filter()?);
    let installed = subscriber.with(withheld()).try_init();
    installed.map_err(|_| LogsError::AlreadyInstalled)
}

/// The same, and sends spans to the collector that the environment names, if it does:
/// see [`Traces`]. `process` is the name by which the collector knows this process.
/// Must be called before there is a runtime, and the answer kept until the end.
///
/// # Errors
/// As [`init_tracing`], and if what the environment says of the collector is no address.
#[cfg(feature = "otlp")]
pub fn init_tracing_with_traces(
    format: LogFormat,
    process: &'static str,
) -> Result<Traces, LogsError> {
    use tracing_subscriber::filter::{LevelFilter, Targets};

    let Some((traces, tracer)) = Traces::from_environment(process)? else {
        init_tracing(format)?;
        return Ok(Traces::default());
    };
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        // Places in the code are nobody's business, and cost.
        .with_location(false)
        .with_threads(false)
        .with_filter(Targets::new().with_target(TRACE_TARGET, LevelFilter::DEBUG));
    let lines = lines(format).with_filter(filter()?);
    let subscriber = Registry::default().with(lines).with(spans);
    let installed = subscriber.with(withheld()).try_init();
    installed.map_err(|_| LogsError::AlreadyInstalled)?;
    Ok(traces)
}

fn filter() -> Result<EnvFilter, LogsError> {
    match std::env::var(LOG_VARIABLE) {
        Ok(text) if !text.trim().is_empty() => {
            EnvFilter::try_new(&text).map_err(|source| LogsError::Filter { text, source })
        }
        _ => Ok(EnvFilter::new(DEFAULT_FILTER)),
    }
}

/// Internal errors are dropped: the reader of the pipe may have died, and complaining
/// to a closed stderr would panic.
fn lines(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().log_internal_errors(false);
    match format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(std::io::stdout)
            .boxed(),
        LogFormat::Pretty => lines
            .compact()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .boxed(),
    }
}

/// Leaves out what no filter may ask for: the NATS client's events at TRACE, which
/// quote every message that it reads, with user tokens and bodies.
///
/// [`init_tracing`] does; a program that installs a subscriber of its own adds
/// this layer to it.
#[must_use]
pub fn withheld<S: Subscriber>() -> impl Layer<S> {
    FilterFn::new(|event: &Metadata<'_>| {
        *event.level() != tracing::Level::TRACE || !is_of_nats_client(event.target())
    })
}

fn is_of_nats_client(target: &str) -> bool {
    target
        .strip_prefix("async_nats")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// Neither `json` nor `pretty`.
    #[error("unknown log format `{0}`: use `json` or `pretty`")]
    UnknownFormat(String),
    /// The variable does not hold a filter.
    #[error("the variable `BULLA_LOG` holds `{text}`, which is not a log filter such as `info`")]
    Filter {
        /// What the variable holds.
        text: String,
        /// The parser's reason.
        source: tracing_subscriber::filter::ParseError,
    },
    /// No exporter could be made.
    #[cfg(feature = "otlp")]
    #[error("traces cannot be sent as the variables `OTEL_EXPORTER_OTLP_…` say: {reason}")]
    Exporter {
        /// The exporter's reason.
        reason: String,
    },
    /// A process has one subscriber.
    #[error("logging is already set up in this process")]
    AlreadyInstalled,
}

/// The variable that chooses what is logged.
pub const LOG_VARIABLE: &str = "BULLA_LOG";

const DEFAULT_FILTER: &str = "info,async_nats=warn";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_parse_as_they_print() {
        for format in [LogFormat::Json, LogFormat::Pretty] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
        let error = "xml".parse::<LogFormat>().unwrap_err();
        assert!(error.to_string().contains("`xml`"), "{error}");
    }
}
