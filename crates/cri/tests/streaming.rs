//! The streaming protocols, end to end over an in-memory connection, as clients speak them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use cri::streaming::{
    CommandOptions, Purpose, negotiate, serve_command, serve_port_forward,
    spdy::{Role, Stream, session},
};
use cri::{ByteStream, Error, Streams};
use futures::{FutureExt, SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol};

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())
    };
    pairs.iter().map(pair).collect()
}

fn spdy_headers(protocol: &str) -> HeaderMap {
    headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocol)])
}

fn websocket_headers(protocol: &str) -> HeaderMap {
    headers(&[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", protocol),
    ])
}

/// A process that writes back what it reads in capitals, then ends with `code`; a wide terminal adds one.
fn shouter(code: i32) -> Streams {
    let (stdin, mut process_in) = duplex(64);
    let (mut process_out, stdout) = duplex(64);
    let (mut process_err, stderr) = duplex(64);
    let (resize, mut sizes) = tokio::sync::mpsc::channel(4);
    let exit = async move {
        let mut text = String::new();
        process_in.read_to_string(&mut text).await.unwrap();
        process_out.write_all(text.to_uppercase().as_bytes()).await.unwrap();
        // With a terminal nobody reads it.
        let _ = process_err.write_all(b"done").await;
        let wide = sizes.try_recv().is_ok_and(|size: cri::TerminalSize| size.width > 80);
        Ok(code + i32::from(wide))
    };
    Streams {
        stdin: Some(Box::pin(stdin)),
        stdout: Some(Box::pin(stdout)),
        stderr: Some(Box::pin(stderr)),
        resize: Some(resize),
        exit: exit.boxed(),
    }
}

const ALL: CommandOptions = CommandOptions { stdin: true, stdout: true, stderr: true, tty: false };

fn serve(protocol: HeaderMap, options: CommandOptions, code: i32) -> DuplexStream {
    let (client, server) = duplex(256);
    let accepted = negotiate(&protocol, Purpose::Command).unwrap();
    tokio::spawn(async move {
        serve_command(server, &accepted, options, async move {
            if code < 0 { Err(Error::not_found("container", "gone")) } else { Ok(shouter(code)) }
        })
        .await
        .unwrap();
    });
    client
}

async fn text(mut stream: Stream) -> String {
    let mut text = String::new();
    stream.reader.read_to_string(&mut text).await.unwrap();
    text
}

/// Runs a command over SPDY; returns its output, its error output and what the error stream tells.
async fn over_spdy(protocol: &str, code: i32, input: &str) -> (String, String, String) {
    let (session, driver) = session(serve(spdy_headers(protocol), ALL, code), Role::Client);
    let opener = session.opener();
    let client = async {
        let error = opener.open(&[("streamType", "error")]).await.unwrap();
        let mut stdin = opener.open(&[("streamType", "stdin")]).await.unwrap();
        let stdout = opener.open(&[("streamType", "stdout")]).await.unwrap();
        let stderr = opener.open(&[("streamType", "stderr")]).await.unwrap();
        let write = async {
            // A command that cannot be run reads nothing.
            let _ = stdin.writer.write_all(input.as_bytes()).await;
            let _ = stdin.writer.shutdown().await;
        };
        let (stdout, stderr, error, ()) = tokio::join!(text(stdout), text(stderr), text(error), write);
        (stdout, stderr, error)
    };
    let (result, driven) = tokio::join!(client, driver.run(std::future::pending()));
    driven.unwrap();
    result
}

#[tokio::test]
async fn a_command_over_spdy_tells_its_exit_code() {
    let input = "hello ".repeat(20_000);
    let (out, err, error) = over_spdy("v4.channel.k8s.io", 0, &input).await;
    assert_eq!(out, input.to_uppercase());
    assert_eq!(err, "done");
    assert_eq!(error, r#"{"metadata":{},"status":"Success"}"#);
    let (_, _, error) = over_spdy("v4.channel.k8s.io", 7, "").await;
    let status: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn older_protocols_tell_failures_as_text() {
    let (_, _, error) = over_spdy("v3.channel.k8s.io", 0, "x").await;
    assert_eq!(error, "");
    let (_, _, error) = over_spdy("channel.k8s.io", 7, "x").await;
    assert!(error.contains("exit status 7"), "{error}");
}

#[tokio::test]
async fn a_command_that_cannot_be_run_is_an_internal_error() {
    let (out, _, error) = over_spdy("v4.channel.k8s.io", -1, "").await;
    let status: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!(out, "");
    assert_eq!((status["code"].as_i64(), status["reason"].as_str()), (Some(500), Some("InternalError")));
}

/// Runs a command over WebSocket; returns what came on each channel.
async fn over_websocket(protocol: &str, options: CommandOptions, messages: &[Message]) -> [String; 4] {
    let io = serve(websocket_headers(protocol), options, 3);
    let mut socket = WebSocketStream::from_raw_socket(io, protocol::Role::Client, None).await;
    let mut channels: [String; 4] = Default::default();
    for message in messages {
        socket.send(message.clone()).await.unwrap();
    }
    while let Some(Ok(message)) = socket.next().await {
        let (channel, text) = match message {
            Message::Binary(bytes) => (bytes[0], String::from_utf8(bytes[1..].to_vec()).unwrap()),
            Message::Text(text) => {
                use base64::Engine;
                let engine = base64::engine::general_purpose::STANDARD;
                let bytes = engine.decode(&text[1..]).unwrap();
                (text.as_bytes()[0] - b'0', String::from_utf8(bytes).unwrap())
            }
            Message::Close(_) => break,
            other => panic!("{other:?}"),
        };
        channels[usize::from(channel)] += &text;
    }
    channels
}

#[tokio::test]
async fn a_command_over_websocket_closes_its_input_by_the_close_channel() {
    let messages = [Message::binary(&b"\x00hello"[..]), Message::binary(&b"\xff\x00"[..])];
    let [_, out, err, error] = over_websocket("v5.channel.k8s.io", ALL, &messages).await;
    assert_eq!((out.as_str(), err.as_str()), ("HELLO", "done"));
    assert!(error.contains(r#""message":"3""#), "{error}");
}

#[tokio::test]
async fn terminals_over_websocket_are_resized() {
    let options = CommandOptions { tty: true, ..ALL };
    let size = b"\x04{\"Width\":120,\"Height\":40}\n";
    let messages =
        [Message::binary(&size[..]), Message::binary(&b"\x00hi"[..]), Message::binary(&b"\xff\x00"[..])];
    let [_, out, _, error] = over_websocket("v5.channel.k8s.io", options, &messages).await;
    assert_eq!(out, "HI");
    assert!(error.contains(r#""message":"4""#), "{error}");
}

#[tokio::test]
async fn the_end_of_a_quick_command_leaves_time_for_the_terminals_size() {
    let options = CommandOptions { stdin: false, tty: true, ..ALL };
    let begun = std::time::Instant::now();
    over_websocket("v5.channel.k8s.io", options, &[]).await;
    assert!(begun.elapsed().as_millis() >= 100, "a client that never says it is waited for a little");
}

#[tokio::test]
async fn base64_is_text() {
    let options = CommandOptions { stdin: false, ..ALL };
    let [_, out, err, error] = over_websocket("v4.base64.channel.k8s.io", options, &[]).await;
    assert_eq!((out.as_str(), err.as_str()), ("", "done"));
    assert!(error.contains("NonZeroExitCode"), "{error}");
}

#[tokio::test]
async fn ports_are_forwarded_and_refusals_told() {
    let (client, server) = duplex(256);
    let headers = headers(&[
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "portforward.k8s.io"),
    ]);
    let accepted = negotiate(&headers, Purpose::PortForward).unwrap();
    let serving = tokio::spawn(async move {
        serve_port_forward(server, &accepted, |port| {
            async move {
                if port != 80 {
                    return Err(Error::Container("refused".into()));
                }
                let (ours, theirs) = duplex(64);
                let (reader, writer) = tokio::io::split(ours);
                let (mut from, mut to) = tokio::io::split(theirs);
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
                Ok(ByteStream { reader: Box::pin(reader), writer: Box::pin(writer) })
            }
            .boxed()
        })
        .await
    });
    let (session, driver) = session(client, Role::Client);
    let opener = session.opener();
    let work = async {
        for (request, port) in [("0", "80"), ("1", "81")] {
            let open = async |kind: &str| {
                let headers = [("streamType", kind), ("port", port), ("requestID", request)];
                opener.open(&headers).await.unwrap()
            };
            let (error, mut data) = (open("error").await, open("data").await);
            data.writer.write_all(b"ping").await.unwrap();
            if port == "80" {
                let mut answer = [0; 4];
                data.reader.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"ping");
            } else {
                assert_eq!(text(error).await, "error forwarding port 81 to pod: refused");
            }
        }
    };
    driver.run(work).await.unwrap();
    serving.await.unwrap().unwrap();
}
