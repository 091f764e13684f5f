//! The kinds of error in a policy, each with its remedy.

use std::fmt;

use bulla_identity::{IdentityError, NkeyError, PatternError};
use bulla_keyring::AuthoritiesError;

use crate::requirements::{Cipher, Replay};
use crate::rule::Verb;
use crate::source::Place;

mod attest;
mod bucket;
mod code;
mod remedy;

pub use attest::AttestProblem;
pub use bucket::BucketProblem;

/// A `[subject]` entry and the replay mode that it states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayEntry {
    /// Its pattern.
    pub pattern: String,
    /// Where it stands.
    pub place: Place,
    /// What it states.
    pub replay: Replay,
}

impl fmt::Display for ReplayEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pattern,
            place,
            replay,
        } = self;
        write!(f, "`{pattern}` ({place}) says \"{replay}\"")
    }
}

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
    /// An unfit name of a file.
    #[error("`{name}` is not a name for a file of a policy, or another one has it")]
    SourceName {
        /// The name.
        name: String,
    },
    /// A file with a line that would begin another one.
    #[error("this line would begin another file of the policy")]
    SourceMark,
    /// One name in two files.
    #[error("{what} `{name}` is declared already, in {place}")]
    DeclaredTwice {
        /// What has that name.
        what: &'static str,
        /// The name.
        name: String,
        /// Where it was declared first.
        place: Place,
    },
    /// Files of two trust domains.
    #[error("another file of this policy says `{other}`")]
    DomainDiffers {
        /// What the other file says.
        other: String,
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
    /// No certificate authorities.
    #[error("this names no certificate authorities: {0}")]
    Authorities(AuthoritiesError),
    /// A name that no `[x509]` has.
    #[error("there is no `[x509.{name}]`")]
    UnknownX509 {
        /// The name.
        name: String,
        /// A name like it.
        similar: Option<String>,
    },
    /// The same authorities twice in one list.
    #[error("`{name}` stands in this list already")]
    X509Twice {
        /// The name.
        name: String,
    },
    /// Two proofs in one element.
    #[error(
        "an attestor is one of an nkey, the name of an `[x509]` and the name of a `[jwt]`; a certificate always vouches"
    )]
    AttestorBoth,
    /// A workload that can connect and never get a credential.
    #[error("nothing vouches for this workload")]
    NothingVouches,
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
    #[error("`max_age` must lie between 1s and {longest}")]
    MaxAge {
        /// The longest that could stand there.
        longest: &'static str,
    },
    /// A long `max_age` where no stream remembers.
    #[error("`max_age` is over 15m, and {}", no_stream(.subject, .other.as_ref()))]
    LongAge {
        /// The entry's pattern.
        subject: String,
        /// An entry that says another replay mode there.
        other: Option<ReplayEntry>,
    },
    /// `stream` and another replay mode on one subject.
    #[error("`{subject}` says replay = \"stream\" and {other}, and they share subjects")]
    ReplayContradiction {
        /// The pattern of the entry that says `stream`.
        subject: String,
        /// The entry that says another mode.
        other: ReplayEntry,
    },
    /// `stream` on a subject where requests travel.
    #[error(
        "`{subject}` says replay = \"stream\", and rule `{rule}` ({place}) lets `{verb}` on `{pattern}`: requests pass no stream"
    )]
    StreamServed {
        /// The pattern of the entry that says `stream`.
        subject: String,
        /// The rule.
        rule: String,
        /// Where the rule stands.
        place: Place,
        /// Its verb, `request` or `serve`.
        verb: Verb,
        /// Its pattern.
        pattern: String,
    },
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

    /// Two ciphers on one subject.
    #[error(
        "`{one}` says cipher = \"{one_says}\" and `{other}` says \"{other_says}\", and they share subjects"
    )]
    CipherContradiction {
        /// One entry's pattern.
        one: String,
        /// Its cipher.
        one_says: Cipher,
        /// The other's pattern.
        other: String,
        /// Its cipher.
        other_says: Cipher,
    },

    /// An audience where no user is.
    #[error("no user travels here, and only a user's token reaches an `audience`")]
    AudienceWithoutUser,
    /// More audiences than are told apart.
    #[error("the policy names {actual} audiences; at most {limit} are allowed")]
    TooManyAudiences {
        /// The most allowed.
        limit: usize,
        /// How many there are.
        actual: usize,
    },
    /// A reach of tokens that nobody may mint.
    #[error("`reach` bounds the tokens that a workload mints, and this one mints none")]
    ReachWithoutMint,
    /// A proven chain of messages that have no user.
    #[error(
        "`{subject}` says chain = \"proven\" and user = \"none\": what is proven is the way of a user's token"
    )]
    ProvenWithoutUser {
        /// The entry's pattern.
        subject: String,
    },

    // Exchange and private claims.
    /// Exchanges without minting.
    #[error("what exchanges tokens mints them")]
    ExchangeWithoutMint,
    /// Two workloads that exchange.
    #[error("another workload exchanges tokens already")]
    ExchangeTwice,
    /// A chain that nobody could start.
    #[error("`starts` lets the broker mint a token, and no workload exchanges tokens")]
    StartsWithoutExchange,
    /// No name of a user.
    #[error("`{name}` is neither a user's name nor the beginning of one")]
    StartsUser {
        /// The text found.
        name: String,
    },
    /// A claim whose name says something fixed.
    #[error("the name `{name}` of a claim has a meaning already")]
    ClaimReserved {
        /// The name.
        name: String,
    },
    /// A condition on what those who decide cannot read.
    #[error("this rule tests the claim `{claim}`, which only its readers can read")]
    ConditionOnPrivate {
        /// The claim.
        claim: String,
    },

    // Streams.
    /// No name of a stream.
    #[error("`{name}` is not a name of a stream")]
    StreamName {
        /// The name found.
        name: String,
    },
    /// A name that is Bulla's or nats-server's.
    #[error("the name `{name}` of a stream is reserved")]
    StreamReserved {
        /// The name.
        name: String,
    },
    /// A number or duration out of bounds.
    #[error("`{key}` of a stream must lie between {allowed}")]
    StreamBounds {
        /// The key.
        key: &'static str,
        /// The bounds.
        allowed: &'static str,
    },
    /// A subject that two streams would store.
    #[error("`{pattern}` shares subjects with `{other}` of the stream `{stream}` ({place})")]
    StreamOverlap {
        /// The pattern.
        pattern: String,
        /// The other one.
        other: String,
        /// Its stream.
        stream: String,
        /// Where that stream stands.
        place: Place,
    },
    /// A stream's subject without an entry that says `stream`.
    #[error(
        "the stream `{stream}` stores `{pattern}`, and no [subject] entry that contains it says replay = \"stream\""
    )]
    StreamUnstated {
        /// The stream.
        stream: String,
        /// The pattern.
        pattern: String,
    },
    /// `stream` where no stream is.
    #[error("`{subject}` says replay = \"stream\", and no [stream] stores any of it")]
    StreamMissing {
        /// The entry's pattern.
        subject: String,
    },
    /// An append that no stream would store.
    #[error("this rule appends to `{pattern}`, and no [stream] stores all of it")]
    AppendNowhere {
        /// The rule's pattern.
        pattern: String,
    },
    /// Verbs about different things in one rule.
    #[error(
        "`{verb}` is about {}, and `{other}` is about {}",
        .verb.about(),
        .other.about()
    )]
    MixedVerbs {
        /// One of them.
        verb: Verb,
        /// Another.
        other: Verb,
    },
    /// A key that a mirror has from its stream.
    #[error("a mirror has its `{key}` from the stream that it copies")]
    MirrorSays {
        /// The key.
        key: &'static str,
    },
    /// A mirror of something that cannot be mirrored.
    #[error("`{origin}` is no stream that can be mirrored")]
    MirrorOrigin {
        /// The name found.
        origin: String,
    },
    /// No name of a consumer.
    #[error("`{name}` is not a consumer of a stream")]
    ConsumerName {
        /// The text found.
        name: String,
    },
    /// A consumer of a stream that the policy does not declare.
    #[error("there is no stream `{stream}` for the consumer `{consumer}`")]
    ConsumerNowhere {
        /// The stream's name.
        stream: String,
        /// The consumer's name.
        consumer: String,
    },
    /// One consumer for two workloads.
    #[error("`{owner}` already consumes as `{consumer}`: `{workload}` cannot as well")]
    ConsumerTwice {
        /// `STREAM.CONSUMER`.
        consumer: String,
        /// The workload that has it.
        owner: String,
        /// The workload that would get it too.
        workload: String,
    },
    /// Two consumers on a work queue.
    #[error(
        "the work queue `{stream}` has a consumer, `{other}`: it can have no second one, `{consumer}`"
    )]
    WorkQueueShared {
        /// The stream.
        stream: String,
        /// The first consumer.
        other: String,
        /// The second one.
        consumer: String,
    },

    /// Something about buckets.
    #[error(transparent)]
    Bucket(#[from] BucketProblem),
    /// About tokens that prove workloads.
    #[error(transparent)]
    Attest(#[from] AttestProblem),
    // Lints.
    /// A word that is no code of a lint.
    #[error("`{code}` is no lint")]
    UnknownLint {
        /// The word found.
        code: String,
        /// A code with a similar name.
        similar: Option<&'static str>,
    },

    // Rules.
    /// No rule id.
    #[error("`{id}` is not a rule id", id = .id.escape_debug())]
    RuleId {
        /// The text found.
        id: String,
    },
    /// An id twice.
    #[error("the rule id `{id}` was used before, in {place}")]
    RuleIdTwice {
        /// The id.
        id: String,
        /// Where the first rule stands.
        place: Place,
    },
    /// No moment in time.
    #[error("`{text}` is not a date with a time and an offset", text = .text.escape_debug())]
    Date {
        /// The text found.
        text: String,
    },
    /// A deny rule that calls itself an emergency grant.
    #[error("a deny rule breaks no glass")]
    BreakGlassDeny,
    /// An emergency grant without an end.
    #[error("this rule breaks glass and never expires")]
    BreakGlassForEver,
    /// No day of the week.
    #[error("`{text}` is neither a day of the week nor a span of them", text = .text.escape_debug())]
    Day {
        /// The text found.
        text: String,
    },
    /// No time of the day.
    #[error("`{text}` is not a time of the day", text = .text.escape_debug())]
    Clock {
        /// The text found.
        text: String,
    },
    /// No offset from UTC.
    #[error("`{text}` is not an offset from UTC", text = .text.escape_debug())]
    Zone {
        /// The text found.
        text: String,
    },
    /// Hours that are none, or all.
    #[error("these hours are {}", if *.whole { "all of the week" } else { "none" })]
    EmptyTime {
        /// Whether they are the whole week.
        whole: bool,
    },
    /// No network.
    #[error("`{text}` is not a network", text = .text.escape_debug())]
    Network {
        /// The text found.
        text: String,
        /// The network that it lies in, if it is an address of one.
        network: Option<String>,
    },
    /// A deny rule that neither nats-server nor the endpoints could enforce.
    #[error("nobody who knows the client's network knows the user")]
    NetworkOnUserDeny,
    /// A grant for some networks beside one that opens the same elsewhere.
    #[error(
        "rule `{rule}` grants `{workload}` {verb} on `{pattern}` from some networks only: rule `{other}` ({place}) opens the same subjects from elsewhere, and then only the endpoints could tell the two apart, who see no network"
    )]
    NetworkBypassed {
        /// The workload.
        workload: String,
        /// The rule with the network.
        rule: String,
        /// The verb that it grants.
        verb: Verb,
        /// Its pattern.
        pattern: String,
        /// The rule that opens the same.
        other: String,
        /// Where that rule stands.
        place: Place,
    },
    /// A word that is no verb.
    #[error("`{verb}` is not a verb", verb = .verb.escape_debug())]
    UnknownVerb {
        /// The word found.
        verb: String,
    },
    /// A condition on the user where nobody else enforces it.
    #[error("a condition on the user cannot limit `{verb}`")]
    ConditionOnSubscribe {
        /// `subscribe` or `consume`.
        verb: Verb,
    },
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
    // Cases.
    /// More bytes than a file of cases may have.
    #[error("the file of cases is {actual} bytes long; at most {limit} are allowed")]
    CasesTooLarge {
        /// The most bytes allowed.
        limit: usize,
        /// The bytes found.
        actual: usize,
    },
    /// More questions than one file may ask.
    #[error(
        "the cases ask {actual} questions (workloads × verbs × subjects × users); at most {limit} are allowed"
    )]
    TooManyQuestions {
        /// The most allowed.
        limit: usize,
        /// How many there are up to here.
        actual: usize,
    },
    /// A user that the file of cases does not have.
    #[error("the cases have no user `{name}`")]
    CaseUser {
        /// The name found.
        name: String,
        /// A name like it.
        similar: Option<String>,
    },
    /// A pattern where a message is asked about.
    #[error("`{subject}` is a pattern, and a message has a literal subject")]
    CaseSubject {
        /// The pattern.
        subject: String,
    },
    /// A reason for an allow.
    #[error("`{key}` explains a deny, and this case expects an allow")]
    CaseReason {
        /// The key.
        key: &'static str,
    },
    /// More permissions than fit into a callout's answer.
    #[error(
        "the permissions of `{workload}` take {actual} bytes, and at most {limit} fit into the answer to nats-server; the most are due to {}",
        contributors(.largest)
    )]
    PermissionsTooLarge {
        /// The workload.
        workload: String,
        /// The most bytes allowed.
        limit: usize,
        /// The bytes they take.
        actual: usize,
        /// The rules to which most of them are due, each with its bytes.
        largest: Vec<(String, usize)>,
    },
}

fn contributors(largest: &[(String, usize)]) -> String {
    let named: Vec<String> = largest
        .iter()
        .map(|(rule, bytes)| format!("rule `{rule}` ({bytes})"))
        .collect();
    named.join(", ")
}

fn no_stream(subject: &str, other: Option<&ReplayEntry>) -> String {
    match other {
        Some(other) => other.to_string(),
        None => format!("`{subject}` does not say replay = \"stream\""),
    }
}
