//! Images nobody uses are removed when the disk they are on gets full.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::context::Context;
use crate::events::Type;
use crate::node;

/// How often the disk is looked at: upstream's period.
const PERIOD: Duration = Duration::from_secs(300);

/// What is known of an image beyond what the runtime tells.
#[derive(Debug, Clone, Copy)]
struct Seen {
    first: Instant,
    used: Option<Instant>,
}

/// Keeps the disk below its limit until the kubelet stops.
pub async fn keep(ctx: Arc<Context>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = HashMap::new();
    loop {
        ticks.tick().await;
        if let Err(message) = look(&ctx, &mut seen).await {
            ctx.recorder.node(&ctx.config.node_name, Type::Warning, "ImageGCFailed", message);
        }
    }
}

async fn look(ctx: &Context, seen: &mut HashMap<String, Seen>) -> Result<(), String> {
    let text = |error: cri::Error| error.to_string();
    let images = ctx.runtime.list_images(None).await.map_err(text)?;
    let containers = ctx.runtime.list_containers(v1::ContainerFilter::default()).await.map_err(text)?;
    let used: BTreeSet<&str> = containers
        .iter()
        .flat_map(|one| {
            [one.image_id.as_str(), one.image_ref.as_str()]
                .into_iter()
                .chain(one.image.as_ref().map(|image| image.image.as_str()))
        })
        .collect();
    let now = Instant::now();
    seen.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in &images {
        let one = seen.entry(image.id.clone()).or_insert(Seen { first: now, used: None });
        if in_use(image, &used) {
            one.used = Some(now);
        }
    }
    let info = ctx.runtime.image_fs_info().await.map_err(text)?;
    let mount = info.image_filesystems.first().and_then(|fs| fs.fs_id.as_ref());
    let Some((total, free)) = mount.and_then(|id| node::disk(Path::new(&id.mountpoint))) else {
        return Err("invalid capacity 0 on image filesystem".into());
    };
    let limits = Limits {
        high: ctx.config.image_gc_high_threshold.into(),
        low: ctx.config.image_gc_low_threshold.into(),
        youngest: ctx.config.minimum_image_ttl,
    };
    let wanted = limits.to_free(total, free);
    if wanted <= 0 {
        return Ok(());
    }
    let mut freed = 0;
    for image in plan(&images, &used, seen, limits.youngest, now, wanted) {
        let spec = v1::ImageSpec { image: image.id.clone(), ..Default::default() };
        match ctx.runtime.remove_image(spec).await {
            Ok(()) => freed += i64::try_from(image.size).unwrap_or(0),
            Err(error) => tracing::warn!(image = image.id, %error, "cannot remove an image"),
        }
    }
    if freed < wanted {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
        );
        ctx.recorder.node(&ctx.config.node_name, Type::Warning, "FreeDiskSpaceFailed", message);
    }
    Ok(())
}

fn in_use(image: &v1::Image, used: &BTreeSet<&str>) -> bool {
    let names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
    names.into_iter().any(|name| used.contains(name.as_str()))
}

/// When images go, in percent of the disk, and how long they stay in any case.
struct Limits {
    high: i64,
    low: i64,
    youngest: Duration,
}

impl Limits {
    /// Bytes to free on a disk of this size with so much left.
    fn to_free(&self, total: i64, free: i64) -> i64 {
        if total <= 0 || 100 - free * 100 / total < self.high {
            return 0;
        }
        total * (100 - self.low) / 100 - free
    }
}

/// The images to remove for `wanted` bytes: those unused for longest first, of these the older.
fn plan<'a>(
    images: &'a [v1::Image],
    used: &BTreeSet<&str>,
    seen: &HashMap<String, Seen>,
    youngest: Duration,
    now: Instant,
    wanted: i64,
) -> Vec<&'a v1::Image> {
    let mut idle: Vec<(Seen, &v1::Image)> = images
        .iter()
        .filter(|image| !image.pinned && !in_use(image, used))
        .filter_map(|image| Some((*seen.get(&image.id)?, image)))
        .filter(|(seen, _)| now.duration_since(seen.first) >= youngest)
        .collect();
    idle.sort_by_key(|(seen, _)| (seen.used, seen.first));
    let mut left = wanted;
    let enough = |(_, image): &(Seen, &v1::Image)| {
        let more = left > 0;
        left -= i64::try_from(image.size).unwrap_or(0);
        more
    };
    idle.into_iter().take_while(enough).map(|(_, image)| image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_freed_as_the_lower_limit_asks_for() {
        let limits = Limits { high: 85, low: 80, youngest: Duration::ZERO };
        assert_eq!(limits.to_free(1000, 200), 0);
        assert_eq!(limits.to_free(1000, 100), 100);
        assert_eq!(limits.to_free(0, 0), 0);
    }

    #[test]
    fn the_longest_unused_go_first() {
        let now = Instant::now() + Duration::from_secs(1000);
        let ago = |seconds| now - Duration::from_secs(seconds);
        let image = |id: &str| v1::Image { id: id.into(), size: 10, ..Default::default() };
        let mut images: Vec<_> = ["used", "never", "long", "lately", "young"].map(image).into();
        images.push(v1::Image { pinned: true, ..image("pinned") });
        let seen = |first, used: Option<u64>| Seen { first: ago(first), used: used.map(ago) };
        let known = HashMap::from([
            ("used".to_owned(), seen(900, Some(0))),
            ("never".to_owned(), seen(500, None)),
            ("long".to_owned(), seen(900, Some(800))),
            ("lately".to_owned(), seen(900, Some(100))),
            ("young".to_owned(), seen(10, None)),
            ("pinned".to_owned(), seen(900, None)),
        ]);
        let used = BTreeSet::from(["used"]);
        let check = |wanted, want: &[&str]| {
            let planned = plan(&images, &used, &known, Duration::from_secs(120), now, wanted);
            let got: Vec<&str> = planned.iter().map(|image| image.id.as_str()).collect();
            assert_eq!(got, want);
        };
        check(10, &["never"]);
        check(15, &["never", "long"]);
        check(1000, &["never", "long", "lately"]);
    }
}
