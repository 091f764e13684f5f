//! The same questions to other engines, each as its own documentation would have
//! it done: what can be prepared before a question is not measured.
//!
//! They answer more general questions. Cedar and Casbin look at every rule;
//! Rego gets the rules as data, by workload. What a pattern captures is given to
//! Cedar and Rego beforehand, and Casbin is asked without conditions.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bulla_benches::{Report, Wanted};
use casbin::{CoreApi as _, DefaultModel, Enforcer, MemoryAdapter, MgmtApi as _};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request, RestrictedExpression,
};
use serde_json::{Value, json};

use super::{LONG_ROUNDS, Question, WORKING_SET, per, questions, workload};

const PEER_SIZES: [usize; 2] = [10, 1_000];
/// For how long a round lasts, at least one question.
const ROUND: Duration = Duration::from_millis(100);

pub fn measure(wanted: &Wanted, report: &mut Report) {
    for rules in PEER_SIZES {
        for claims in [false, true] {
            let more = if claims { ".claims" } else { "" };
            let asked = questions(rules, WORKING_SET, false);
            let mut row = |peer: &str, ask: &mut dyn FnMut(usize) -> bool| {
                let name = format!("peer.{peer}{more}.{rules}");
                let rounds = (0..LONG_ROUNDS).map(|_| round(asked.len(), ask)).collect();
                report.add(name, "ns", rounds);
            };
            let wants = |peer: &str| wanted.wants(&format!("peer.{peer}{more}.{rules}"));
            if wants("cedar") {
                let cedar = Cedar::new(rules, claims, &asked);
                row("cedar", &mut |i| cedar.ask(i));
            }
            if wants("regorus") {
                let rego = Rego::new(rules, claims, &asked);
                row("regorus", &mut |i| rego.ask(i));
            }
            if wants("casbin") && !claims {
                let casbin = Casbin::new(rules, &asked);
                row("casbin", &mut |i| casbin.ask(i));
            }
        }
    }
}

/// Nanoseconds for one question of so many in turn.
fn round(count: usize, ask: &mut dyn FnMut(usize) -> bool) -> f64 {
    let started = Instant::now();
    let mut asked = 0;
    while asked == 0 || started.elapsed() < ROUND {
        assert!(black_box(ask(asked % count)));
        asked += 1;
    }
    per(started, asked)
}

/// The token that the pattern captures.
fn tenant(question: &Question) -> &str {
    question.subject.tokens().nth(2).unwrap()
}

struct Cedar {
    authorizer: Authorizer,
    policies: PolicySet,
    entities: Entities,
    requests: Vec<Request>,
}

impl Cedar {
    fn new(rules: usize, claims: bool, asked: &[Question]) -> Self {
        let user = if claims {
            " && context.scope.contains(\"shop:write\") \
             && context.roles.containsAny([\"buyer\", \"admin\"]) \
             && context.tenant == context.captured"
        } else {
            ""
        };
        let text: String = (0..rules)
            .map(|i| {
                format!(
                    "permit(principal == Workload::\"{}\", action == Action::\"publish\", resource) \
                     when {{ context.subject like \"shop.r{i}.*.set\"{user} }};\n",
                    workload(i)
                )
            })
            .collect();
        let uid = |text: String| text.parse::<EntityUid>().unwrap();
        let words = |words: &[&str]| {
            let words = words
                .iter()
                .map(|w| RestrictedExpression::new_string((*w).to_owned()));
            RestrictedExpression::new_set(words)
        };
        let text_of = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let requests = asked
            .iter()
            .map(|question| {
                let context = Context::from_pairs([
                    ("subject".to_owned(), text_of(question.subject.as_str())),
                    (
                        "scope".to_owned(),
                        words(&["openid", "shop:read", "shop:write"]),
                    ),
                    ("roles".to_owned(), words(&["staff", "buyer"])),
                    ("tenant".to_owned(), text_of(tenant(question))),
                    ("captured".to_owned(), text_of(tenant(question))),
                ]);
                Request::new(
                    uid(format!("Workload::\"{}\"", question.workload.path())),
                    uid("Action::\"publish\"".to_owned()),
                    uid("Subject::\"any\"".to_owned()),
                    context.unwrap(),
                    None,
                )
                .unwrap()
            })
            .collect();
        Self {
            authorizer: Authorizer::new(),
            policies: text.parse().unwrap(),
            entities: Entities::empty(),
            requests,
        }
    }

    fn ask(&self, index: usize) -> bool {
        let request = self.requests.get(index).unwrap();
        let answer = self
            .authorizer
            .is_authorized(request, &self.policies, &self.entities);
        answer.decision() == Decision::Allow
    }
}

struct Rego {
    policy: regorus::CompiledPolicy,
    inputs: Vec<regorus::Value>,
}

impl Rego {
    fn new(rules: usize, claims: bool, asked: &[Question]) -> Self {
        let user = if claims {
            "\"shop:write\" in input.scope\n\
             some role in input.roles\n\
             role in {\"buyer\", \"admin\"}\n\
             input.tenant == input.captured\n"
        } else {
            ""
        };
        let text = format!(
            "package bench\n\
             import rego.v1\n\
             default allow := false\n\
             allow if {{\n\
             some rule in data.rules[input.workload]\n\
             rule.verb == input.verb\n\
             glob.match(rule.pattern, [\".\"], input.subject)\n{user}}}\n"
        );
        let mut data = serde_json::Map::new();
        for i in 0..rules {
            let list = data.entry(workload(i)).or_insert_with(|| json!([]));
            let rule = json!({ "verb": "publish", "pattern": format!("shop.r{i}.*.set") });
            list.as_array_mut().unwrap().push(rule);
        }
        let value = |value: Value| regorus::Value::from_json_str(&value.to_string()).unwrap();
        let mut engine = regorus::Engine::new();
        engine.add_policy("bench.rego".to_owned(), text).unwrap();
        engine.add_data(value(json!({ "rules": data }))).unwrap();
        let inputs = asked
            .iter()
            .map(|question| {
                value(json!({
                    "workload": question.workload.path(),
                    "verb": "publish",
                    "subject": question.subject.as_str(),
                    "scope": ["openid", "shop:read", "shop:write"],
                    "roles": ["staff", "buyer"],
                    "tenant": tenant(question),
                    "captured": tenant(question),
                }))
            })
            .collect();
        let policy = engine.compile_with_entrypoint(&"data.bench.allow".into());
        Self {
            policy: policy.unwrap(),
            inputs,
        }
    }

    fn ask(&self, index: usize) -> bool {
        let input = self.inputs.get(index).unwrap().clone();
        self.policy.eval_with_input(input).unwrap() == regorus::Value::Bool(true)
    }
}

struct Casbin {
    enforcer: Enforcer,
    requests: Vec<(String, String)>,
}

impl Casbin {
    const MODEL: &str = "[request_definition]\nr = sub, obj, act\n\
        [policy_definition]\np = sub, obj, act\n\
        [policy_effect]\ne = some(where (p.eft == allow))\n\
        [matchers]\nm = r.sub == p.sub && r.act == p.act && keyMatch2(r.obj, p.obj)\n";

    fn new(rules: usize, asked: &[Question]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let enforcer = runtime.block_on(async {
            let model = DefaultModel::from_str(Self::MODEL).await.unwrap();
            let mut enforcer = Enforcer::new(model, MemoryAdapter::default())
                .await
                .unwrap();
            let all = (0..rules)
                .map(|i| {
                    vec![
                        workload(i),
                        format!("/shop/r{i}/:tenant/set"),
                        "publish".to_owned(),
                    ]
                })
                .collect();
            assert!(enforcer.add_policies(all).await.unwrap());
            enforcer
        });
        let requests = asked
            .iter()
            .map(|question| {
                let path = format!("/{}", question.subject.as_str().replace('.', "/"));
                (question.workload.path().to_owned(), path)
            })
            .collect();
        Self { enforcer, requests }
    }

    fn ask(&self, index: usize) -> bool {
        let (workload, path) = self.requests.get(index).unwrap();
        self.enforcer.enforce((workload, path, "publish")).unwrap()
    }
}
