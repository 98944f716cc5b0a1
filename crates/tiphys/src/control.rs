//! The server's local socket: what `tiphys image` asks of a running node. A line of JSON there, a
//! line of JSON back.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who may talk at once.
const TALKS: usize = 64;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    Import(PathBuf),
    Pull(String),
    List,
    Remove(String),
}

/// An image as `tiphys image ls` shows it.
#[derive(Serialize, Deserialize)]
pub struct Image {
    pub names: Vec<String>,
    pub id: String,
    /// Bytes.
    pub size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    Images(Vec<Image>),
    Done,
    Refused(String),
}

fn socket(run: &Path) -> PathBuf {
    run.join("control.sock")
}

/// Serves until it is cancelled.
pub fn serve(
    run: &Path,
    service: runtime::Service,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let path = socket(run);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
    tasks.spawn(listen::accept(listener, TALKS, stop.clone(), move |stream| {
        let service = service.clone();
        async move {
            if let Err(error) = converse(stream, service).await {
                tracing::debug!(%error, "a talk on the local socket broke off");
            }
        }
    }));
    Ok(())
}

async fn converse(stream: UnixStream, service: runtime::Service) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line) {
            Ok(ask) => answer(ask, &service).await.unwrap_or_else(|e| Answer::Refused(format!("{e:#}"))),
            Err(error) => Answer::Refused(error.to_string()),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        write.write_all(&text).await?;
    }
    Ok(())
}

fn shown(image: &cri::v1::Image) -> Image {
    let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
    Image { names: names.clone(), id: image.id.clone(), size: image.size }
}

async fn answer(ask: Ask, service: &runtime::Service) -> anyhow::Result<Answer> {
    use cri::Runtime;
    let spec = |name: &str| cri::v1::ImageSpec { image: name.to_owned(), ..Default::default() };
    Ok(match ask {
        Ask::Import(path) => {
            let images = service.images().clone();
            let imported =
                tokio::task::spawn_blocking(move || runtime::images::import(&images, &path)).await??;
            let names: Vec<String> = imported.iter().flat_map(|i| i.tags.iter().cloned()).collect();
            let all = service.list_images(None).await?;
            let chosen = all.iter().map(shown).filter(|i| i.names.iter().any(|n| names.contains(n)));
            Answer::Images(chosen.collect())
        }
        Ask::Pull(name) => {
            service.pull_image(spec(&name), None, None, None).await?;
            Answer::Done
        }
        Ask::List => Answer::Images(service.list_images(None).await?.iter().map(shown).collect()),
        Ask::Remove(name) => {
            if service.image_status(spec(&name)).await?.is_none() {
                anyhow::bail!("no image {name} here; `tiphys image ls` lists them");
            }
            service.remove_image(spec(&name)).await?;
            Answer::Done
        }
    })
}

/// Asks a running server.
pub async fn ask(run: &Path, ask: &Ask) -> anyhow::Result<Answer> {
    let path = socket(run);
    let stream = UnixStream::connect(&path)
        .await
        .with_context(|| format!("no server answers at {}; start one with `tiphys up`", path.display()))?;
    let (read, mut write) = stream.into_split();
    let mut text = serde_json::to_vec(ask)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    let line = BufReader::new(read).lines().next_line().await?.context("the server went away")?;
    match serde_json::from_str(&line)? {
        Answer::Refused(why) => bail!("{why}"),
        answer => Ok(answer),
    }
}
