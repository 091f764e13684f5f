//! What this process writes to its log, kept for a test to look at.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// The fields of one event, its level among them.
pub type Fields = BTreeMap<String, String>;

static EVENTS: Mutex<Vec<(String, Fields)>> = Mutex::new(Vec::new());
static LISTENING: Once = Once::new();

/// Keeps every event of Bulla's from now on. Tests of one program share them.
pub fn listen() {
    LISTENING.call_once(|| {
        let all = tracing_subscriber::registry().with(Record);
        tracing::subscriber::set_global_default(all).expect("the only subscriber");
    });
}

/// The events of a target whose field has this value.
#[must_use]
pub fn events(target: &str, field: &str, value: &str) -> Vec<Fields> {
    let events = EVENTS.lock().expect("a sound lock");
    events
        .iter()
        .filter(|(of, fields)| of == target && fields.get(field).is_some_and(|v| v == value))
        .map(|(_, fields)| fields.clone())
        .collect()
}

struct Record;

impl<S: tracing::Subscriber> Layer<S> for Record {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        if !target.starts_with("bulla") {
            return;
        }
        let mut read = Read(Fields::new());
        event.record(&mut read);
        let level = event.metadata().level().to_string();
        read.0.insert("level".into(), level);
        let mut events = EVENTS.lock().expect("a sound lock");
        events.push((target.to_owned(), read.0));
    }
}

struct Read(Fields);

impl Visit for Read {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }
}
