//! The Watch service: many watches on one stream.
//!
//! A session is one task's worth of state behind the answer stream, and reads requests and watches only
//! when the client takes answers. A client that does not read therefore holds cursors, not events.
//!
//! Progress by request must not overtake events. Every watch is opened with `progress`, so the engine
//! tells each how far it stands; a request is answered once all of the session's watches have told at
//! least the revision that the store had when it came.

use std::collections::{BTreeMap, VecDeque};

use futures::stream::{AbortHandle, Abortable, BoxStream, SelectAll};
use futures::{StreamExt as _, stream};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::Front;
use super::lease::stopped;
use crate::contract::{Error, Event, EventKind, Revision, Watch, WatchBatch};
use crate::wire::pb::watch_create_request::FilterType;
use crate::wire::pb::watch_request::RequestUnion;
use crate::wire::{self, mvccpb, pb, status};

/// Bytes of events after which a watch that allows it is told the rest in another message. etcd's
/// `--max-request-bytes`.
const FRAGMENT_BYTES: usize = 1_572_864;
/// The id in answers that are about no watch.
const NO_WATCH: i64 = -1;

#[tonic::async_trait]
impl pb::watch_server::Watch for Front {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let session = Session {
            front: self.clone(),
            requests: request.into_inner(),
            told: SelectAll::new(),
            open: BTreeMap::new(),
            next_id: 0,
            progress: None,
            answers: VecDeque::new(),
        };
        let answers = stream::try_unfold(session, |mut session| async {
            Ok(session.next().await?.map(|answer| (answer, session)))
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Something a watch told, with the watch's id; `None` is its end.
type Told = (i64, Option<Result<WatchBatch, Error>>);

struct Session {
    front: Front,
    requests: Streaming<pb::WatchRequest>,
    told: SelectAll<Abortable<BoxStream<'static, Told>>>,
    open: BTreeMap<i64, Open>,
    next_id: i64,
    /// The revision that every watch must have told before the client is.
    progress: Option<Revision>,
    /// What is due; a request or a batch makes a bounded number.
    answers: VecDeque<pb::WatchResponse>,
}

/// One watch.
struct Open {
    end: AbortHandle,
    /// Everything up to here has been told.
    told: Revision,
    notify: bool,
    fragment: bool,
    puts: bool,
    deletes: bool,
}

impl Open {
    fn wants(&self, event: &Event) -> bool {
        match event.kind {
            EventKind::Put => self.puts,
            EventKind::Delete => self.deletes,
        }
    }
}

impl Session {
    async fn next(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(Some(answer));
            }
            tokio::select! {
                () = self.front.stop.cancelled() => return Err(stopped()),
                request = self.requests.message() => match request? {
                    Some(request) => self.take(request).await.map_err(|error| status(&error))?,
                    None => return Ok(None),
                },
                Some((id, told)) = self.told.next(), if !self.told.is_empty() => self.tell(id, told),
            }
        }
    }

    async fn take(&mut self, request: pb::WatchRequest) -> Result<(), Error> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => {
                if let Some(open) = self.open.remove(&request.watch_id) {
                    open.end.abort();
                    let header = self.front.header_now().await?;
                    self.end(request.watch_id, header, Revision(0), "");
                    self.tell_progress();
                }
                Ok(())
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.progress = Some(self.front.store.status().await?.revision);
                self.tell_progress();
                if self.progress.is_some() {
                    self.front.store.progress().await?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> Result<(), Error> {
        let now = self.front.store.status().await?.revision;
        let header = self.front.header(now);
        let mut refuse = |reason: &str| {
            let cancel_reason = reason.to_owned();
            let watch_id = NO_WATCH;
            let refusal = pb::WatchResponse {
                header,
                watch_id,
                created: true,
                canceled: true,
                cancel_reason,
                ..Default::default()
            };
            self.answers.push_back(refusal);
            Ok(())
        };
        let id = match request.watch_id {
            0 => {
                while self.open.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id
            }
            taken if self.open.contains_key(&taken) => {
                return refuse("mvcc: duplicate watch ID provided on the WatchStream");
            }
            id => id,
        };
        // Unlike elsewhere, an empty key here means the least one.
        let key = if request.key.is_empty() { bytes::Bytes::from_static(b"\0") } else { request.key.clone() };
        let keys = wire::keys(&key, &request.range_end)?;
        let from = Some(Revision(request.start_revision)).filter(|from| from.0 > 0);
        let watch = Watch { keys, from, prev: request.prev_kv, progress: true };
        let watching = match self.front.store.watch(watch).await {
            Ok(watching) => watching,
            Err(error) => return refuse(&error.to_string()),
        };
        if request.watch_id == 0 {
            self.next_id += 1;
        }
        let told: BoxStream<'static, Told> =
            watching.map(move |told| (id, Some(told))).chain(stream::iter([(id, None)])).boxed();
        let (told, end) = stream::abortable(told);
        self.told.push(told);
        let without = |filter| !request.filters().any(|wanted| wanted == filter);
        let open = Open {
            end,
            told: from.map_or(now, |from| Revision(from.0 - 1)),
            notify: request.progress_notify,
            fragment: request.fragment,
            puts: without(FilterType::Noput),
            deletes: without(FilterType::Nodelete),
        };
        self.open.insert(id, open);
        self.answers.push_back(pb::WatchResponse {
            header,
            watch_id: id,
            created: true,
            ..Default::default()
        });
        Ok(())
    }

    fn tell(&mut self, id: i64, told: Option<Result<WatchBatch, Error>>) {
        let Some(open) = self.open.get_mut(&id) else { return };
        match told {
            Some(Ok(batch)) => {
                open.told = open.told.max(batch.revision);
                let header = self.front.header(batch.revision);
                let quiet = batch.events.is_empty();
                let events = batch.events.into_iter().filter(|event| open.wants(event));
                let events: Vec<_> = events.map(mvccpb::Event::from).collect();
                if !events.is_empty() || (quiet && open.notify) {
                    let most = if open.fragment { FRAGMENT_BYTES } else { usize::MAX };
                    self.answers.extend(messages(id, header, events, most));
                }
                self.tell_progress();
            }
            Some(Err(error)) => {
                self.open.remove(&id);
                let header = self.front.header(Revision(0));
                match error {
                    // The client knows by the revision why, and where it could start anew.
                    Error::Compacted { oldest, .. } => self.end(id, header, Revision(oldest.0.max(1)), ""),
                    error => self.end(id, header, Revision(0), &error.to_string()),
                }
            }
            None => {
                self.open.remove(&id);
                let header = self.front.header(Revision(0));
                self.end(id, header, Revision(0), "the watch ended");
            }
        }
    }

    fn end(&mut self, watch_id: i64, header: Option<pb::ResponseHeader>, compacted: Revision, reason: &str) {
        self.answers.push_back(pb::WatchResponse {
            header,
            watch_id,
            canceled: true,
            compact_revision: compacted.0,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        });
    }

    /// Answers the client's wish for progress if every watch has come that far.
    fn tell_progress(&mut self) {
        let Some(asked) = self.progress else { return };
        if self.open.values().all(|open| open.told >= asked) {
            self.progress = None;
            let header = self.front.header(asked);
            self.answers.push_back(pb::WatchResponse { header, watch_id: NO_WATCH, ..Default::default() });
        }
    }
}

/// One message, or several of about `most` bytes of which all but the last say that more follows.
fn messages(
    watch_id: i64,
    header: Option<pb::ResponseHeader>,
    events: Vec<mvccpb::Event>,
    most: usize,
) -> Vec<pb::WatchResponse> {
    let message = pb::WatchResponse { header, watch_id, ..Default::default() };
    let mut messages = vec![message.clone()];
    let mut bytes = 0;
    for event in events {
        let size = event.encoded_len();
        if bytes > 0 && bytes + size > most {
            messages.push(message.clone());
            bytes = 0;
        }
        bytes += size;
        if let Some(last) = messages.last_mut() {
            last.events.push(event);
        }
    }
    let fragments = messages.len() - 1;
    messages.iter_mut().take(fragments).for_each(|message| message.fragment = true);
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sizes: &[usize], most: usize, expected: &[(usize, bool)]) {
        let event = |size: &usize| mvccpb::Event {
            kv: Some(mvccpb::KeyValue { value: vec![0; *size].into(), ..Default::default() }),
            ..Default::default()
        };
        let messages = messages(1, None, sizes.iter().map(event).collect(), most);
        let shape: Vec<_> = messages.iter().map(|message| (message.events.len(), message.fragment)).collect();
        assert_eq!(shape, expected);
    }

    #[test]
    fn large_batches_are_cut_where_the_watch_allows_it() {
        check(&[], 100, &[(0, false)]);
        check(&[10, 10], 100, &[(2, false)]);
        check(&[60, 60, 60], 100, &[(1, true), (1, true), (1, false)]);
        check(&[500, 10], 100, &[(1, true), (1, false)]);
        check(&[500, 500], usize::MAX, &[(2, false)]);
    }
}
