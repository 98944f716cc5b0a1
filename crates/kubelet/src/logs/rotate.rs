//! Keeping containers' logs small: what has grown too long is moved aside, and the oldest goes.
//!
//! ```text
//! main/0.log                         being written
//! main/0.log.20261121-060000         moved aside last, as readers may still follow it
//! main/0.log.20261121-055000.gz      older ones, compressed
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};

use crate::context::Context;

/// How often logs are looked at (`containerLogMonitorInterval`). To be told of each write would cost more.
const PERIOD: Duration = Duration::from_secs(10);

/// Keeps the logs of running containers within their limits until the kubelet stops.
pub async fn keep(ctx: Arc<Context>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = look(&ctx).await {
            tracing::warn!(%error, "cannot look after containers' logs");
        }
    }
}

async fn look(ctx: &Context) -> cri::Result<()> {
    let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 };
    let filter = v1::ContainerFilter { state: Some(running), ..Default::default() };
    for container in ctx.runtime.list_containers(filter).await? {
        let status = match ctx.runtime.container_status(&container.id).await {
            Err(error) if error.is_not_found() => continue,
            status => status?,
        };
        let path = PathBuf::from(&status.log_path);
        let long = fs::metadata(&path).is_ok_and(|found| found.len() > ctx.config.container_log_max_size);
        if status.log_path.is_empty() || !long {
            continue;
        }
        let (aside, files) = (path.clone(), ctx.config.container_log_max_files);
        let moved = tokio::task::spawn_blocking(move || move_aside(&aside, files, Timestamp::now())).await;
        match moved {
            Ok(Ok(moved)) => {
                if let Err(error) = ctx.runtime.reopen_container_log(&container.id).await {
                    // It writes where it wrote before: that stays its log.
                    tracing::warn!(container = container.id, %error, "cannot begin a new log");
                    if let Err(error) = fs::rename(&moved, &path) {
                        tracing::warn!(path = %path.display(), %error, "cannot move a log back");
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(path = %path.display(), %error, "cannot rotate a log"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot rotate a log"),
        }
    }
    Ok(())
}

/// Moves the log at `path` aside, having made room so that `files` are left with the new one. Where it is then.
fn move_aside(path: &Path, files: u32, now: Timestamp) -> io::Result<PathBuf> {
    let mut older = rotated(path)?;
    // The new log and the one moved aside now.
    let keep = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(2);
    while older.len() > keep {
        fs::remove_file(older.remove(0))?;
    }
    for one in older.iter().filter(|one| one.extension().is_none_or(|extension| extension != "gz")) {
        compress(one)?;
    }
    let stamp = now.strftime("%Y%m%d-%H%M%S").to_string();
    let aside = PathBuf::from(format!("{}.{stamp}", path.display()));
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// What the log at `path` was rotated to, the oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".tmp") && name.starts_with(&prefix) {
            // Of a compression that was cut off.
            fs::remove_file(entry.path())?;
        } else if name.starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn compress(path: &Path) -> io::Result<()> {
    let (tmp, done) = (PathBuf::from(format!("{}.tmp", path.display())), format!("{}.gz", path.display()));
    let mut encoder = GzEncoder::new(File::create(&tmp)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&tmp, done)?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_the_older_are_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut names = Vec::new();
        for second in 0..5 {
            fs::write(&path, format!("{second}\n")).unwrap();
            move_aside(&path, 3, Timestamp::from_second(second).unwrap()).unwrap();
            names = rotated(&path).unwrap();
        }
        let shown: Vec<_> =
            names.iter().map(|name| name.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(shown, ["0.log.19700101-000003.gz", "0.log.19700101-000004"]);
        let mut text = String::new();
        let file = File::open(&names[0]).unwrap();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
        assert_eq!(text, "3\n");
    }
}
