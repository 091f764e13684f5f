//! The kinds of error in a policy, each with its remedy.

use bulla_identity::{IdentityError, NkeyError, PatternError};

use crate::rule::Verb;

/// One kind of error. `Display` is the message, [`Problem::remedy`] the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    // The file.
    /// More bytes than a policy may have.
    #[error("the policy is {actual} bytes long; at most {limit} are allowed")]
    TooLarge {
        /// The most bytes allowed.
        limit: usize,
        /// The bytes found.
        actual: usize,
    },
    /// No TOML.
    #[error("{message}")]
    Syntax {
        /// The TOML parser's words.
        message: String,
    },
    /// A key that has to be there is not.
    #[error("{table} has no `{key}`")]
    MissingKey {
        /// The table's name.
        table: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A key that the language does not have.
    #[error("{table} has no key `{key}`")]
    UnknownKey {
        /// The table's name.
        table: &'static str,
        /// The key found.
        key: String,
        /// A key with a similar name.
        similar: Option<&'static str>,
        /// Every key allowed there.
        allowed: &'static [&'static str],
    },
    /// A value of the wrong TOML type.
    #[error("`{key}` must be {expected}, not {found}")]
    WrongType {
        /// The key.
        key: String,
        /// The type wanted, for a person.
        expected: &'static str,
        /// The type found.
        found: &'static str,
    },
    /// A word that is none of the words allowed.
    #[error("`{value}` is not a value of `{key}`")]
    UnknownValue {
        /// The key.
        key: &'static str,
        /// The word found.
        value: String,
        /// The words allowed.
        allowed: &'static str,
    },
    /// Part of the language, but not enforced by this version.
    #[error("`{what}` is not supported in this version")]
    Unsupported {
        /// The key or value.
        what: String,
        /// What to write instead.
        instead: &'static str,
    },
    /// Another version of the language.
    #[error("this policy is written in version {found} of the language")]
    Version {
        /// The version found.
        found: String,
    },
    /// A list that would mean nothing.
    #[error("`{key}` is empty")]
    EmptyList {
        /// The key.
        key: &'static str,
    },

    // Workloads and groups.
    /// No trust domain.
    #[error("{0}")]
    TrustDomain(IdentityError),
    /// No name of a workload or group.
    #[error("`{name}` is not a name: {source}", name = .name.escape_debug())]
    Name {
        /// The name found.
        name: String,
        /// The broken rule.
        source: IdentityError,
    },
    /// No public nkey.
    #[error("{0}")]
    Nkey(NkeyError),
    /// A public nkey that is not a user's.
    #[error("this nkey does not name a user: it starts with `{found}`")]
    NkeyKind {
        /// The first letter.
        found: char,
    },
    /// One nkey twice.
    #[error("this nkey already belongs to the workload `{owner}`")]
    NkeyTwice {
        /// The workload that was first.
        owner: String,
    },
    /// More workloads or groups, or both under one name.
    #[error("the workload id of `{name}` collides with that of `{other}`")]
    TagCollision {
        /// This workload.
        name: String,
        /// The other one.
        other: String,
    },
    /// A name that no `[workload]` has.
    #[error("there is no workload `{name}`")]
    UnknownWorkload {
        /// The name.
        name: String,
        /// A workload with a similar name, or a group of that name.
        similar: Option<String>,
    },
    /// A name that no `[group]` has.
    #[error("there is no group `{name}`")]
    UnknownGroup {
        /// The name.
        name: String,
        /// A group with a similar name.
        similar: Option<String>,
    },
    /// A group that contains itself.
    #[error("the group `{name}` contains itself: {path}")]
    GroupCycle {
        /// The group.
        name: String,
        /// The way back to it.
        path: String,
    },

    // Subjects.
    /// No subject pattern.
    #[error("`{pattern}` is not a subject pattern: {source}", pattern = .pattern.escape_debug())]
    Pattern {
        /// The text found.
        pattern: String,
        /// The broken rule.
        source: PatternError,
    },
    /// A pattern in the server's or Bulla's own space.
    #[error("`{pattern}` lies in a reserved space")]
    Reserved {
        /// The pattern.
        pattern: String,
    },
    /// A grant that would reach into reserved spaces.
    #[error("the grant `{pattern}` starts with a wildcard")]
    WildcardFirst {
        /// The pattern.
        pattern: String,
    },
    /// A text that is no duration.
    #[error("`{text}` is not a duration", text = .text.escape_debug())]
    Duration {
        /// The text found.
        text: String,
    },
    /// A duration out of bounds.
    #[error("`max_age` must lie between 1s and 15m")]
    MaxAge,
    /// An open subject that asks for a user.
    #[error("the open subject `{subject}` cannot carry a user, and `{demand}` asks for one")]
    UserOnOpen {
        /// The open entry's pattern.
        subject: String,
        /// The pattern that asks for a user.
        demand: String,
    },
    /// `none` and `required` on one subject.
    #[error(
        "`{one}` says user = \"none\" and `{other}` says \"required\", and they share subjects"
    )]
    UserContradiction {
        /// One entry's pattern.
        one: String,
        /// The other's.
        other: String,
    },

    // Rules.
    /// No rule id.
    #[error("`{id}` is not a rule id", id = .id.escape_debug())]
    RuleId {
        /// The text found.
        id: String,
    },
    /// An id twice.
    #[error("the rule id `{id}` was used before, in line {line}")]
    RuleIdTwice {
        /// The id.
        id: String,
        /// The line of the first rule.
        line: u32,
    },
    /// A word that is no verb.
    #[error("`{verb}` is not a verb", verb = .verb.escape_debug())]
    UnknownVerb {
        /// The word found.
        verb: String,
    },
    /// A condition on the user where nobody else enforces it.
    #[error("a condition on the user cannot limit `subscribe`")]
    ConditionOnSubscribe,
    /// A condition on the user of messages that carry none.
    #[error(
        "this rule tests the user on `{pattern}`, but messages on the open subject `{subject}` carry no user"
    )]
    ConditionOnOpen {
        /// The rule's pattern.
        pattern: String,
        /// The open entry's pattern.
        subject: String,
    },
    /// A condition on the user where `user = "none"`.
    #[error("this rule tests the user on `{pattern}`, but `{subject}` says user = \"none\"")]
    ConditionOnNone {
        /// The rule's pattern.
        pattern: String,
        /// The entry's pattern.
        subject: String,
    },
    /// A condition that tests nothing.
    #[error("`user` tests no claim")]
    EmptyCondition,
    /// A test of a claim with no or several operators.
    #[error("the test of the claim `{claim}` must have exactly one operator", claim = .claim.escape_debug())]
    Operators {
        /// The claim.
        claim: String,
    },
    /// `min` above `max`.
    #[error("no number lies between `min` and `max` of the claim `{claim}`", claim = .claim.escape_debug())]
    EmptyRange {
        /// The claim.
        claim: String,
    },
    /// An integer too large, an infinity or NaN.
    #[error("`{number}` is not a number that a claim can be compared with")]
    Number {
        /// The text found.
        number: String,
    },
    /// A scope that can never be granted.
    #[error("`{scope}` is not a scope", scope = .scope.escape_debug())]
    Scope {
        /// The text found.
        scope: String,
    },
    /// Braces around something that is not a capture.
    #[error("`{text}` is neither a plain text nor a capture", text = .text.escape_debug())]
    Braces {
        /// The text found.
        text: String,
    },
    /// A capture that a pattern of the rule does not have.
    #[error("the pattern `{pattern}` has no capture `{{{capture}}}`")]
    UnknownCapture {
        /// The capture.
        capture: String,
        /// The pattern without it.
        pattern: String,
    },

    // What nats-server can and cannot tell apart.
    /// A trailing `*` whose deeper levels cannot be closed.
    #[error(
        "rule `{rule}` grants `{workload}` {verb} on `{pattern}`: nats-server would also open `{opened}`, and closing that would cut what rule `{other}` grants on `{other_pattern}`"
    )]
    OpenEnd {
        /// The workload.
        workload: String,
        /// The rule with the trailing `*`.
        rule: String,
        /// Its verb.
        verb: Verb,
        /// Its pattern.
        pattern: String,
        /// What the server would open.
        opened: String,
        /// The rule that needs some of it.
        other: String,
        /// That rule's pattern.
        other_pattern: String,
    },
    /// A deny that nats-server cannot express beside another grant.
    #[error(
        "rule `{deny}` denies `{workload}` {verb} on `{denied}`: nats-server cannot refuse that without cutting what rule `{other}` grants ({other_verb} on `{other_pattern}`)"
    )]
    DenyCuts {
        /// The workload.
        workload: String,
        /// The deny rule.
        deny: String,
        /// The verb it denies.
        verb: Verb,
        /// The subjects in question.
        denied: String,
        /// The rule that would be cut.
        other: String,
        /// The verb it grants.
        other_verb: Verb,
        /// Its pattern.
        other_pattern: String,
    },
    /// More grants than are indexed.
    #[error(
        "the rules spell out {actual} grants (workloads × patterns); at most {limit} are allowed"
    )]
    TooManyGrants {
        /// The most allowed.
        limit: usize,
        /// How many there are.
        actual: usize,
    },
    /// More permissions than fit into a callout's answer.
    #[error(
        "the permissions of `{workload}` take {actual} bytes; at most {limit} fit into the answer to nats-server"
    )]
    PermissionsTooLarge {
        /// The workload.
        workload: String,
        /// The most bytes allowed.
        limit: usize,
        /// The bytes they take.
        actual: usize,
    },
}

impl Problem {
    /// A stable name for the kind of error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Syntax { .. } => "syntax",
            Self::MissingKey { .. } => "missing_key",
            Self::UnknownKey { .. } => "unknown_key",
            Self::WrongType { .. } => "wrong_type",
            Self::UnknownValue { .. } => "unknown_value",
            Self::Unsupported { .. } => "unsupported",
            Self::Version { .. } => "version",
            Self::EmptyList { .. } => "empty_list",
            Self::TrustDomain(_) => "trust_domain",
            Self::Name { .. } => "name",
            Self::Nkey(_) => "nkey",
            Self::NkeyKind { .. } => "nkey_kind",
            Self::NkeyTwice { .. } => "nkey_twice",
            Self::TagCollision { .. } => "tag_collision",
            Self::UnknownWorkload { .. } => "unknown_workload",
            Self::UnknownGroup { .. } => "unknown_group",
            Self::GroupCycle { .. } => "group_cycle",
            Self::Pattern { .. } => "pattern",
            Self::Reserved { .. } => "reserved_subject",
            Self::WildcardFirst { .. } => "wildcard_first",
            Self::Duration { .. } => "duration",
            Self::MaxAge => "max_age",
            Self::UserOnOpen { .. } => "user_on_open",
            Self::UserContradiction { .. } => "user_contradiction",
            Self::RuleId { .. } => "rule_id",
            Self::RuleIdTwice { .. } => "rule_id_twice",
            Self::UnknownVerb { .. } => "unknown_verb",
            Self::ConditionOnSubscribe => "condition_on_subscribe",
            Self::ConditionOnOpen { .. } => "condition_on_open",
            Self::ConditionOnNone { .. } => "condition_on_none",
            Self::EmptyCondition => "empty_condition",
            Self::Operators { .. } => "operators",
            Self::EmptyRange { .. } => "empty_range",
            Self::Number { .. } => "number",
            Self::Scope { .. } => "scope",
            Self::Braces { .. } => "braces",
            Self::UnknownCapture { .. } => "unknown_capture",
            Self::OpenEnd { .. } => "open_end",
            Self::DenyCuts { .. } => "deny_cuts",
            Self::TooManyGrants { .. } => "too_many_grants",
            Self::PermissionsTooLarge { .. } => "permissions_too_large",
        }
    }

    /// What to do about it, in one sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        let fixed = match self {
            Self::TooLarge { .. } => "name workloads in groups and subjects by patterns",
            Self::Syntax { .. } => {
                "mend the TOML here or just before; the rest is checked once it reads"
            }
            Self::MissingKey { key, .. } => match *key {
                "version" => "add `version = 1`",
                "trust_domain" => "add `trust_domain = \"your.domain\"`",
                "attest" => {
                    "add `attest = [{ nkey = \"U…\" }]`: a workload that cannot prove itself can never connect"
                }
                "id" => "add `id = \"…\"`: decisions and logs name the rule by it",
                "who" => "add `who = [\"workload\", \"group:name\"]`",
                "may" => "add `may = [\"publish\"]`, or subscribe, request, serve",
                "on" => "add `on = [\"subject.pattern\"]`",
                _ => "add it",
            },
            Self::UnknownKey {
                similar, allowed, ..
            } => {
                return match similar {
                    Some(similar) => format!("did you mean `{similar}`?"),
                    None => format!("allowed here: {}", allowed.join(", ")),
                };
            }
            Self::WrongType { expected, .. } => return format!("write {expected}"),
            Self::UnknownValue { allowed, .. } => return format!("write one of {allowed}"),
            Self::Unsupported { instead, .. } => instead,
            Self::Version { .. } => "this engine reads `version = 1`",
            Self::EmptyList { .. } => "name at least one, or remove the rule",
            Self::TrustDomain(_) => "write a domain such as `acme.example`",
            Self::Name { .. } => "use a-z, 0-9, `-` and `_`, at most 63 characters",
            Self::Nkey(_) => {
                "put the public key here, as `bulla` or `nk -inkey FILE -pubout` prints it"
            }
            Self::NkeyKind { .. } => "use a user's public nkey: it starts with `U`",
            Self::NkeyTwice { .. } => "give each workload a key of its own: a key is an identity",
            Self::TagCollision { .. } => "rename one of them",
            Self::UnknownWorkload { name, similar } => {
                return match similar {
                    Some(similar) => format!("did you mean `{similar}`?"),
                    None => format!("declare it as `[workload.{name}]`"),
                };
            }
            Self::UnknownGroup { name, similar } => {
                return match similar {
                    Some(similar) => format!("did you mean `group:{similar}`?"),
                    None => format!("declare `{name} = [\"…\"]` under `[group]`"),
                };
            }
            Self::GroupCycle { .. } => "take one of these groups out of another",
            Self::Pattern { .. } => "write tokens separated by dots, such as `orders.{tenant}.*`",
            Self::Reserved { .. } => {
                "names that start with `$` or `_` belong to nats-server and to Bulla; each workload gets its own part of them without a rule"
            }
            Self::WildcardFirst { .. } => {
                "start with a literal token, such as `orders.>`: a leading wildcard also matches `$SYS`, `$JS` and other inboxes"
            }
            Self::Duration { .. } => "write a whole number and a unit: 500ms, 30s, 5m",
            Self::MaxAge => {
                "messages live seconds, not hours: receivers remember each one for that long"
            }
            Self::UserOnOpen { .. } => "raise the protection to \"signed\", or leave the user out",
            Self::UserContradiction { .. } => "make the patterns disjoint, or choose one",
            Self::RuleId { .. } => {
                "use letters, digits, `-`, `_`, `.`, `:`, starting with a letter or digit, at most 128"
            }
            Self::RuleIdTwice { .. } => "give each rule an id of its own",
            Self::UnknownVerb { .. } => "the verbs are publish, subscribe, request, serve",
            Self::ConditionOnSubscribe => {
                "put the condition on `publish`, or split the rule: nats-server delivers every message on the subject to a subscriber, so a condition here would promise a secrecy that nobody enforces"
            }
            Self::ConditionOnOpen { .. } => {
                "raise the subject's protection to \"signed\", or drop the condition"
            }
            Self::ConditionOnNone { .. } => {
                "change the subject to user = \"optional\" or \"required\", or drop the condition"
            }
            Self::EmptyCondition => {
                "remove `user`, or test a claim: `user = { sub = { present = true } }` asks for any user"
            }
            Self::Operators { .. } => {
                "write a value, or one of { any = […] }, { all = […] }, { prefix = \"…\" }, { min = …, max = … }, { present = true }"
            }
            Self::EmptyRange { .. } => "let `min` be at most `max`",
            Self::Number { .. } => "write a whole number of 64 bits or a finite fraction",
            Self::Scope { .. } => {
                "a scope is one word of printable ASCII without spaces, `\"` and `\\`; several go in a list"
            }
            Self::Braces { .. } => {
                "a capture stands alone: \"{tenant}\"; other texts hold no braces"
            }
            Self::UnknownCapture { capture, .. } => {
                return format!(
                    "name the token `{{{capture}}}` in every pattern of the rule, or split the rule"
                );
            }
            Self::OpenEnd { .. } => {
                "end the first grant in a literal token or `>`, or move the deeper subjects to another prefix"
            }
            Self::DenyCuts { .. } => {
                "deny both verbs there, or narrow the allow rules so that no deny is needed"
            }
            Self::TooManyGrants { .. } => "use fewer, wider patterns or split the trust domain",
            Self::PermissionsTooLarge { .. } => "grant this workload fewer, wider patterns",
        };
        fixed.to_owned()
    }
}
