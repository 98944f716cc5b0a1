//! The registry answers as the distribution specification says, to whom it should.

#![allow(clippy::unwrap_used, reason = "a test program")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use testkit::{Access, Registry, images};
use tokio::net::TcpStream;

async fn get(registry: &Registry, path: &str, authorization: Option<&str>) -> (StatusCode, String, Bytes) {
    let stream = TcpStream::connect(registry.host()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut request = Request::get(path).header("Host", registry.host());
    if let Some(value) = authorization {
        request = request.header("Authorization", value);
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let status = response.status();
    let challenge = response.headers().get("www-authenticate").map(|v| v.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    drop(sender);
    driver.await.unwrap().unwrap();
    (status, challenge.unwrap_or_default(), body)
}

fn credentials(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

#[tokio::test]
async fn an_image_can_be_walked_from_its_tag() {
    let image = images::busybox().unwrap();
    let registry = Registry::start(&[image], Access::Anyone).await.unwrap();
    let (status, _, body) = get(&registry, "/v2/library/busybox/manifests/1.35", None).await;
    assert_eq!(status, 200);
    let manifest: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let (status, _, blob) = get(&registry, &format!("/v2/library/busybox/blobs/{layer}"), None).await;
    assert_eq!((status.as_u16(), blob.len() as u64), (200, manifest["layers"][0]["size"].as_u64().unwrap()));
    assert_eq!(get(&registry, "/v2/library/busybox/manifests/2", None).await.0, 404);
    assert_eq!(registry.requests().len(), 3);
}

#[tokio::test]
async fn a_password_is_asked_for() {
    let access = Access::Basic { user: "u".into(), password: "p".into() };
    let registry = Registry::start(&[], access).await.unwrap();
    let (status, challenge, _) = get(&registry, "/v2/", None).await;
    assert_eq!((status.as_u16(), challenge.as_str()), (401, r#"Basic realm="testkit""#));
    assert_eq!(get(&registry, "/v2/", Some(&credentials("u:x"))).await.0, 401);
    assert_eq!(get(&registry, "/v2/", Some(&credentials("u:p"))).await.0, 200);
}

#[tokio::test]
async fn a_token_is_handed_out_for_a_password() {
    let access = Access::Bearer { user: "u".into(), password: "p".into() };
    let registry = Registry::start(&[], access).await.unwrap();
    let (status, challenge, _) = get(&registry, "/v2/", Some(&credentials("u:p"))).await;
    assert_eq!(status, 401);
    assert!(challenge.starts_with("Bearer realm=\"http://127.0.0.1:"), "{challenge}");
    assert_eq!(get(&registry, "/token", None).await.0, 401);
    let (_, _, body) = get(&registry, "/token?service=testkit", Some(&credentials("u:p"))).await;
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let bearer = format!("Bearer {}", answer["token"].as_str().unwrap());
    assert_eq!(get(&registry, "/v2/", Some(&bearer)).await.0, 200);
}
