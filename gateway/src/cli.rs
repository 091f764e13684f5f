//! The command line, shared by `bulla-gateway` and `bulla gateway`.

use std::error::Error as StdError;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use bulla_process::LogFormat;
use http::{Method, Uri};
use serde_json::json;

use crate::config::GatewayConfig;
use crate::config_schema::{ConfigFile, config_schema};
use crate::document::ConfigErrors;
use crate::explain::{Explanation, Question, explain};
use crate::key_cli::{self, KeyCommand};
use crate::openapi::describe;
use crate::under_policy::{objections, read_policy};

/// Exit code when the answer is no.
const NO: u8 = 1;
/// Exit code when the configuration or the start fails.
const FAILED: u8 = 2;

/// Serves HTTP clients: their requests become sealed messages.
#[derive(Debug, clap::Args)]
pub struct GatewayArgs {
    /// The configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "gateway.toml",
        global = true
    )]
    pub config: PathBuf,

    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<GatewayCommand>,

    /// How to log: `json` (lines on stdout) or `pretty` (text on stderr).
    #[arg(long, value_name = "FORMAT", default_value = "pretty")]
    pub log: LogFormat,

    /// Stops when standard input reaches its end, so that nothing outlives the parent.
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// Questions to a configuration. None of them connects to the bus.
#[derive(Debug, clap::Subcommand)]
pub enum GatewayCommand {
    /// Say everything that is wrong with the configuration and the routes
    #[command(
        after_help = "Exit code 0 if it is good, 2 if not. With a policy it also says what of the routes\n\
        that policy would never let happen.\n\nExamples:\n  \
        gateway check --config gateway.toml\n  \
        gateway check --policy policy/ --json"
    )]
    Check {
        /// A file of the policy, or a folder that stands for the `.toml` files in it.
        #[arg(long, value_name = "PATH")]
        policy: Vec<PathBuf>,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say which route a request would take, and whether it would pass
    #[command(
        after_help = "Exit code 0 if it would be sent, 1 if not. What the policy and the service say comes\n\
        after that. With a token the issuer's keys are fetched.\n\nExamples:\n  \
        gateway explain GET /v1/orders/42\n  \
        gateway explain POST /v1/orders --token token.txt --from 192.0.2.7\n  \
        gateway explain GET '/v1/orders/42?fields=item' --json"
    )]
    Explain {
        /// The method, such as `GET`.
        method: Method,
        /// The path, with its query.
        path: Uri,
        /// A file with an access token; `-` reads standard input.
        #[arg(long, value_name = "FILE")]
        token: Option<PathBuf>,
        /// The client's address.
        #[arg(long, value_name = "ADDRESS")]
        from: Option<IpAddr>,
        /// The version that the client asks for.
        #[arg(long, value_name = "VERSION")]
        api_version: Option<String>,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make, list and revoke API keys, in the file that `[api_keys]` names
    Key {
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Print the JSON Schema of a configuration file, for editors
    #[command(after_help = "Examples:\n  \
        gateway schema gateway > gateway.schema.json\n  \
        gateway schema routes > routes.schema.json")]
    Schema {
        /// Which file.
        file: ConfigFile,
    },
    /// Print the description of the API, OpenAPI 3.1
    #[command(after_help = "Examples:\n  \
        gateway openapi > openapi.json\n  \
        gateway openapi --api-version 2")]
    Openapi {
        /// For clients that ask for this version; the default one without.
        #[arg(long, value_name = "VERSION")]
        api_version: Option<String>,
    },
}

/// Runs the command. Exit code 0 when it stopped as it was told, 2 on an error.
#[must_use]
pub fn run(args: &GatewayArgs) -> ExitCode {
    if let Some(GatewayCommand::Schema { file }) = args.command {
        let schema = config_schema(file);
        return say(&serde_json::to_string_pretty(&schema).unwrap_or_default());
    }
    let as_json = matches!(args.command, Some(GatewayCommand::Check { json: true, .. }));
    let config = match GatewayConfig::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            if as_json {
                say(&problems_json(&errors));
            } else {
                complain(&with_carets(&errors));
            }
            return ExitCode::from(FAILED);
        }
    };
    match &args.command {
        // Said already: it asks nothing of a configuration.
        Some(GatewayCommand::Schema { .. }) => ExitCode::SUCCESS,
        None => match start(args, config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("error: {}", chain(error.as_ref())));
                ExitCode::from(FAILED)
            }
        },
        Some(GatewayCommand::Key { command }) => manage_keys(&config, command),
        Some(GatewayCommand::Check { policy, json }) => {
            if !policy.is_empty()
                && let Err(code) = check_policy(&config, policy, *json)
            {
                return code;
            }
            let routes = config.routes.iter().count();
            let issuers = config.issuers.len();
            say(&if *json {
                json!({"good": true, "routes": routes, "issuers": issuers}).to_string()
            } else {
                format!("good: {routes} route(s), {issuers} issuer(s)")
            })
        }
        Some(GatewayCommand::Openapi { api_version }) => {
            let version = api_version
                .as_deref()
                .or(config.api.default_version.as_deref());
            let description = describe(&config.routes, &config.api, version);
            say(&serde_json::to_string_pretty(&description).unwrap_or_default())
        }
        Some(GatewayCommand::Explain {
            method,
            path,
            token,
            from,
            api_version,
            json,
        }) => {
            let token = match token.as_deref().map(read_token).transpose() {
                Ok(token) => token,
                Err(error) => {
                    complain(&format!("error: the token cannot be read: {error}"));
                    return ExitCode::from(FAILED);
                }
            };
            let question = Question {
                method: method.clone(),
                target: path.clone(),
                version: api_version.clone(),
                token,
                from: *from,
            };
            answer(&config, &question, *json)
        }
    }
}

/// Holds the routes against a policy, and says what it has against them.
fn check_policy(config: &GatewayConfig, paths: &[PathBuf], as_json: bool) -> Result<(), ExitCode> {
    let policy = read_policy(paths).map_err(|error| {
        complain(&format!("error: {}", chain(&error)));
        ExitCode::from(FAILED)
    })?;
    let found = objections(&config.routes, &policy, &config.bus.workload);
    if found.is_empty() {
        return Ok(());
    }
    let errors = ConfigErrors::new(found.into_iter().map(|o| o.problem).collect());
    if as_json {
        say(&problems_json(&errors));
    } else {
        complain(&with_carets(&errors));
    }
    Err(ExitCode::from(FAILED))
}

fn manage_keys(config: &GatewayConfig, command: &KeyCommand) -> ExitCode {
    let Some(keys) = &config.api_keys else {
        complain(
            "error: `[api_keys]` is missing in the configuration: say there in which file keys are",
        );
        return ExitCode::from(FAILED);
    };
    match key_cli::run(command, &keys.file) {
        Ok(key_cli::Outcome::Said(text)) => say(&text),
        Ok(key_cli::Outcome::No(text)) => {
            complain(&text);
            ExitCode::from(NO)
        }
        Err(error) => {
            complain(&format!("error: {}", chain(&error)));
            ExitCode::from(FAILED)
        }
    }
}

fn answer(config: &GatewayConfig, question: &Question, as_json: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = runtime
        .map_err(Into::into)
        .and_then(|rt| rt.block_on(explain(config, question)).map_err(Into::into));
    let answer: Explanation = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let error: Box<dyn StdError> = error;
            complain(&format!("error: {}", chain(error.as_ref())));
            return ExitCode::from(FAILED);
        }
    };
    let text = if as_json {
        serde_json::to_string(&answer).unwrap_or_default()
    } else {
        for_people(&answer)
    };
    let said = say(&text);
    if answer.passes {
        said
    } else {
        ExitCode::from(NO)
    }
}

fn for_people(answer: &Explanation) -> String {
    let mut lines = vec![match (answer.passes, answer.status) {
        (true, _) => "passes: the message is sent, and the policy is asked".to_owned(),
        (false, status) => format!(
            "refused: {} ({})",
            status.unwrap_or_default(),
            answer.reason
        ),
    }];
    let mut line = |word: &str, text: &str| lines.push(format!("  {word:<9} {text}"));
    if let Some(route) = &answer.route {
        line("route", route);
    }
    if let Some(subject) = &answer.subject {
        line("subject", subject);
    }
    for (word, text) in &answer.notes {
        line(word, text);
    }
    lines.join("\n")
}

fn read_token(path: &std::path::Path) -> std::io::Result<String> {
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(path)?
    };
    Ok(text.trim().to_owned())
}

fn problems_json(errors: &ConfigErrors) -> String {
    let problems: Vec<_> = errors
        .problems()
        .iter()
        .map(|p| json!({"file": p.file, "line": p.line, "column": p.column, "message": p.message}))
        .collect();
    json!({"good": false, "problems": problems}).to_string()
}

/// Each mistake with the line that it is in, and a caret beneath its place.
fn with_carets(errors: &ConfigErrors) -> String {
    let mut lines = Vec::new();
    for problem in errors.problems() {
        lines.push(format!("error: {problem}"));
        let text = std::fs::read_to_string(&problem.file).unwrap_or_default();
        let line = problem
            .line
            .checked_sub(1)
            .and_then(|n| text.lines().nth(n));
        if let Some(line) = line.filter(|l| !l.trim().is_empty()) {
            // A tab stays one, so that the caret stands where it should.
            let before = line.chars().take(problem.column.saturating_sub(1));
            let blank: String = before.map(|c| if c == '\t' { c } else { ' ' }).collect();
            lines.push(format!("  | {line}\n  | {blank}^"));
        }
    }
    lines.join("\n")
}

fn start(args: &GatewayArgs, config: GatewayConfig) -> Result<(), Box<dyn StdError>> {
    let traces = bulla_process::init_tracing_with_traces(args.log, "bulla-gateway")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let stop = bulla_process::shutdown_signal(args.until_stdin_closes)?;
        crate::run(config, stop).await?;
        Ok(())
    });
    traces.finish();
    ended
}

/// An error and what it stands on, in one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

fn say(text: &str) -> ExitCode {
    let written = writeln!(std::io::stdout(), "{text}");
    ExitCode::from(u8::from(written.is_err()) * FAILED)
}

fn complain(text: &str) {
    // A closed stderr is no reason to panic.
    let _ = writeln!(std::io::stderr(), "{text}");
}
