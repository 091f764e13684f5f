//! nats-server's configuration format, as far as users and permissions need it.

/// The deepest that maps and lists may nest.
const MAX_DEPTH: usize = 64;

/// The most values that variables may stand for, all together: a variable of
/// variables could otherwise stand for more than there is memory.
const MAX_COPIED: usize = 200_000;

/// A text that is no configuration of nats-server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ConfigError {
    /// The line, counted from 1.
    pub line: u32,
    /// What is wrong there.
    pub message: &'static str,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A string, number or boolean: to us words.
    Word(String),
    List(Vec<Node>),
    Map(Map),
    /// `$NAME` that nothing above defines; nats-server asks its environment.
    Unknown(String),
    /// `include FILE`, which is not followed.
    Include(String),
}

/// Keys as they were written, in order. Of several the last holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Map(pub(super) Vec<(String, Node)>);

impl Map {
    /// Whether a file is included here, which may say more.
    pub(super) fn includes(&self) -> bool {
        let mut entries = self.0.iter();
        entries.any(|(_, node)| matches!(node.value, Value::Include(_)))
    }

    /// The value of the first of these spellings that is there, whatever its case.
    pub(super) fn find(&self, names: &[&str]) -> Option<&Node> {
        let named = |key: &str| names.iter().any(|name| key.eq_ignore_ascii_case(name));
        let mut entries = self.0.iter().rev();
        entries.find(|(key, _)| named(key)).map(|(_, node)| node)
    }
}

/// Reads a whole text.
pub(super) fn parse(text: &str) -> Result<Map, ConfigError> {
    let mut reader = Reader {
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        line: 1,
        scopes: Vec::new(),
        left: MAX_COPIED,
    };
    reader.gap();
    // The whole may stand in braces, as JSON does.
    if reader.take('{') {
        let map = reader.map(true, 1)?;
        reader.gap();
        return match reader.rest.is_empty() {
            true => Ok(map),
            false => Err(reader.error("something follows the closing brace")),
        };
    }
    reader.map(false, 0)
}

struct Reader<'t> {
    rest: &'t str,
    line: u32,
    /// What the maps around define, for `$NAME`.
    scopes: Vec<Vec<(String, Value)>>,
    /// How many more values variables may stand for.
    left: usize,
}

impl Value {
    /// How many values it is made of.
    fn count(&self) -> usize {
        match self {
            Self::Word(_) | Self::Unknown(_) | Self::Include(_) => 1,
            Self::List(list) => 1 + list.iter().map(|node| node.value.count()).sum::<usize>(),
            Self::Map(map) => 1 + map.0.iter().map(|(_, n)| n.value.count()).sum::<usize>(),
        }
    }
}

impl Reader<'_> {
    fn error(&self, message: &'static str) -> ConfigError {
        ConfigError {
            line: self.line,
            message,
        }
    }

    fn skip(&mut self, bytes: usize) {
        let (gone, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        let lines = gone.bytes().filter(|b| *b == b'\n').count();
        self.line = self
            .line
            .saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.rest = rest;
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_it = self.rest.starts_with(wanted);
        if is_it {
            self.skip(wanted.len_utf8());
        }
        is_it
    }

    /// Spaces, line ends, separators and comments.
    fn gap(&mut self) {
        loop {
            let spaces = self
                .rest
                .find(|c: char| !c.is_whitespace() && c != ',' && c != ';');
            self.skip(spaces.unwrap_or(self.rest.len()));
            if !self.rest.starts_with('#') && !self.rest.starts_with("//") {
                return;
            }
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.skip(end);
        }
    }

    /// Spaces on one line.
    fn space(&mut self) {
        let spaces = self.rest.find(|c: char| !matches!(c, ' ' | '\t' | '\r'));
        self.skip(spaces.unwrap_or(self.rest.len()));
    }

    /// The entries of a map, up to its `}` if it is `closed` by one.
    fn map(&mut self, closed: bool, depth: usize) -> Result<Map, ConfigError> {
        if depth > MAX_DEPTH {
            return Err(self.error("maps and lists nest too deep"));
        }
        let mut out = Map::default();
        self.scopes.push(Vec::new());
        loop {
            self.gap();
            if closed && self.take('}') {
                break;
            }
            if self.rest.is_empty() {
                if closed {
                    return Err(self.error("a `{` is never closed"));
                }
                break;
            }
            let key = self.key()?;
            self.space();
            let line = self.line;
            if key == "include" {
                let file = self.word()?;
                let value = Value::Include(file);
                out.0.push((key, Node { line, value }));
                continue;
            }
            if self.take('=') || self.take(':') {
                self.gap_before_value();
            }
            let node = self.value(depth)?;
            if let Some(scope) = self.scopes.last_mut() {
                scope.push((key.clone(), node.value.clone()));
            }
            out.0.push((key, node));
        }
        self.scopes.pop();
        Ok(out)
    }

    /// A value may begin on a later line than its key.
    fn gap_before_value(&mut self) {
        let spaces = self.rest.find(|c: char| !c.is_whitespace());
        self.skip(spaces.unwrap_or(self.rest.len()));
    }

    fn key(&mut self) -> Result<String, ConfigError> {
        if self.rest.starts_with(['"', '\'']) {
            return self.quoted();
        }
        let end = self
            .rest
            .find(|c: char| {
                c.is_whitespace() || matches!(c, '=' | ':' | '{' | '}' | '[' | ']' | ',')
            })
            .unwrap_or(self.rest.len());
        let key = self.rest.get(..end).unwrap_or_default().to_owned();
        if key.is_empty() {
            return Err(self.error("a key was expected here"));
        }
        self.skip(end);
        Ok(key)
    }

    fn value(&mut self, depth: usize) -> Result<Node, ConfigError> {
        let line = self.line;
        let value = if self.take('{') {
            Value::Map(self.map(true, depth + 1)?)
        } else if self.take('[') {
            Value::List(self.list(depth + 1)?)
        } else if self.rest.starts_with(['"', '\'']) {
            Value::Word(self.quoted()?)
        } else if self.rest.starts_with('$') {
            let word = self.word()?;
            // A hash of bcrypt begins so, too.
            match word
                .strip_prefix('$')
                .filter(|name| !name.starts_with("2a$"))
            {
                Some(name) => self.variable(name.to_owned())?,
                None => Value::Word(word),
            }
        } else {
            Value::Word(self.word()?)
        };
        Ok(Node { line, value })
    }

    fn variable(&mut self, name: String) -> Result<Value, ConfigError> {
        let mut scopes = self.scopes.iter().rev();
        let found = scopes.find_map(|scope| {
            let mut entries = scope.iter().rev();
            entries.find(|(key, _)| *key == name)
        });
        let Some((_, value)) = found else {
            return Ok(Value::Unknown(name));
        };
        match self.left.checked_sub(value.count()) {
            Some(left) => {
                let value = value.clone();
                self.left = left;
                Ok(value)
            }
            None => Err(self.error("variables of variables stand for too much")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, ConfigError> {
        if depth > MAX_DEPTH {
            return Err(self.error("maps and lists nest too deep"));
        }
        let mut out = Vec::new();
        loop {
            self.gap();
            if self.take(']') {
                return Ok(out);
            }
            if self.rest.is_empty() {
                return Err(self.error("a `[` is never closed"));
            }
            out.push(self.value(depth)?);
        }
    }

    fn quoted(&mut self) -> Result<String, ConfigError> {
        let quote = if self.rest.starts_with('"') {
            '"'
        } else {
            '\''
        };
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.skip(at + 1);
                    return Ok(out);
                }
                '\\' if quote == '"' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, 'r')) => out.push('\r'),
                    Some((_, c @ ('"' | '\\'))) => out.push(c),
                    _ => return Err(self.error("this escape is not known")),
                },
                c => out.push(c),
            }
        }
        Err(self.error("a quote is never closed"))
    }

    fn word(&mut self) -> Result<String, ConfigError> {
        self.space();
        if self.rest.starts_with(['"', '\'']) {
            return self.quoted();
        }
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '}' | ']' | '{' | '['))
            .unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.error("a value was expected here"));
        }
        let word = self.rest.get(..end).unwrap_or_default().to_owned();
        self.skip(end);
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Value {
        Value::Word(text.to_owned())
    }

    #[test]
    fn the_ways_of_writing_a_value() {
        let map = parse(
            "a = 1 # one\nb: \"x y\"; c { d: [e, 'f' // last\n g] }\nlisten 127.0.0.1:4222\n\"h\":\n  true\nu = nats://me:pw@host:1\n",
        )
        .unwrap();
        let get = |name: &str| map.find(&[name]).unwrap().value.clone();
        assert_eq!(get("a"), word("1"));
        assert_eq!(get("B"), word("x y"));
        assert_eq!(get("listen"), word("127.0.0.1:4222"));
        assert_eq!(get("h"), word("true"));
        assert_eq!(get("u"), word("nats://me:pw@host:1"));
        let Value::Map(inner) = get("c") else {
            panic!()
        };
        let Value::List(list) = &inner.find(&["d"]).unwrap().value else {
            panic!()
        };
        assert_eq!(list.len(), 3);
        assert_eq!((list[2].line, &list[2].value), (3, &word("g")));
        assert!(parse("{ \"a\": 1 }").unwrap().find(&["a"]).is_some());
    }

    #[test]
    fn variables_are_what_stands_above_them() {
        let map = parse("p = x\nq { p = y\n r = $p }\ns = $p\nt = $nowhere").unwrap();
        let Value::Map(q) = &map.find(&["q"]).unwrap().value else {
            panic!()
        };
        assert_eq!(q.find(&["r"]).unwrap().value, word("y"));
        assert_eq!(map.find(&["s"]).unwrap().value, word("x"));
        let hash = "password: $2a$11$W2zko751KUvVy59mUTWmpOdWjpEm5qhcCZRd05GjI/sSOT.xtiHyG";
        let map_of_hash = parse(hash).unwrap();
        let Value::Word(found) = &map_of_hash.find(&["password"]).unwrap().value else {
            panic!()
        };
        assert!(found.starts_with("$2a$11$W2"));
        let system = parse("publish = $SYS.>").unwrap();
        let system = &system.find(&["publish"]).unwrap().value;
        assert_eq!(*system, Value::Unknown("SYS.>".to_owned()));
        let unknown = Value::Unknown("nowhere".to_owned());
        assert_eq!(map.find(&["t"]).unwrap().value, unknown);
    }

    #[test]
    fn variables_of_variables_are_bounded() {
        let mut text = "a0 = [x, x]\n".to_owned();
        for i in 1..60 {
            text.push_str(&format!("a{i} = [$a{0}, $a{0}]\n", i - 1));
        }
        let error = parse(&text).unwrap_err();
        assert_eq!(error.message, "variables of variables stand for too much");
    }

    #[test]
    fn what_is_not_closed_says_where() {
        for (text, line) in [
            ("a {\n b = 1\n", 3),
            ("a = [1,\n2", 2),
            ("a = \"x", 1),
            ("\n\na = ", 3),
            ("}", 1),
            ("a = \"\\q\"", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text:?}");
        }
        let deep = "a".to_owned() + &"[".repeat(100_000);
        assert_eq!(
            parse(&deep).unwrap_err().message,
            "maps and lists nest too deep"
        );
    }
}
