//! Having a container's image on the node.

use std::time::{Duration, Instant};

use cri::{PullFailure, v1};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::auth::credentials;
use super::image_name;
use super::security::ImageUser;
use crate::context::Context;
use crate::events::Type;
use crate::source::objects::Held;

/// An image that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// What to create containers with.
    pub reference: String,
    pub user: ImageUser,
}

/// Why an image is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    pub reason: &'static str,
    pub message: String,
}

impl Missing {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Whether an image is fetched though it is there: by its policy, or `Always` where the tag is `latest`.
fn policy(container: &Container, image: &str) -> &'static str {
    match container.image_pull_policy.as_deref() {
        Some("Always") => "Always",
        Some("Never") => "Never",
        Some("IfNotPresent") => "IfNotPresent",
        _ => {
            let last = image.rsplit('/').next().unwrap_or(image);
            let tagged = last.split_once(':').map(|(_, tag)| tag);
            let latest = !image.contains('@') && tagged.is_none_or(|tag| tag == "latest");
            if latest { "Always" } else { "IfNotPresent" }
        }
    }
}

/// Checks for the image of `container`, fetches it where its policy says so, and tells of it in events.
///
/// # Errors
/// Upstream's reason and message of the container's waiting state.
pub async fn ensure(ctx: &Context, pod: &Pod, held: &Held, container: &Container) -> Result<Image, Missing> {
    let found = find(ctx, pod, held, container).await;
    if let Err(missing) = &found {
        let text = format!("Error: {}", missing.reason);
        ctx.recorder.container(pod, &container.name, Type::Warning, "Failed", text);
    }
    found
}

async fn find(ctx: &Context, pod: &Pod, held: &Held, container: &Container) -> Result<Image, Missing> {
    let name = container.image.as_deref().unwrap_or_default();
    let tell = |kind, reason: &str, message: String| {
        ctx.recorder.container(pod, &container.name, kind, reason, message);
    };
    let tagged = image_name::with_tag(name).map_err(|why| {
        let message = format!("Failed to apply default image tag {name:?}: {why}");
        tell(Type::Warning, "InspectFailed", message.clone());
        Missing::new("InvalidImageName", message)
    })?;
    let spec = v1::ImageSpec { image: tagged, user_specified_image: name.to_owned(), ..Default::default() };
    let present = ctx.runtime.image_status(spec.clone()).await.map_err(|error| {
        let message = format!("Failed to inspect image {name:?}: {error}");
        tell(Type::Warning, "InspectFailed", message.clone());
        Missing::new("ImageInspectError", message)
    })?;
    let policy = policy(container, name);
    match present {
        Some(image) if policy != "Always" => {
            tell(
                Type::Normal,
                "Pulled",
                format!("Container image {name:?} already present on machine and can be accessed by the pod"),
            );
            Ok(describe(image))
        }
        None if policy == "Never" => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            tell(Type::Warning, "ErrImageNeverPull", message.clone());
            Err(Missing::new("ErrImageNeverPull", message))
        }
        _ => pull(ctx, pod, held, container, spec).await,
    }
}

async fn pull(
    ctx: &Context,
    pod: &Pod,
    held: &Held,
    container: &Container,
    image: v1::ImageSpec,
) -> Result<Image, Missing> {
    let name = image.user_specified_image.clone();
    let tell = |kind, reason: &str, message: String| {
        ctx.recorder.container(pod, &container.name, kind, reason, message);
    };
    tell(Type::Normal, "Pulling", format!("Pulling image {name:?}"));
    let began = Instant::now();
    // Each set of credentials in turn, and none at last.
    let mut tries: Vec<Option<v1::AuthConfig>> =
        credentials(held, pod, &name).await.into_iter().map(Some).collect();
    if tries.is_empty() {
        tries.push(None);
    }
    let mut failed = None;
    for auth in tries {
        match ctx.runtime.pull_image(image.clone(), auth, None, None).await {
            Ok(reference) => {
                let took = shown(began.elapsed());
                let spec = v1::ImageSpec { image: reference.clone(), ..Default::default() };
                let found = ctx.runtime.image_status(spec).await.ok().flatten();
                let size = found.as_ref().map_or(0, |image| image.size);
                let text = format!(
                    "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {size} bytes."
                );
                tell(Type::Normal, "Pulled", text);
                return Ok(found.map_or(Image { reference, user: ImageUser::default() }, describe));
            }
            Err(error) => failed = Some(error),
        }
    }
    let error = failed.unwrap_or_else(|| cri::Error::Other("no credentials to try".into()));
    let message = error.to_string();
    tell(Type::Warning, "Failed", format!("Failed to pull image {name:?}: {message}"));
    let invalid = matches!(&error, cri::Error::ImagePull { failure: PullFailure::InvalidReference, .. });
    Err(Missing::new(if invalid { "InvalidImageName" } else { "ErrImagePull" }, message))
}

fn describe(image: v1::Image) -> Image {
    let uid = image.uid.map(|uid| uid.value);
    Image { reference: image.id, user: ImageUser { uid, name: image.username } }
}

/// A span as Go prints it, to the millisecond.
fn shown(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        return format!("{}ms", took.as_millis());
    }
    let rest = super::backoff::shown(Duration::from_secs(took.as_secs()));
    let millis = took.subsec_millis();
    match rest.strip_suffix('s') {
        Some(whole) if millis > 0 => format!("{whole}.{}s", format!("{millis:03}").trim_end_matches('0')),
        _ => rest,
    }
}
