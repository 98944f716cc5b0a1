//! What has become of containers: as the runtime pushes it, or as its lists tell.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::Code;

use super::Remote;
use super::fault::About;
use crate::{Error, Event, EventKind, EventStream, Result, Runtime, v1};

/// How often the lists are compared where the runtime pushes nothing: upstream's period.
const PERIOD: Duration = Duration::from_secs(1);

/// State by identifier, with the sandbox each belongs to.
type Seen = HashMap<String, (String, EventKind)>;

impl Remote {
    pub(super) async fn open_events(&self) -> Result<EventStream> {
        let asked = self.runtime().get_container_events(v1::GetEventsRequest {}).await;
        match asked {
            Ok(answer) => {
                let pushed = answer.into_inner();
                let ended = |status: tonic::Status| tracing::warn!(%status, "no more container events");
                let events = stream::unfold(pushed, move |mut pushed| async move {
                    match pushed.message().await {
                        Ok(Some(event)) => Some((translate(event), pushed)),
                        Ok(None) => None,
                        Err(status) => {
                            ended(status);
                            None
                        }
                    }
                });
                Ok(Box::pin(events))
            }
            Err(status) if status.code() == Code::Unimplemented => Ok(self.compared().await?),
            Err(status) => Err(About::Runtime.fault(status)),
        }
    }

    /// The changes between one look at the lists and the next.
    async fn compared(&self) -> Result<EventStream> {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let start = (self.clone(), ticks, self.look().await?);
        let batches = stream::unfold(start, |(remote, ticks, seen)| remote.next_batch(ticks, seen));
        Ok(Box::pin(batches.map(stream::iter).flatten()))
    }

    async fn next_batch(
        self,
        mut ticks: Interval,
        seen: Seen,
    ) -> Option<(Vec<Event>, (Self, Interval, Seen))> {
        ticks.tick().await;
        match self.look().await {
            Ok(now) => {
                let events = difference(&seen, &now);
                Some((events, (self, ticks, now)))
            }
            // It is away, and with it the stream; who asks again finds it when it is back.
            Err(Error::Unavailable { .. }) => None,
            Err(error) => {
                tracing::warn!(%error, "the runtime does not list its containers");
                Some((Vec::new(), (self, ticks, seen)))
            }
        }
    }

    async fn look(&self) -> Result<Seen> {
        let mut seen = Seen::new();
        for sandbox in self.list_pod_sandboxes(v1::PodSandboxFilter::default()).await? {
            let kind = match sandbox.state() {
                v1::PodSandboxState::SandboxReady => EventKind::Started,
                v1::PodSandboxState::SandboxNotready => EventKind::Stopped,
            };
            seen.insert(sandbox.id.clone(), (sandbox.id, kind));
        }
        for container in self.list_containers(v1::ContainerFilter::default()).await? {
            let kind = match container.state() {
                v1::ContainerState::ContainerCreated => EventKind::Created,
                v1::ContainerState::ContainerRunning => EventKind::Started,
                _ => EventKind::Stopped,
            };
            seen.insert(container.id, (container.pod_sandbox_id, kind));
        }
        Ok(seen)
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// What has to have happened between two looks.
fn difference(before: &Seen, after: &Seen) -> Vec<Event> {
    let event = |container: &String, sandbox: &String, kind| Event::Container {
        sandbox: sandbox.clone(),
        container: container.clone(),
        kind,
        at: now(),
    };
    let changed = after.iter().filter(|(id, state)| before.get(*id) != Some(state));
    let gone = before.iter().filter(|(id, _)| !after.contains_key(*id));
    let changed = changed.map(|(id, (sandbox, kind))| event(id, sandbox, *kind));
    changed.chain(gone.map(|(id, (sandbox, _))| event(id, sandbox, EventKind::Deleted))).collect()
}

fn translate(event: v1::ContainerEventResponse) -> Event {
    let kind = match event.container_event_type() {
        v1::ContainerEventType::ContainerCreatedEvent => EventKind::Created,
        v1::ContainerEventType::ContainerStartedEvent => EventKind::Started,
        v1::ContainerEventType::ContainerStoppedEvent => EventKind::Stopped,
        v1::ContainerEventType::ContainerDeletedEvent => EventKind::Deleted,
    };
    let sandbox = event.pod_sandbox_status.map(|status| status.id).unwrap_or_default();
    Event::Container { sandbox, container: event.container_id, kind, at: event.created_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &[(&str, EventKind)], after: &[(&str, EventKind)], want: &[(&str, EventKind)]) {
        let seen = |list: &[(&str, EventKind)]| -> Seen {
            list.iter().map(|(id, kind)| ((*id).to_owned(), ("s".to_owned(), *kind))).collect()
        };
        let mut got: Vec<_> = difference(&seen(before), &seen(after))
            .into_iter()
            .map(|event| match event {
                Event::Container { container, kind, .. } => (container, kind),
                Event::Resync => panic!("nothing was missed"),
            })
            .collect();
        got.sort_by(|a, b| a.0.cmp(&b.0));
        let want: Vec<_> = want.iter().map(|(id, kind)| ((*id).to_owned(), *kind)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn lists_tell_what_happened() {
        use EventKind::{Created, Deleted, Started, Stopped};
        check(&[], &[("a", Created)], &[("a", Created)]);
        check(&[("a", Created), ("b", Started)], &[("a", Started), ("b", Started)], &[("a", Started)]);
        check(&[("a", Started), ("b", Started)], &[("a", Stopped)], &[("a", Stopped), ("b", Deleted)]);
    }
}
