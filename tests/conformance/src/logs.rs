//! Looks for secrets in everything that is logged.

use std::{
    fmt,
    sync::{Mutex, Once, PoisonError, Weak},
};

use tracing::{Event, Subscriber, field, span};
use tracing_subscriber::{Layer, Registry, layer::Context, prelude::*};

use crate::witness::Leaks;

/// Whoever looks for secrets. Threads that log belong to no suite, so each looks at all lines.
static WATCHING: Mutex<Vec<Weak<Leaks>>> = Mutex::new(Vec::new());

/// Looks at whatever is logged from here on.
pub(crate) fn watch(leaks: Weak<Leaks>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Where a test has a subscriber of its own, that one stays, and logs are not watched.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(Watcher));
    });
    let mut watching = WATCHING.lock().unwrap_or_else(PoisonError::into_inner);
    watching.retain(|leaks| leaks.strong_count() > 0);
    watching.push(leaks);
}

struct Watcher;

impl Watcher {
    fn look(target: &str, text: &str) {
        let watching = WATCHING.lock().unwrap_or_else(PoisonError::into_inner);
        for leaks in watching.iter().filter_map(Weak::upgrade) {
            leaks.look(&format!("a log line of {target}"), text);
        }
    }
}

impl<S: Subscriber> Layer<S> for Watcher {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        let mut text = Text::default();
        attributes.record(&mut text);
        Self::look(attributes.metadata().target(), &text.0);
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        Self::look(event.metadata().target(), &text.0);
    }
}

#[derive(Default)]
struct Text(String);

impl field::Visit for Text {
    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{field}={value:?} ");
    }
}
