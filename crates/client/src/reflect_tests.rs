//! The reflector against a server that says what a test wrote down.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use parking_lot::Mutex;

use super::*;
use crate::Informer;
use crate::informer::Decoding;

/// Answers the requests in turn with (status, body) and keeps their queries. Once the answers are used
/// up it hangs and says so.
async fn check(answers: Vec<(u16, String)>) -> (Vec<String>, Informer<ConfigMap>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let cancel = CancellationToken::new();
    let (log, done) = (asked.clone(), cancel.clone());
    let answers = Arc::new(Mutex::new(std::collections::VecDeque::from(answers)));
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answers.lock().pop_front();
        let (log, done) = (log.clone(), done.clone());
        async move {
            let Some((status, body)) = answer else {
                done.cancel();
                return std::future::pending().await;
            };
            let query = request.uri().query().unwrap_or_default();
            let shown = query.split('&').filter(|pair| {
                ["sendInitial", "limit", "continue", "resourceVersion="].iter().any(|p| pair.starts_with(p))
            });
            log.lock().push(shown.collect::<Vec<_>>().join("&"));
            let response = Response::builder().status(status).body(Body::from(body.into_bytes()));
            Ok::<_, Infallible>(response.expect("a response"))
        }
    });
    let informer = Informer::<ConfigMap>::default();
    let source = Source {
        client: Client::new(service, "default"),
        path: "/api/v1/configmaps".into(),
        selection: Selection::default(),
    };
    reflect(&Decoding(informer.clone()), source, cancel).await;
    let asked = asked.lock().clone();
    (asked, informer)
}

fn object(name: &str, version: u32) -> String {
    format!(
        r#"{{"metadata":{{"namespace":"ns","name":"{name}","uid":"{name}","resourceVersion":"{version}"}}}}"#
    )
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn bookmark(version: u32, ends: bool) -> String {
    let annotations = if ends { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    event("BOOKMARK", &format!(r#"{{"metadata":{{"resourceVersion":"{version}"{annotations}}}}}"#))
}

fn status(code: u16) -> String {
    format!(r#"{{"kind":"Status","status":"Failure","message":"no","reason":"x","code":{code}}}"#)
}

fn names(informer: &Informer<ConfigMap>) -> Vec<String> {
    let mut names: Vec<_> = informer.list().iter().map(|o| ObjectKey::of(&**o).name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_streamed_list_is_followed_from_its_bookmark_and_each_event() {
    let list = event("ADDED", &object("a", 3)) + &event("ADDED", &object("b", 4)) + &bookmark(9, true);
    let later = event("DELETED", &object("a", 11)) + &event("ADDED", &object("c", 12));
    // What a watch tells in its first bookmarks before the list's end is no place to go on from.
    let (asked, informer) = check(vec![(200, list), (200, later)]).await;
    assert_eq!(asked, ["sendInitialEvents=true&resourceVersion=", "resourceVersion=9"]);
    assert!(informer.has_synced());
    assert_eq!(names(&informer), ["b", "c"]);
}

#[tokio::test]
async fn what_is_not_in_a_new_list_is_gone() {
    let first = event("ADDED", &object("a", 3)) + &bookmark(9, true);
    let compacted = event("ERROR", &status(410));
    let second = event("ADDED", &object("b", 20)) + &bookmark(21, true);
    let (asked, informer) = check(vec![(200, first), (200, compacted), (200, second)]).await;
    assert_eq!(
        asked,
        [
            "sendInitialEvents=true&resourceVersion=",
            "resourceVersion=9",
            "sendInitialEvents=true&resourceVersion="
        ]
    );
    assert_eq!(names(&informer), ["b"]);
}

#[tokio::test]
async fn a_list_cut_off_is_no_list() {
    let cut = event("ADDED", &object("a", 3)) + r#"{"type":"ADDED","obj"#;
    let (_, informer) = check(vec![(200, cut)]).await;
    assert!(!informer.has_synced());
}

#[tokio::test]
async fn a_server_without_streamed_lists_is_asked_for_pages() {
    let page = |items: &str, rest: &str| {
        format!(r#"{{"metadata":{{"resourceVersion":"7"{rest}}},"items":[{items}]}}"#)
    };
    let answers = vec![
        (422, status(422)),
        (200, page(&object("a", 3), r#","continue":"t""#)),
        (500, status(500)),
        (200, page(&object("a", 3), r#","continue":"t""#)),
        (200, page(&object("b", 4), "")),
        (
            200,
            event("MODIFIED", "{\"metadata\":5}")
                + &event("MODIFIED", &object("b", 8))
                + &bookmark(10, false),
        ),
    ];
    let (asked, informer) = check(answers).await;
    assert_eq!(
        asked,
        [
            "sendInitialEvents=true&resourceVersion=",
            "limit=500",
            "limit=500&continue=t",
            "limit=500",
            "limit=500&continue=t",
            "resourceVersion=7"
        ]
    );
    assert_eq!(names(&informer), ["a", "b"]);
    assert_eq!(
        informer.list().iter().filter_map(|o| o.metadata.resource_version.clone()).max().as_deref(),
        Some("8")
    );
}
