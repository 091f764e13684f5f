//! What to do about each kind of error.

use bulla_keyring::AuthoritiesError;

use super::Problem;

impl Problem {
    /// What to do about it, in one sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        let fixed = match self {
            Self::TooLarge { .. } => "name workloads in groups and subjects by patterns",
            Self::Syntax { .. } => {
                "mend the TOML here or just before; the rest is checked once it reads"
            }
            Self::SourceName { .. } => {
                "give each file a name of its own, without control characters, at most 255 bytes"
            }
            Self::SourceMark => "take the line out, or write a space before it",
            Self::DeclaredTwice { .. } => {
                "declare it in one file: the others may name it all the same"
            }
            Self::DomainDiffers { .. } => "let all files say the same, or one alone",
            Self::MissingKey { key, .. } => match *key {
                "version" => "add `version = 1`",
                "trust_domain" => "add `trust_domain = \"your.domain\"`",
                "attest" => {
                    "add `attest = [{ nkey = \"U…\" }]`: a workload that cannot prove itself can never connect"
                }
                "ca" => "add `ca = \"\"\"…\"\"\"`, the authority's certificates in PEM",
                "id" => "add `id = \"…\"`: decisions and logs name the rule by it",
                "who" => "add `who = [\"workload\", \"group:name\"]`",
                "may" => {
                    "add `may = [\"publish\"]`, or subscribe, request, serve, append, consume, read, write, manage"
                }
                "max_age" => {
                    "add `max_age = \"7d\"`, up to 30d: how long after it was stored a message may be consumed"
                }
                "users" => "add `users = [\"batch:*\"]`: on whose behalf it may start",
                "readers" => "add `readers = [\"workload\", \"group:name\"]`",
                "subjects" => "add `subjects = [\"orders.>\"]`",
                "case" => "add [[case]] with `who`, `may`, `on` and `expect`",
                "expect" => "add `expect = \"allow\"` or `expect = \"deny\"`",
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
            Self::Authorities(AuthoritiesError::PrivateKey) => {
                "take the key out, and replace it: whoever has read this policy holds it"
            }
            Self::Authorities(_) => {
                "put the authority's own certificates here, in PEM, at most 16 of them and nothing else"
            }
            Self::UnknownX509 { name, similar } => {
                return match similar {
                    Some(similar) => format!("did you mean `{similar}`?"),
                    None => format!("declare it as `[x509.{name}]` with its `ca`"),
                };
            }
            Self::X509Twice { .. } => "leave it out",
            Self::AttestorBoth => "write two: `[{ nkey = \"U…\" }, { x509 = \"name\" }]`",
            Self::NothingVouches => {
                "leave `vouches = false` out, add `{ x509 = \"name\" }`, or say `vouches = true` beside `jwt`: then a broker's word is enough"
            }
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
            Self::Duration { .. } => "write a whole number and a unit: 500ms, 30s, 5m, 12h, 7d",
            Self::MaxAge { .. } => {
                "messages live seconds, not hours: receivers remember each one for that long; where a stream keeps them, up to 30d"
            }
            Self::LongAge { .. } => {
                "say at most \"15m\", because receivers remember each message for that long, or replay = \"stream\" where a stream remembers it"
            }
            Self::ReplayContradiction { .. } => {
                "make the patterns disjoint, or say \"stream\" in both"
            }
            Self::StreamServed { .. } => {
                "use \"shared\" for requests, or give the requests subjects of their own"
            }
            Self::UserOnOpen { .. } => "raise the protection to \"signed\", or leave the user out",
            Self::UserContradiction { .. } | Self::CipherContradiction { .. } => {
                "make the patterns disjoint, or choose one"
            }
            Self::AudienceWithoutUser => {
                "leave the audience out, or let users travel: protect \"signed\" or \"encrypted\", user \"optional\" or \"required\""
            }
            Self::TooManyAudiences { .. } => {
                "an audience is a vertical of many subjects: name fewer"
            }
            Self::ReachWithoutMint => "add `mints = true`, or leave the reach out",
            Self::ProvenWithoutUser { .. } => {
                "leave `user` out: where a chain is proven, a user is required"
            }
            Self::ExchangeWithoutMint => "add `mints = true`",
            Self::ExchangeTwice => {
                "give all brokers one workload with several nkeys: each request is for one of them"
            }
            Self::StartsWithoutExchange => {
                "declare the brokers' workload with `mints = true` and `exchanges = true`"
            }
            Self::StartsUser { .. } => {
                "write a name such as \"batch:nightly\", or its beginning: \"batch:*\""
            }
            Self::ClaimReserved { .. } => "choose another name",
            Self::ConditionOnPrivate { .. } => {
                "test another claim, or take this one out of [claims]: sender and receivers decide, and they cannot read it"
            }
            Self::StreamName { .. } => "use A-Z, a-z, 0-9, `-` and `_`, at most 64 characters",
            Self::StreamReserved { .. } => {
                "rename it: names that start with `BULLA_`, `KV_` or `OBJ_` have a meaning already"
            }
            Self::StreamBounds { .. } => "choose a value between them",
            Self::StreamOverlap { .. } => {
                "make the patterns disjoint: a message lies in one stream"
            }
            Self::StreamUnstated { .. } => {
                "add [subject.\"…\"] with replay = \"stream\" and the max_age for which a stored message may be consumed"
            }
            Self::StreamMissing { .. } => {
                "declare the stream, [stream.NAME] with subjects = [\"…\"], or use another replay mode"
            }
            Self::AppendNowhere { .. } => {
                "declare a [stream] that stores it, narrow the rule to one pattern of a stream, or use `publish`"
            }
            Self::MixedVerbs { .. } => {
                "give each a rule of its own: the `on` of a rule names either subjects, or consumers, or keys of buckets, or streams and buckets"
            }
            Self::Bucket(problem) => problem.remedy(),
            Self::Attest(problem) => return problem.remedy(),
            Self::MirrorSays { .. } => "leave it out",
            Self::MirrorOrigin { .. } => {
                "name a declared stream with retention = \"limits\" that is no mirror itself"
            }
            Self::ConsumerName { .. } => {
                "write \"STREAM.CONSUMER\", two names of A-Z, a-z, 0-9, `-` and `_`; only a deny rule may have `*` for either"
            }
            Self::ConsumerNowhere { stream, .. } => {
                return format!("declare `[stream.{stream}]`");
            }
            Self::ConsumerTwice { .. } => {
                "give each workload a consumer of its own: two on one would take each other's messages"
            }
            Self::WorkQueueShared { .. } => {
                "use retention = \"interest\" or \"limits\", or let one workload hand the messages on"
            }
            Self::UnknownLint { similar, .. } => {
                return match similar {
                    Some(similar) => format!("did you mean `{similar}`?"),
                    None => "`bulla policy check --lints` lists them".to_owned(),
                };
            }
            Self::RuleId { .. } => {
                "use letters, digits, `-`, `_`, `.`, `:`, starting with a letter or digit, at most 128"
            }
            Self::Date { .. } => "write it as RFC 3339 has it, such as 2027-01-31T18:00:00Z",
            Self::BreakGlassDeny => "leave `break_glass` out: it marks an allow rule",
            Self::BreakGlassForEver => "add `expires`: an emergency has an end",
            Self::Day { .. } => {
                "the days are mon, tue, wed, thu, fri, sat, sun, and spans such as \"mon-fri\""
            }
            Self::Clock { .. } => "write hours and minutes, from \"00:00\" to \"24:00\"",
            Self::Zone { .. } => {
                "write \"Z\" or hours and minutes such as \"+01:00\"; it is the same in summer and in winter"
            }
            Self::EmptyTime { whole: true } => "leave `time` out",
            Self::EmptyTime { whole: false } => {
                "let `to` differ from `from`; hours over midnight belong to the day on which they begin"
            }
            Self::Network { network, .. } => {
                return match network {
                    Some(network) => format!("write `{network}`"),
                    None => {
                        "write an address or a network, such as `10.0.0.0/8` or `2001:db8::/32`"
                            .to_owned()
                    }
                };
            }
            Self::NetworkOnUserDeny => {
                "leave one of the two out: nats-server sees the network, the endpoints see the user"
            }
            Self::NetworkBypassed { .. } => {
                "give both the same `network`, make the patterns disjoint, or let the other rule grant the same verbs without a condition on the user"
            }
            Self::RuleIdTwice { .. } => "give each rule an id of its own",
            Self::UnknownVerb { .. } => {
                "the verbs are publish, subscribe, request, serve, append, consume"
            }
            Self::ConditionOnSubscribe { .. } => {
                "put the condition on `publish`, or split the rule: nats-server delivers every message to a subscriber or consumer, so a condition here would promise a secrecy that nobody enforces"
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
            Self::CasesTooLarge { .. } | Self::TooManyQuestions { .. } => {
                "split the cases into several files"
            }
            Self::CaseUser { name, similar } => {
                return match similar {
                    Some(similar) => format!("did you mean `{similar}`?"),
                    None => format!("declare it as `[user.{name}]`; `nobody` is no user"),
                };
            }
            Self::CaseSubject { .. } => {
                "replace its wildcards and captures; only subscribe and serve ask about patterns"
            }
            Self::CaseReason { .. } => "leave it out, or expect a deny",
            Self::PermissionsTooLarge { .. } => "grant this workload fewer, wider patterns",
        };
        fixed.to_owned()
    }
}
