//! `gateway key new | list | revoke`: API keys, made and taken back.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::api_keys::{KeyFile, KeyFileError, KeyRecord, make};
use crate::clock;
use crate::quantities::parse_duration;

/// What to do with API keys.
#[derive(Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it, which happens once: only its hash is kept
    #[command(after_help = "Examples:\n  \
        gateway key new --user ci --scope 'orders:read orders:write' --expires 90d\n  \
        gateway key new --user partner --scope orders:read --comment 'contract 17' --json")]
    New {
        /// Who has it: the user of every request that brings it.
        #[arg(long)]
        user: String,
        /// What he may, scopes with spaces between.
        #[arg(long, default_value = "")]
        scope: String,
        /// For how long it is good: `24h`, `90d`. For ever without.
        #[arg(long, value_name = "TIME", value_parser = life)]
        expires: Option<Duration>,
        /// What it is for.
        #[arg(long, default_value = "")]
        comment: String,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// List all keys, the revoked ones too; no key can be read from it
    List {
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key: within a second no edge that has the file takes it any more
    #[command(
        after_help = "Exit code 0 if it is revoked, 1 if there is no such key.\n\n\
        Example:\n  gateway key revoke 0a1b2c3d4e5f6071"
    )]
    Revoke {
        /// Its id, which `list` shows: what stands between the first and the second `_`.
        id: String,
    },
}

/// What came of a command.
pub(crate) enum Outcome {
    Said(String),
    No(String),
}

pub(crate) fn run(command: &KeyCommand, file: &Path) -> Result<Outcome, KeyFileError> {
    match command {
        KeyCommand::New {
            user,
            scope,
            expires,
            comment,
            json,
        } => {
            let _lock = KeyFile::lock(file)?;
            let mut keys = read_or_begin(file)?;
            let (record, key) = make((user, scope, comment), clock::now(), *expires)?;
            let text = if *json {
                json!({"id": record.id, "key": key, "user": user, "scope": scope,
                    "expires": record.expires.map(date)})
                .to_string()
            } else {
                key
            };
            keys.keys.push(record);
            keys.write(file)?;
            Ok(Outcome::Said(text))
        }
        KeyCommand::List { json } => {
            let keys = read_or_begin(file)?;
            Ok(Outcome::Said(if *json {
                let all = keys.keys.iter().map(as_json);
                serde_json::Value::from_iter(all).to_string()
            } else {
                table(&keys.keys)
            }))
        }
        KeyCommand::Revoke { id } => {
            let _lock = KeyFile::lock(file)?;
            let mut keys = KeyFile::read(file)?;
            let Some(record) = keys.keys.iter_mut().find(|k| k.id == *id) else {
                return Ok(Outcome::No(format!("there is no key `{id}`")));
            };
            let text = format!("revoked: {id} of {}", record.user);
            if record.revoked.is_none() {
                record.revoked = Some(clock::now().as_secs());
                keys.write(file)?;
            }
            Ok(Outcome::Said(text))
        }
    }
}

/// The first key makes the file.
fn read_or_begin(file: &Path) -> Result<KeyFile, KeyFileError> {
    match KeyFile::read(file) {
        Err(KeyFileError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(KeyFile::default())
        }
        other => other,
    }
}

fn state(record: &KeyRecord) -> &'static str {
    let now = clock::now().as_secs();
    if record.revoked.is_some() {
        "revoked"
    } else if record.expires.is_some_and(|end| now >= end) {
        "expired"
    } else {
        "good"
    }
}

fn as_json(record: &KeyRecord) -> serde_json::Value {
    json!({"id": record.id, "user": record.user, "scope": record.scope,
        "comment": record.comment, "created": date(record.created),
        "expires": record.expires.map(date), "state": state(record)})
}

fn table(records: &[KeyRecord]) -> String {
    if records.is_empty() {
        return "no keys".to_owned();
    }
    let head = [
        "ID", "STATE", "USER", "CREATED", "EXPIRES", "SCOPE", "COMMENT",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(records.iter().map(|r| {
        let expires = r.expires.map_or_else(|| "never".to_owned(), day);
        [
            r.id.clone(),
            state(r).to_owned(),
            r.user.clone(),
            day(r.created),
            expires,
            r.scope.clone(),
            r.comment.clone(),
        ]
    }));
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths);
        let line: String = cells.map(|(cell, w)| format!("{cell:<w$}  ")).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn at(secs: u64) -> OffsetDateTime {
    let secs = i64::try_from(secs).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(secs).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn date(secs: u64) -> String {
    at(secs).format(&Rfc3339).unwrap_or_default()
}

fn day(secs: u64) -> String {
    at(secs).date().to_string()
}

fn life(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
    let days = days.and_then(|days: u64| days.checked_mul(86_400));
    days.map(Duration::from_secs)
        .or_else(|| parse_duration(text))
        .filter(|life| !life.is_zero())
        .ok_or_else(|| "write for example `24h` or `90d`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown_as_people_write_them() {
        assert_eq!(life("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(life("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "d", "0d", "-1d", "1w", "x"] {
            assert!(life(bad).is_err(), "{bad}");
        }
        assert_eq!(day(784_111_777), "1994-11-06");
        assert_eq!(date(784_111_777), "1994-11-06T08:49:37Z");
    }

    #[test]
    fn commands_at_the_same_moment_lose_nothing_of_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.json");
        let new = || KeyCommand::New {
            user: "ci".to_owned(),
            scope: String::new(),
            expires: None,
            comment: String::new(),
            json: false,
        };
        run(&new(), &file).unwrap();
        let id = KeyFile::read(&file).unwrap().keys.remove(0).id;
        let revoke = KeyCommand::Revoke { id };
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| (0..5).for_each(|_| drop(run(&new(), &file).unwrap())));
            }
            threads.spawn(|| drop(run(&revoke, &file).unwrap()));
        });
        let keys = KeyFile::read(&file).unwrap().keys;
        assert_eq!(keys.len(), 41);
        assert!(keys.first().is_some_and(|first| first.revoked.is_some()));
    }
}
