//! Users and what nats-server lets them do.

use bulla_identity::{Nkey, NkeyKind};

use super::config::{Map, Node, Value};
use super::left_out::{LeftOut, Why};

/// A user of an `authorization` block or an account.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) nkey: Option<Nkey>,
    pub(super) permissions: Permissions,
    pub(super) line: u32,
}

/// What one user may do.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Permissions {
    pub(super) publish: Side,
    pub(super) subscribe: Side,
    /// Replies to what it receives, wherever they go.
    pub(super) responds: bool,
}

/// One direction; where `allow` is nothing, everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Side {
    pub(super) allow: Option<Vec<Entry>>,
    pub(super) deny: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) line: u32,
    pub(super) text: String,
}

/// The users of a block, in order.
pub(super) fn users(block: &Map, out: &mut Vec<LeftOut>) -> Vec<User> {
    let default = block
        .find(&["default_permissions"])
        .map(|node| permissions("default_permissions", node, out));
    // What is included may say what users without permissions have.
    let unlimited = match block.includes() {
        true => Permissions::nothing(),
        false => Permissions::default(),
    };
    let fallback = default.as_ref().unwrap_or(&unlimited);
    let mut found = Vec::new();
    if let Some(node) = block.find(&["users", "nkeys"]) {
        match &node.value {
            Value::List(list) => {
                found.extend(list.iter().filter_map(|node| user(node, fallback, out)));
            }
            _ => out.push(LeftOut::new(node.line, None, "users", Why::NotUnderstood)),
        }
    } else if let Some(node) = block.find(&["user", "username"]) {
        // One user for the whole server.
        found.extend(user(
            &Node {
                line: node.line,
                value: Value::Map(block.clone()),
            },
            fallback,
            out,
        ));
    }
    if let Some(node) = block.find(&["token"]) {
        out.push(LeftOut::new(node.line, None, "token", Why::Token));
    }
    found
}

fn user(node: &Node, default: &Permissions, out: &mut Vec<LeftOut>) -> Option<User> {
    let Value::Map(map) = &node.value else {
        out.push(LeftOut::new(node.line, None, "users", Why::NotUnderstood));
        return None;
    };
    let word = |names: &[&str]| match map.find(names) {
        Some(Node {
            value: Value::Word(word),
            ..
        }) => Some(word.clone()),
        Some(Node {
            value: Value::Unknown(name),
            ..
        }) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    let key = word(&["nkey"]);
    let nkey = key
        .as_deref()
        .and_then(|text| Nkey::parse(text).ok())
        .filter(|nkey| nkey.kind() == NkeyKind::User);
    let name = match (word(&["user", "username"]), &key) {
        (Some(name), _) => name,
        // After the letter that every user's key begins with.
        (None, Some(key)) => {
            let some: String = key.chars().skip(1).take(8).collect();
            format!("user-{}", some.to_ascii_lowercase())
        }
        (None, None) => {
            out.push(LeftOut::new(node.line, None, "users", Why::NotUnderstood));
            return None;
        }
    };
    let permissions = match map.find(&["permissions", "permission", "authorization"]) {
        Some(node) => permissions(&name, node, out),
        None if map.includes() => {
            out.push(elsewhere(node.line, &name));
            Permissions::nothing()
        }
        None => default.clone(),
    };
    Some(User {
        name,
        nkey,
        permissions,
        line: node.line,
    })
}

fn permissions(user: &str, node: &Node, out: &mut Vec<LeftOut>) -> Permissions {
    let Value::Map(map) = &node.value else {
        // What cannot be read grants nothing.
        out.push(LeftOut::new(
            node.line,
            Some(user),
            "permissions",
            Why::NotUnderstood,
        ));
        return Permissions::nothing();
    };
    if map.includes() {
        out.push(elsewhere(node.line, user));
    }
    let responses = map.find(&[
        "allow_responses",
        "publish_allow_responses",
        "allow_response",
    ]);
    let responds = responses.is_some_and(|node| match &node.value {
        Value::Word(word) => !["false", "no", "off"]
            .iter()
            .any(|no| word.eq_ignore_ascii_case(no)),
        Value::Map(_) => {
            out.push(LeftOut::new(
                node.line,
                Some(user),
                "allow_responses",
                Why::ResponseLimits,
            ));
            true
        }
        // What cannot be read lets nobody publish what it did not.
        _ => true,
    });
    let mut read = |names: &[&str]| match map.find(names) {
        Some(node) => side(user, node, out),
        None if map.includes() => Side::nothing(),
        None => Side::default(),
    };
    let mut publish = read(&["publish", "pub", "import"]);
    let subscribe = read(&["subscribe", "sub", "export"]);
    // A server that lets a user respond lets it publish nothing else unless told.
    if responds && publish.allow.is_none() {
        publish.allow = Some(Vec::new());
    }
    Permissions {
        publish,
        subscribe,
        responds,
    }
}

/// What a file that is included says of a user.
fn elsewhere(line: u32, user: &str) -> LeftOut {
    LeftOut::new(line, Some(user), "include", Why::Include)
}

impl Permissions {
    fn nothing() -> Self {
        Self {
            publish: Side::nothing(),
            subscribe: Side::nothing(),
            responds: false,
        }
    }
}

impl Side {
    fn nothing() -> Self {
        Self {
            allow: Some(Vec::new()),
            deny: Vec::new(),
        }
    }
}

fn side(user: &str, node: &Node, out: &mut Vec<LeftOut>) -> Side {
    match &node.value {
        // An included file may deny more.
        Value::Map(map) if map.includes() => {
            out.push(elsewhere(node.line, user));
            Side::nothing()
        }
        Value::Map(map) => {
            let allow = map.find(&["allow"]).map(|node| entries(user, node, out));
            let deny = map.find(&["deny"]).map(|node| entries(user, node, out));
            Side {
                // An empty list says everything, as nats-server reads it.
                allow: allow.filter(|list| !list.is_empty()),
                deny: deny.unwrap_or_default(),
            }
        }
        Value::Word(_) | Value::List(_) => Side {
            allow: Some(entries(user, node, out)).filter(|list| !list.is_empty()),
            deny: Vec::new(),
        },
        Value::Unknown(_) | Value::Include(_) => {
            out.push(LeftOut::new(
                node.line,
                Some(user),
                "permissions",
                Why::NotUnderstood,
            ));
            Side::nothing()
        }
    }
}

fn entries(user: &str, node: &Node, out: &mut Vec<LeftOut>) -> Vec<Entry> {
    let nodes = match &node.value {
        Value::List(list) => list.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let entry = |node: &Node| match &node.value {
        Value::Word(text) => Entry {
            line: node.line,
            text: text.clone(),
        },
        // It must stay an entry: a list that became empty would say everything.
        _ => {
            out.push(LeftOut::new(
                node.line,
                Some(user),
                "permissions",
                Why::NotUnderstood,
            ));
            Entry {
                line: node.line,
                text: String::new(),
            }
        }
    };
    nodes.iter().map(entry).collect()
}
