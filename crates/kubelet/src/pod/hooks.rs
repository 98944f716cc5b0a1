//! Lifecycle hooks.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::context::Context;
use crate::probe::{self, http};

/// The container a hook belongs to.
pub struct Target<'a> {
    pub ctx: &'a Context,
    pub container: &'a Container,
    pub id: &'a str,
    pub ips: &'a [String],
}

/// Runs a hook to its end.
///
/// # Errors
/// Why it failed, for its event.
pub async fn run(target: &Target<'_>, handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output = target.ctx.runtime.exec_sync(target.id, &command, None).await;
        let output = output.map_err(|error| error.to_string())?;
        if output.exit_code != 0 {
            let said = String::from_utf8_lossy(if output.stderr.is_empty() {
                &output.stdout
            } else {
                &output.stderr
            });
            return Err(format!("command '{}' exited with {}: {said}", command.join(" "), output.exit_code));
        }
        return Ok(());
    }
    if let Some(get) = &handler.http_get {
        let host = target.ips.first().or(target.ctx.host.ips.first()).cloned().unwrap_or_default();
        let request = http::Request::new(get, &host, probe::port(target.container, &get.port)?);
        return http::get(&request, Duration::from_secs(30)).await.map(|_| ());
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler".into())
}
