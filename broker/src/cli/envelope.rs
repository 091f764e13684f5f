//! `bulla envelope …`: looks at captured envelopes, offline.

mod input;
mod outline;
mod report;
mod statement;
mod verify;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};

use super::chain;

use input::{Input, InputError};
use report::Report;
pub use verify::VerifyArgs;

/// The answer is yes.
const YES: u8 = 0;
/// The answer is no: malformed, or refused.
const NO: u8 = 1;
/// There is no answer.
const ERROR: u8 = 2;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();
const STRONG: Style = Style::new().bold();

/// `bulla envelope …`
#[derive(clap::Subcommand, Debug)]
pub enum EnvelopeCommand {
    /// Show what a captured envelope says, without believing it
    #[command(
        long_about = "Show what a captured envelope says, without believing it.\n\n\
            Every field of the header, the place in its batch, sizes and times. A user token is\n\
            never shown, only its length and whether it has the hash that was signed; neither is\n\
            an encrypted body. Credentials, requests for credentials, KEM records, wrapped keys,\n\
            trust bundles and signed policies are recognised too.\n\n\
            The input may be raw bytes, hexadecimal digits, base64, or a message as\n\
            `nats sub --dump` and `nats stream get --json` write it.",
        after_help = "Examples:\n  \
            nats sub orders.created --raw --count 1 > message\n  \
            bulla envelope inspect message\n\n  \
            nats sub orders.created --count 1 --dump captured\n  \
            bulla envelope inspect captured/1.json --json | jq .header.subject\n\n  \
            bulla envelope inspect --body < message\n\n\
            To subscribe takes an nkey that the policy lets listen there.\n\n\
            Exit code: 0 well-formed, 1 malformed, 2 nothing to look at."
    )]
    Inspect(InspectArgs),

    /// Judge a captured envelope as a receiver would, offline
    #[command(
        long_about = "Judge a captured envelope as a receiver would, offline.\n\n\
            The trust root proves bundle and policy, both prove the credential, and the\n\
            credential proves the envelope. Then its subject, reply subject, kind and times are\n\
            compared with how it came. Not judged: the user's token, the policy's rules, replay,\n\
            and what is encrypted.\n\n\
            Whether its sender is revoked is judged with --revocations, and only then. With a time\n\
            for --at it is judged as a stream's consumer does, as of then; otherwise whatever is\n\
            revoked is refused, because when it was sealed is what its sender says.",
        after_help = "Examples, with the files of `bulla dev`:\n  \
            bulla envelope inspect message --json | jq -r .header.key_id\n  \
            nats --nkey .bulla/keys/broker-js.nk stream get BULLA_CTL --json \\\n      \
            --last-for '$BULLA.CTL.CRED.<key id>' > credential\n  \
            bulla envelope verify message --credential credential \\\n      \
            --trust-root .bulla/trust/root.pub --bundle .bulla/trust/bundle \\\n      \
            --policy .bulla/trust/policy --subject orders.created --at issued\n\n  \
            nats --nkey .bulla/keys/broker-js.nk stream get BULLA_CTL --json \\\n      \
            --last-for '$BULLA.CTL.REVOCATIONS' > revocations\n  \
            bulla envelope verify message … --revocations revocations\n\n\
            Exit code: 0 accepted, 1 refused, 2 no answer."
    )]
    Verify(Box<VerifyArgs>),
}

/// Arguments of `bulla envelope inspect`.
#[derive(clap::Args, Debug)]
pub struct InspectArgs {
    /// What was captured; `-` reads standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Show the body too, if it is not encrypted
    #[arg(long)]
    body: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Runs one command; what it finds is printed.
pub fn run(command: &EnvelopeCommand) -> ExitCode {
    let code = match command {
        EnvelopeCommand::Inspect(args) => inspect(args),
        EnvelopeCommand::Verify(args) => verify::run(args),
    };
    ExitCode::from(code)
}

fn inspect(args: &InspectArgs) -> u8 {
    let input = match Input::read(&args.file) {
        Ok(input) => input,
        Err(error) => return fail(args.json, &error),
    };
    let report = Report::of(&input, args.body);
    if args.json {
        print_json(&report.to_json());
    } else {
        let _ = anstream::stdout().write_all(report.to_text().as_bytes());
    }
    if report.is_well_formed() { YES } else { NO }
}

fn fail(json: bool, error: &InputError) -> u8 {
    if json {
        print_json(&serde_json::json!({ "error": chain(error) }));
    } else {
        let text = chain(error);
        let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {text}");
    }
    ERROR
}

fn print_json(value: &serde_json::Value) {
    let _ = writeln!(anstream::stdout(), "{value:#}");
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// A time of milliseconds for people: `2027-01-15T08:00:00.000Z, in 12s`.
fn time(millis: u64) -> String {
    /// The end of the year 9999.
    const LAST: u64 = 253_402_300_799_999;
    if millis > LAST {
        return format!("{millis} ms, after the year 9999");
    }
    let at = UNIX_EPOCH + Duration::from_millis(millis);
    let absolute = humantime::format_rfc3339_millis(at);
    let about = |span: Duration| {
        let exact = humantime::format_duration(Duration::from_secs(span.as_secs())).to_string();
        let units: Vec<&str> = exact.split(' ').take(2).collect();
        units.join(" ")
    };
    match at.duration_since(SystemTime::now()) {
        Ok(ahead) => format!("{absolute}, in {}", about(ahead)),
        Err(behind) => format!("{absolute}, {} ago", about(behind.duration())),
    }
}

/// How long so many milliseconds are, for people: `1m 30s`.
fn span(millis: u64) -> String {
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spellings::assert_unprinted;

    #[test]
    fn what_was_captured_is_not_printed() {
        let (token, body) = (b"header.claims.signature", b"quagmire-at-dawn");
        let parts = [&[0x95, 0x01, 0xc4, 0x01, 0x80, 0xc4, 23][..], token];
        let rest = [&[0xc4, 16][..], body, &[0x90]].concat();
        let bytes = [parts.concat(), rest].concat();
        let secrets = [&token[..], body];
        let input = Input::of(bytes.clone(), "-".as_ref()).unwrap();
        assert_unprinted("Input", &input, &secrets);
        let outline = outline::Outline::of(&bytes);
        assert_eq!(outline.body.as_deref(), Some(&body[..]));
        assert_unprinted("Outline", &outline, &secrets);
    }

    #[test]
    fn any_time_and_span_can_be_told() {
        assert!(time(0).starts_with("1970-01-01T00:00:00.000Z, "));
        assert!(time(253_402_300_799_999).starts_with("9999-12-31T23:59:59.999Z, in "));
        assert!(time(253_402_300_800_000).ends_with("after the year 9999"));
        assert!(time(u64::MAX).ends_with("after the year 9999"));
        assert_eq!((span(0), span(90_000)), ("0s".into(), "1m 30s".into()));
        assert!(span(u64::MAX).contains("years"));
    }
}
