//! The attributes of CloudEvents, as headers of messages hold them.

use std::collections::BTreeMap;
use std::fmt;

/// What every attribute's header begins with.
const PREFIX: &str = "ce-";
/// The version of the specification that is written, and all that is read.
const VERSION: &str = "1.0";

/// The attributes of a CloudEvent. Its data and their content type are the message's.
#[derive(Clone, PartialEq, Eq)]
pub struct CloudEvent {
    id: String,
    source: String,
    kind: String,
    /// Optional ones and extensions, by name.
    others: BTreeMap<String, String>,
}

/// Shows what every event has, and of the rest the names.
impl fmt::Debug for CloudEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudEvent")
            .field("id", &self.id)
            .field("source", &self.source)
            .field("kind", &self.kind)
            .field("others", &self.others.keys())
            .finish()
    }
}

/// Why a message or an attribute is no CloudEvent's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloudEventError {
    /// An attribute that every event has is missing or empty.
    #[error("the attribute `{name}` is missing or empty")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// A version of the specification that is not known here.
    #[error("the event is of the version `{version}` of CloudEvents, and only 1.0 is known")]
    Version {
        /// Which.
        version: String,
    },
    /// A name that is none of an attribute: lowercase letters and digits.
    #[error("`{name}` is no name of an attribute: lowercase letters and digits, 1 to 20")]
    Name {
        /// What was given.
        name: String,
    },
    /// A value that cannot stand in a header, or stands there twice.
    #[error("the attribute `{name}` has no value that a header can hold")]
    Value {
        /// Of which attribute.
        name: String,
    },
}

impl CloudEvent {
    /// An event with the three attributes that each has: an id that is unique for its
    /// source, the source (a URI reference), and a type that names what happened.
    ///
    /// # Errors
    /// [`CloudEventError::Missing`] if one is empty, [`CloudEventError::Value`] if it
    /// holds control characters.
    pub fn new(
        id: impl Into<String>,
        source: impl Into<String>,
        kind: impl Into<String>,
    ) -> Result<Self, CloudEventError> {
        let required = |name, value: String| {
            if value.is_empty() {
                return Err(CloudEventError::Missing { name });
            }
            check_value(name, &value)?;
            Ok(value)
        };
        Ok(Self {
            id: required("id", id.into())?,
            source: required("source", source.into())?,
            kind: required("type", kind.into())?,
            others: BTreeMap::new(),
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it says that it comes from. Not proven: see
    /// [`Message::sender`](crate::Message::sender).
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What happened, the attribute `type`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// An optional attribute or an extension by its name, such as `time`, `subject`,
    /// `dataschema` or `partitionkey`.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.others.get(name).map(String::as_str)
    }

    /// Sets the attribute `subject`: what in the source the event is about.
    ///
    /// # Errors
    /// As [`CloudEvent::with`].
    pub fn subject(self, subject: impl Into<String>) -> Result<Self, CloudEventError> {
        self.with("subject", subject)
    }

    /// Sets the attribute `time`, as RFC 3339 writes it.
    ///
    /// # Errors
    /// As [`CloudEvent::with`].
    pub fn time(self, time: impl Into<String>) -> Result<Self, CloudEventError> {
        self.with("time", time)
    }

    /// Sets an optional attribute or an extension.
    ///
    /// # Errors
    /// [`CloudEventError::Name`] if it is none or one of the required ones,
    /// [`CloudEventError::Value`] if the value is empty or holds control characters.
    pub fn with(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, CloudEventError> {
        let (name, value) = (name.into(), value.into());
        let is_taken = ["id", "source", "type", "specversion", "datacontenttype"];
        if is_taken.contains(&name.as_str()) || !is_name(&name) {
            return Err(CloudEventError::Name { name });
        }
        if value.is_empty() {
            return Err(CloudEventError::Value { name });
        }
        check_value(&name, &value)?;
        self.others.insert(name, value);
        Ok(self)
    }

    /// The headers that carry it.
    pub(super) fn headers(&self) -> impl Iterator<Item = (String, &str)> {
        let required = [
            ("specversion", VERSION),
            ("id", self.id.as_str()),
            ("source", self.source.as_str()),
            ("type", self.kind.as_str()),
        ];
        let others = self.others.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        required
            .into_iter()
            .chain(others)
            .map(|(name, value)| (format!("{PREFIX}{name}"), value))
    }

    /// Reads it from headers; none if they hold no `ce-specversion`.
    pub(super) fn of_headers<'h>(
        headers: impl Iterator<Item = (&'h str, &'h str)>,
    ) -> Result<Option<Self>, CloudEventError> {
        let mut attributes = BTreeMap::new();
        for (name, value) in headers {
            let Some(name) = name.strip_prefix(PREFIX) else {
                continue;
            };
            if !is_name(name) {
                return Err(CloudEventError::Name { name: name.into() });
            }
            if attributes.insert(name, value).is_some() {
                return Err(CloudEventError::Value { name: name.into() });
            }
        }
        let Some(version) = attributes.remove("specversion") else {
            return Ok(None);
        };
        if version != VERSION {
            return Err(CloudEventError::Version {
                version: version.to_owned(),
            });
        }
        let mut required = |name| {
            attributes
                .remove(name)
                .ok_or(CloudEventError::Missing { name })
        };
        let event = Self::new(required("id")?, required("source")?, required("type")?)?;
        attributes
            .into_iter()
            .try_fold(event, |event, (name, value)| event.with(name, value))
            .map(Some)
    }
}

/// [CloudEvents 1.0.2 §3.1.1], with the length that it recommends.
fn is_name(name: &str) -> bool {
    (1..=20).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn check_value(name: &str, value: &str) -> Result<(), CloudEventError> {
    if value.chars().any(char::is_control) {
        return Err(CloudEventError::Value { name: name.into() });
    }
    Ok(())
}
