//! The codes of lints, and what each means.

use std::fmt;

/// What a lint is about. The codes are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LintCode {
    /// Other rules give or deny all that a rule does.
    ShadowedRule,
    /// An allow rule that never applies.
    UnreachableRule,
    /// A grant of a whole tree to everybody, or of both its ends.
    OverBroad,
    /// A grant that reaches beyond the entry that protects a part of it.
    WiderThanSubject,
    /// A workload that no rule names.
    UnusedWorkload,
    /// A group that nothing names.
    UnusedGroup,
    /// A certificate authority that no workload names.
    UnusedAuthority,
    /// A `[subject]` entry that no grant reaches.
    UnusedSubject,
    /// A stream to which nobody appends.
    UnusedStream,
    /// A bucket of which nobody reads or writes keys.
    UnusedBucket,
    /// A grant to send what nobody may receive.
    NobodyReceives,
    /// A grant to receive what nobody may send.
    NobodySends,
    /// A rule that counts no more.
    ExpiredRule,
    /// A rule that will soon count no more.
    ExpiresSoon,
    /// A grant for an emergency that counts.
    BreakGlassAlive,
    /// A key that nobody holds.
    PlaceholderKey,
    /// `window` where a queue group serves.
    WindowInQueueGroup,
    /// An audience that no minted token may reach.
    AudienceUnreached,
    /// A chain that cannot be proven.
    ChainCannotBeProven,
    /// An allowance of a lint that does not occur.
    NeedlessAllow,
}

impl LintCode {
    /// Every code.
    pub const ALL: [Self; 20] = [
        Self::ShadowedRule,
        Self::UnreachableRule,
        Self::OverBroad,
        Self::WiderThanSubject,
        Self::UnusedWorkload,
        Self::UnusedGroup,
        Self::UnusedAuthority,
        Self::UnusedSubject,
        Self::UnusedStream,
        Self::UnusedBucket,
        Self::NobodyReceives,
        Self::NobodySends,
        Self::ExpiredRule,
        Self::ExpiresSoon,
        Self::BreakGlassAlive,
        Self::PlaceholderKey,
        Self::WindowInQueueGroup,
        Self::AudienceUnreached,
        Self::ChainCannotBeProven,
        Self::NeedlessAllow,
    ];

    /// The word for it, in a policy and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ShadowedRule => "shadowed_rule",
            Self::UnreachableRule => "unreachable_rule",
            Self::OverBroad => "over_broad",
            Self::WiderThanSubject => "wider_than_subject",
            Self::UnusedWorkload => "unused_workload",
            Self::UnusedGroup => "unused_group",
            Self::UnusedAuthority => "unused_authority",
            Self::UnusedSubject => "unused_subject",
            Self::UnusedStream => "unused_stream",
            Self::UnusedBucket => "unused_bucket",
            Self::NobodyReceives => "nobody_receives",
            Self::NobodySends => "nobody_sends",
            Self::ExpiredRule => "expired_rule",
            Self::ExpiresSoon => "expires_soon",
            Self::BreakGlassAlive => "break_glass_alive",
            Self::PlaceholderKey => "placeholder_key",
            Self::WindowInQueueGroup => "window_in_queue_group",
            Self::AudienceUnreached => "audience_unreached",
            Self::ChainCannotBeProven => "chain_cannot_be_proven",
            Self::NeedlessAllow => "needless_allow",
        }
    }

    /// The code with this name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }

    /// Whether it comes and goes with the time of day, so that an allowance of
    /// it may have nothing to allow yet.
    pub(super) const fn depends_on_time(self) -> bool {
        matches!(
            self,
            Self::ExpiredRule | Self::ExpiresSoon | Self::BreakGlassAlive
        )
    }

    /// What it is about, in a few words.
    #[must_use]
    pub const fn summary(self) -> &'static str {
        match self {
            Self::ShadowedRule => "a rule says nothing that other rules do not say",
            Self::UnreachableRule => "an allow rule never applies",
            Self::OverBroad => "a grant is wider than anybody needs",
            Self::WiderThanSubject => "a grant reaches beyond the entry that protects its subjects",
            Self::UnusedWorkload => "no rule names a workload",
            Self::UnusedGroup => "nothing names a group",
            Self::UnusedAuthority => "no workload names a certificate authority",
            Self::UnusedSubject => "no grant reaches a subject entry",
            Self::UnusedStream => "nobody appends to a stream",
            Self::UnusedBucket => "nobody reads or writes keys of a bucket",
            Self::NobodyReceives => "nobody may receive what a grant lets send",
            Self::NobodySends => "nobody may send what a grant lets receive",
            Self::ExpiredRule => "a rule counts no more",
            Self::ExpiresSoon => "a rule counts no more in two weeks",
            Self::BreakGlassAlive => "a grant for an emergency counts",
            Self::PlaceholderKey => "nobody holds the key of a workload",
            Self::WindowInQueueGroup => "replicas may each run a replayed request",
            Self::AudienceUnreached => "no user ever gets to an audience",
            Self::ChainCannotBeProven => "a sender has no chain to show",
            Self::NeedlessAllow => "an allowed lint does not occur",
        }
    }

    /// When exactly it is reported, why that deserves a look, and what to do.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::ShadowedRule => {
                "For each workload, verb and pattern of the rule another rule of the same effect\n\
                 says the same or more: it contains the pattern, counts whenever this one does,\n\
                 and has no condition on the user (or the same one on the same pattern).\n\n\
                 All rules that are reported so can be taken out together and no decision\n\
                 changes. Often a narrow rule was meant to replace the wide one that now hides\n\
                 it: then take out the wide one.\n\n\
                     [[allow]]\n\
                     id = \"all\"\n\
                     who = [\"billing\"]\n\
                     may = [\"publish\"]\n\
                     on = [\"invoices.>\"]\n\n\
                     [[allow]]                    # shadowed by `all`\n\
                     id = \"paid\"\n\
                     who = [\"billing\"]\n\
                     may = [\"publish\"]\n\
                     on = [\"invoices.paid\"]"
            }
            Self::UnreachableRule => {
                "The rule names no workload, because its groups are empty; or for each workload,\n\
                 verb and pattern of the allow rule there is a deny rule without condition, time\n\
                 or network that contains the pattern. Deny overrides, so it never applies.\n\n\
                 Take it out, or narrow the deny rule."
            }
            Self::OverBroad => {
                "An allow rule without condition, time and network has a pattern that ends in `>`\n\
                 and gives it to every workload of the policy (three or more) to send there, or\n\
                 gives one workload both ends of it: `publish` and `subscribe`, or `request` and\n\
                 `serve`. Who holds both ends of a tree can answer itself, and a stolen key of\n\
                 such a workload is worth the whole tree.\n\n\
                 Name the subjects that are needed, and split the rule by direction."
            }
            Self::WiderThanSubject => {
                "A pattern of an allow rule shares subjects with an entry that asks for\n\
                 encryption or a user, and also covers subjects that no entry speaks about: there\n\
                 the defaults hold (signed, a user optional). One such subject is named.\n\n\
                     [subject.\"orders.*.create\"]\n\
                     protect = \"encrypted\"\n\n\
                     [[allow]]\n\
                     id = \"shop\"\n\
                     who = [\"shop\"]\n\
                     may = [\"request\"]\n\
                     on = [\"orders.>\"]          # `orders.x` is not encrypted\n\n\
                 Narrow the grant, or add an entry for the rest."
            }
            Self::UnusedWorkload => {
                "No rule and no private claim names the workload, by itself or through a group,\n\
                 and it does not exchange tokens. It can connect and do nothing: a key that opens\n\
                 a door which leads nowhere is best thrown away."
            }
            Self::UnusedGroup => {
                "Neither a rule nor a private claim names the group, nor does a group that one\n\
                 of those names. Often the rule names the group without `group:`."
            }
            Self::UnusedAuthority => {
                "No workload's `attest` names the authority, so no certificate of it vouches for\n\
                 anybody. An authority that is trusted for nothing is best taken out."
            }
            Self::UnusedSubject => {
                "No allow rule has a pattern that shares a subject with the entry, so nobody ever\n\
                 sends or receives there and the entry protects nothing. Often one of the two is\n\
                 misspelt."
            }
            Self::UnusedStream => {
                "No allow rule lets anybody `append` to what the stream stores (of a mirror: what\n\
                 the stream that it copies stores), so it stays empty."
            }
            Self::UnusedBucket => {
                "No allow rule lets anybody `read` or `write` keys of the bucket: brokers make it,\n\
                 and nobody may use it. Rules in shadow do not count."
            }
            Self::NobodyReceives => {
                "No allow rule lets anybody receive there: for `publish` nobody may `subscribe`\n\
                 to an overlapping pattern, for `request` nobody may `serve` one, for `append`\n\
                 nobody may `subscribe` to one or `consume` from its stream or a mirror of that.\n\
                 Rules in shadow do not count. Often one of the two sides is misspelt, or its\n\
                 rule is still to be written."
            }
            Self::NobodySends => {
                "No allow rule lets anybody send there: for `subscribe` nobody may `publish` or\n\
                 `append` to an overlapping pattern, for `serve` nobody may `request` one. Rules\n\
                 in shadow do not count. Often one of the two sides is misspelt."
            }
            Self::ExpiredRule => {
                "The rule's `expires` is over: it counts no more and never will again. Take it\n\
                 out, or say a later time."
            }
            Self::ExpiresSoon => {
                "The rule's `expires` comes within 14 days (it is no `break_glass` rule, which is\n\
                 meant to end). What it grants ends by itself then."
            }
            Self::BreakGlassAlive => {
                "A `break_glass` rule counts, or will before it expires. It is meant for one\n\
                 emergency and is named here until it is gone."
            }
            Self::PlaceholderKey => {
                "The workload is attested by the nkey that `bulla policy import` writes where the\n\
                 source had a password. It belongs to no private key, so nobody can connect as\n\
                 this workload. Make a key (`bulla trust key`, or nk) and put its public part\n\
                 here."
            }
            Self::WindowInQueueGroup => {
                "An entry says replay = \"window\", no other entry raises all of it, and a rule lets\n\
                 a workload serve there. `window` is each process's own memory: in a queue group\n\
                 of n replicas a replayed request could run n times. Say \"shared\", or leave it\n\
                 out."
            }
            Self::AudienceUnreached => {
                "An entry names an audience that is in the `reach` of no workload that mints\n\
                 tokens: no user's token ever counts there."
            }
            Self::ChainCannotBeProven => {
                "A rule lets a workload send where chain = \"proven\", and nothing that the workload\n\
                 receives comes from a workload that mints or starts chains, or with a proven\n\
                 chain: it never has one to show, and each of its messages is refused."
            }
            Self::NeedlessAllow => {
                "`allow_lint` of a table, or `allow` of [lint], names a lint that does not occur\n\
                 there (any more). Take it out, so that it does not hide the next one."
            }
        }
    }
}

impl fmt::Display for LintCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
