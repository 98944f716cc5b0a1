//! Events: what a component tells about an object, correlated as client-go does, so that a loop that
//! fails again and again makes one event with a count.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::write;

/// Events that wait to be sent; more are dropped, as client-go's broadcaster does.
const WAITING: usize = 1000;
/// Events remembered for their counts.
const REMEMBERED: usize = 4096;
/// Different messages of one reason on one object before they are told as one.
const DISTINCT_MESSAGES: usize = 10;
/// How long different messages are held together.
const SIMILAR_SECONDS: i64 = 600;
/// Events on one object that may be told at once, and how long one more takes to be earned.
const BURST: f64 = 25.0;
const SECONDS_PER_EVENT: f64 = 300.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Who reports, and in which of the two forms there are.
#[derive(Clone, Debug)]
pub struct Source {
    /// The component, such as `deployment-controller`.
    pub component: String,
    /// The node, for a component of a node; the instance for events of the newer form.
    pub host: String,
    /// Whether events take the form of events.k8s.io (`reportingComponent`, `eventTime`, `action`),
    /// as the scheduler's do, rather than `source`, `firstTimestamp` and `count`.
    pub series: bool,
}

/// What is told.
#[derive(Clone, Debug)]
pub struct Occurrence {
    pub about: ObjectReference,
    pub severity: Severity,
    pub reason: String,
    pub message: String,
    /// What was being done; only in events of the newer form.
    pub action: Option<String>,
}

/// Takes events and sends them when there is time. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Occurrence>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// A recorder that reports as `source`, and the loop that sends what it takes, for the caller's
    /// task tracker. The loop ends with `cancel`.
    pub fn new(
        client: Client,
        source: Source,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let recorder = Self { sender, dropped: Arc::default() };
        (recorder, send_all(client, source, receiver, cancel))
    }

    /// Tells of a thing that happened to `object`.
    pub fn event<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(Occurrence {
            about: reference(object),
            severity,
            reason: reason.into(),
            message: message.into(),
            action: None,
        });
    }

    pub fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(object, Severity::Normal, reason, message);
    }

    pub fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(object, Severity::Warning, reason, message);
    }

    /// Takes one event, or drops it when too many wait already.
    pub fn record(&self, occurrence: Occurrence) {
        if let Err(error) = self.sender.try_send(occurrence) {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(%error, dropped, "event dropped");
        }
    }

    /// Events dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A reference to an object as events and owner-less references carry it.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

async fn send_all(
    client: Client,
    source: Source,
    mut receiver: mpsc::Receiver<Occurrence>,
    cancel: CancellationToken,
) {
    let mut correlator = Correlator::new(source);
    loop {
        let occurrence = tokio::select! {
            occurrence = receiver.recv() => occurrence,
            () = cancel.cancelled() => None,
        };
        let Some(occurrence) = occurrence else { return };
        let Some(plan) = correlator.correlate(occurrence, Timestamp::now()) else { continue };
        let slot = plan.slot.clone();
        tokio::select! {
            sent = send(&client, plan) => match sent {
                Ok(name) => correlator.sent(&slot, name),
                Err(error) => tracing::debug!(%error, "event not sent"),
            },
            () = cancel.cancelled() => return,
        }
    }
}

/// Sends an event and returns its name.
async fn send(client: &Client, plan: Plan) -> kube::Result<String> {
    let namespace = plan.event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Some(name) = &plan.earlier {
        let patch = serde_json::json!({
            "count": plan.event.count, "lastTimestamp": plan.event.last_timestamp,
            "message": plan.event.message, "series": plan.event.series,
        });
        let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        // An event lives for an hour: one that is gone starts anew.
        if write::found(patched)?.is_some() {
            return Ok(name.clone());
        }
    }
    let made = api.create(&PostParams::default(), &plan.event).await?;
    Ok(made.metadata.name.unwrap_or_default())
}

/// What makes two occurrences the same event.
type Slot = (String, String, String, &'static str, String, String);

/// An event to be sent: made anew, or counted up under its earlier name.
#[derive(Debug)]
struct Plan {
    slot: Slot,
    earlier: Option<String>,
    event: Event,
}

struct Seen {
    name: Option<String>,
    count: i32,
    first: Timestamp,
}

#[derive(Default)]
struct Similar {
    messages: std::collections::HashSet<String>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    last: Timestamp,
}

/// Decides what becomes of each occurrence: nothing, a new event, or one more of an earlier one.
struct Correlator {
    source: Source,
    seen: HashMap<Slot, Seen>,
    similar: HashMap<Slot, Similar>,
    buckets: HashMap<(String, String, String), Bucket>,
}

impl Correlator {
    fn new(source: Source) -> Self {
        Self { source, seen: HashMap::new(), similar: HashMap::new(), buckets: HashMap::new() }
    }

    fn correlate(&mut self, occurrence: Occurrence, now: Timestamp) -> Option<Plan> {
        self.forget_when_full();
        let about = &occurrence.about;
        let object = (
            about.kind.clone().unwrap_or_default(),
            about.namespace.clone().unwrap_or_default(),
            about.uid.clone().or_else(|| about.name.clone()).unwrap_or_default(),
        );
        let severity = occurrence.severity.as_str();
        let (kind, namespace, id) = object.clone();
        let group: Slot = (
            kind.clone(),
            namespace.clone(),
            id.clone(),
            severity,
            occurrence.reason.clone(),
            about.field_path.clone().unwrap_or_default(),
        );
        let similar = self.similar.entry(group.clone()).or_default();
        if seconds(now, similar.last) > SIMILAR_SECONDS as f64 {
            similar.messages.clear();
        }
        similar.last = now;
        let mut message = occurrence.message;
        let mut slot = group;
        if similar.messages.len() >= DISTINCT_MESSAGES && !similar.messages.contains(&message) {
            message = format!("(combined from similar events): {message}");
        } else {
            similar.messages.insert(message.clone());
            slot.5.push('\n');
            slot.5.push_str(&message);
        }
        let bucket = self.buckets.entry(object).or_insert(Bucket { tokens: BURST, last: now });
        bucket.tokens = (bucket.tokens + seconds(now, bucket.last) / SECONDS_PER_EVENT).min(BURST);
        bucket.last = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;

        let seen = self.seen.entry(slot.clone()).or_insert(Seen { name: None, count: 0, first: now });
        seen.count += 1;
        let mut event = Event {
            involved_object: occurrence.about,
            reason: Some(occurrence.reason),
            message: Some(message),
            type_: Some(severity.into()),
            ..Event::default()
        };
        stamp(&mut event, &self.source, seen, occurrence.action, now);
        Some(Plan { slot, earlier: seen.name.clone(), event })
    }

    fn sent(&mut self, slot: &Slot, name: String) {
        if let Some(seen) = self.seen.get_mut(slot) {
            seen.name = Some(name);
        }
    }

    /// Counts are a convenience: rather than grow, start over.
    fn forget_when_full(&mut self) {
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        if self.similar.len() >= REMEMBERED {
            self.similar.clear();
        }
        if self.buckets.len() >= REMEMBERED {
            self.buckets.clear();
        }
    }
}

fn seconds(now: Timestamp, before: Timestamp) -> f64 {
    now.duration_since(before).as_secs_f64()
}

/// Fills in who and when.
fn stamp(event: &mut Event, source: &Source, seen: &Seen, action: Option<String>, now: Timestamp) {
    let about = &event.involved_object;
    let namespace = about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
    let name = format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
    event.metadata = ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() };
    event.reporting_component = Some(source.component.clone());
    if source.series {
        event.reporting_instance = Some(source.host.clone());
        event.event_time = Some(MicroTime(seen.first));
        event.action = Some(action.unwrap_or_else(|| event.reason.clone().unwrap_or_default()));
        event.source = Some(EventSource::default());
        if seen.count > 1 {
            event.series = Some(k8s_openapi::api::core::v1::EventSeries {
                count: Some(seen.count),
                last_observed_time: Some(MicroTime(now)),
            });
        }
        return;
    }
    event.reporting_instance = Some(source.host.clone());
    let host = Some(source.host.clone()).filter(|host| !host.is_empty());
    event.source = Some(EventSource { component: Some(source.component.clone()), host });
    event.first_timestamp = Some(Time(seen.first));
    event.last_timestamp = Some(Time(now));
    event.count = Some(seen.count);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str) -> Occurrence {
        Occurrence {
            about: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("ns".into()),
                name: Some("p".into()),
                uid: Some("u".into()),
                ..Default::default()
            },
            severity: Severity::Warning,
            reason: "Failed".into(),
            message: message.into(),
            action: None,
        }
    }

    fn correlator() -> Correlator {
        Correlator::new(Source { component: "kubelet".into(), host: "n1".into(), series: false })
    }

    #[test]
    fn the_same_again_is_counted_up() {
        let mut correlator = correlator();
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let first = correlator.correlate(occurrence("no"), start).unwrap();
        assert_eq!((first.earlier.as_deref(), first.event.count), (None, Some(1)));
        correlator.sent(&first.slot, "p.1".into());
        let later = start + jiff::SignedDuration::from_secs(60);
        let second = correlator.correlate(occurrence("no"), later).unwrap();
        assert_eq!((second.earlier.as_deref(), second.event.count), (Some("p.1"), Some(2)));
        assert_eq!(second.event.first_timestamp, Some(Time(start)));
        assert_eq!(second.event.last_timestamp, Some(Time(later)));
    }

    #[test]
    fn many_different_messages_become_one_event() {
        let mut correlator = correlator();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let messages: Vec<String> = (0..12)
            .map(|n| correlator.correlate(occurrence(&format!("m{n}")), now).unwrap())
            .map(|plan| plan.event.message.unwrap())
            .collect();
        assert_eq!(messages[9], "m9");
        assert_eq!(messages[11], "(combined from similar events): m11");
    }

    #[test]
    fn an_object_may_not_flood() {
        let mut correlator = correlator();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let told = (0..40).filter(|_| correlator.correlate(occurrence("no"), now).is_some()).count();
        assert_eq!(told, 25);
        let later = now + jiff::SignedDuration::from_secs(301);
        assert!(correlator.correlate(occurrence("no"), later).is_some());
        assert!(correlator.correlate(occurrence("no"), later).is_none());
    }
}
