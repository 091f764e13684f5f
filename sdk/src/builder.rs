//! The way in: one file, or the environment, and a client.

use std::path::PathBuf;

use crate::client::Client;
use crate::error::ConnectError;
use crate::lent::Ears;
use crate::options::{ConnectOptions, OptionsError};

/// The way in.
///
/// ```no_run
/// use bulla_sdk::Bulla;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// // From the environment, and the file that BULLA_CONFIG names.
/// let client = Bulla::builder().connect().await?;
///
/// // From a file; what the environment says comes before it.
/// let client = Bulla::builder()
///     .file("orders.toml")
///     .with(|options| options.max_in_flight(32))
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Bulla;

impl Bulla {
    /// Starts with what the environment says.
    pub fn builder() -> Builder {
        Builder {
            file: None,
            loan: None,
            changes: Vec::new(),
        }
    }
}

type Change = Box<dyn FnOnce(ConnectOptions) -> ConnectOptions + Send>;

/// How to connect, while it is put together; [`Bulla::builder`] starts one.
#[must_use = "nothing is connected before `connect`"]
pub struct Builder {
    file: Option<PathBuf>,
    loan: Option<(async_nats::Client, Option<Ears>)>,
    changes: Vec<Change>,
}

impl Builder {
    /// Reads this file, see [`ConnectOptions::from_file`].
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Changes what was read, in code.
    pub fn with(
        mut self,
        change: impl FnOnce(ConnectOptions) -> ConnectOptions + Send + 'static,
    ) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Uses a connection that the program has made itself, see [`Client::over`]; then no
    /// address has to be set.
    pub fn over(mut self, nats: async_nats::Client, ears: impl Into<Option<Ears>>) -> Self {
        self.loan = Some((nats, ears.into()));
        self
    }

    /// The options, without connecting.
    ///
    /// # Errors
    /// [`OptionsError`] lists everything that is missing or malformed at once.
    pub fn options(self) -> Result<ConnectOptions, OptionsError> {
        let needs_url = self.loan.is_none();
        let options = ConnectOptions::read(self.file.as_deref(), needs_url)?;
        let changes = self.changes.into_iter();
        Ok(changes.fold(options, |options, change| change(options)))
    }

    /// Reads the settings and connects, as [`Client::connect`] does, or over the
    /// connection that was lent, as [`Client::over`].
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn connect(self) -> Result<Client, StartError> {
        let loan = self.loan.clone();
        let options = self.options()?;
        Ok(match loan {
            Some((nats, ears)) => Client::over(nats, ears, options).await?,
            None => Client::connect(options).await?,
        })
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}
