//! Leader election over a Lease: of several instances of a component one is at work, and another takes
//! over when it falls silent. The rules and the default times are client-go's.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::write;

/// Which lease is held, by whom, and how long.
#[derive(Clone, Debug)]
pub struct Config {
    pub namespace: String,
    /// The lease, such as `kube-scheduler`.
    pub name: String,
    /// Who we are; unique among the instances.
    pub identity: String,
    /// How long others wait after the last renewal before they take over.
    pub lease_duration: Duration,
    /// How long the holder tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Time between attempts.
    pub retry_period: Duration,
}

impl Config {
    /// client-go's times: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// The lease as last seen, and when we saw it change. Clocks of other machines are not trusted: what
/// counts is how long the lease has not changed by our own clock.
struct Observed {
    lease: Lease,
    at: Instant,
}

/// What an attempt comes to.
#[derive(Debug, PartialEq)]
enum Attempt {
    Create(Box<Lease>),
    Update(Box<Lease>),
    /// Another instance holds it.
    Held,
}

/// Waits for the lease, then runs `work` with a token that is cancelled when the lease is lost or
/// `cancel` fires, and waits for it to end. The lease is given back at the end, so that the next
/// instance need not wait. Returns when `cancel` fired or the lease was lost.
pub async fn lead<F, W>(client: Client, config: Config, cancel: CancellationToken, work: F)
where
    F: FnOnce(CancellationToken) -> W,
    W: Future<Output = ()>,
{
    let api: Api<Lease> = Api::namespaced(client, &config.namespace);
    let mut observed: Option<Observed> = None;
    loop {
        match attempt(&api, &config, &mut observed).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => tracing::debug!(lease = config.name, %error, "cannot acquire the lease"),
        }
        tokio::select! {
            () = tokio::time::sleep(config.retry_period.mul_f64(1.0 + 0.2 * rand::random::<f64>())) => {}
            () = cancel.cancelled() => return,
        }
    }
    tracing::info!(lease = config.name, identity = config.identity, "leading");
    let leading = cancel.child_token();
    let renewal = async {
        renew(&api, &config, &mut observed, &leading).await;
        leading.cancel();
    };
    tokio::join!(work(leading.clone()), renewal);
    release(&api, &config, observed).await;
}

/// Renews until the token fires or the deadline passes without a success.
async fn renew(
    api: &Api<Lease>,
    config: &Config,
    observed: &mut Option<Observed>,
    leading: &CancellationToken,
) {
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(config.retry_period) => {}
            () = leading.cancelled() => return,
        }
        let deadline = renewed + config.renew_deadline;
        match tokio::time::timeout_at(deadline, attempt(api, config, observed)).await {
            Ok(Ok(true)) => renewed = Instant::now(),
            Ok(Ok(false)) => {
                tracing::error!(lease = config.name, "another instance took the lease");
                return;
            }
            Ok(Err(error)) => tracing::debug!(lease = config.name, %error, "cannot renew the lease"),
            Err(_) => {
                tracing::error!(lease = config.name, "the lease was not renewed in time");
                return;
            }
        }
        if Instant::now() >= deadline && renewed + config.renew_deadline <= deadline {
            tracing::error!(lease = config.name, "the lease was not renewed in time");
            return;
        }
    }
}

/// Tries once to take or keep the lease.
async fn attempt(api: &Api<Lease>, config: &Config, observed: &mut Option<Observed>) -> kube::Result<bool> {
    let current = api.get_opt(&config.name).await?;
    if let Some(lease) = &current
        && observed.as_ref().is_none_or(|seen| seen.lease.spec != lease.spec)
    {
        *observed = Some(Observed { lease: lease.clone(), at: Instant::now() });
    }
    let quiet = observed.as_ref().map(|seen| seen.at.elapsed()).unwrap_or_default();
    let written = match plan(config, current, quiet, Timestamp::now()) {
        Attempt::Held => return Ok(false),
        Attempt::Create(lease) => api.create(&PostParams::default(), &lease).await,
        Attempt::Update(lease) => api.replace(&config.name, &PostParams::default(), &lease).await,
    };
    match written {
        Ok(lease) => {
            *observed = Some(Observed { lease, at: Instant::now() });
            Ok(true)
        }
        // Somebody was quicker; the next attempt sees who.
        Err(error) if write::already_exists(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn plan(config: &Config, current: Option<Lease>, quiet: Duration, now: Timestamp) -> Attempt {
    let seconds = i32::try_from(config.lease_duration.as_secs()).unwrap_or(i32::MAX);
    let mut spec = LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: Some(seconds),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(0),
        ..Default::default()
    };
    let Some(mut lease) = current else {
        let metadata = ObjectMeta {
            name: Some(config.name.clone()),
            namespace: Some(config.namespace.clone()),
            ..Default::default()
        };
        return Attempt::Create(Box::new(Lease { metadata, spec: Some(spec) }));
    };
    let old = lease.spec.take().unwrap_or_default();
    let holder = old.holder_identity.clone().unwrap_or_default();
    let transitions = old.lease_transitions.unwrap_or_default();
    if holder == config.identity {
        spec.acquire_time = old.acquire_time;
        spec.lease_transitions = Some(transitions);
    } else {
        let promised = u64::try_from(old.lease_duration_seconds.unwrap_or(seconds)).unwrap_or_default();
        if !holder.is_empty() && quiet < Duration::from_secs(promised) {
            return Attempt::Held;
        }
        spec.lease_transitions = Some(transitions.saturating_add(1));
    }
    lease.spec = Some(spec);
    Attempt::Update(Box::new(lease))
}

async fn release(api: &Api<Lease>, config: &Config, observed: Option<Observed>) {
    let Some(Observed { mut lease, .. }) = observed else { return };
    let Some(spec) = lease.spec.as_mut() else { return };
    if spec.holder_identity.as_deref() != Some(&config.identity) {
        return;
    }
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    let params = PostParams::default();
    let put = api.replace(&config.name, &params, &lease);
    match tokio::time::timeout(config.retry_period, put).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(lease = config.name, %error, "the lease was not given back"),
        Err(_) => tracing::debug!(lease = config.name, "the lease was not given back in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> Option<Lease> {
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(4),
            ..Default::default()
        };
        Some(Lease { spec: Some(spec), ..Default::default() })
    }

    /// Who holds the lease afterwards, and after how many changes of hand.
    fn check(current: Option<Lease>, quiet: u64) -> Option<(String, i32)> {
        let config = Config::new("kube-system", "kube-scheduler", "me");
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        match plan(&config, current, Duration::from_secs(quiet), now) {
            Attempt::Held => None,
            Attempt::Create(lease) | Attempt::Update(lease) => {
                let spec = lease.spec.unwrap();
                Some((spec.holder_identity.unwrap(), spec.lease_transitions.unwrap()))
            }
        }
    }

    #[test]
    fn a_lease_is_taken_when_free_ours_or_expired() {
        assert_eq!(check(None, 0), Some(("me".into(), 0)));
        assert_eq!(check(held_by("me"), 100), Some(("me".into(), 4)));
        assert_eq!(check(held_by("other"), 14), None);
        assert_eq!(check(held_by("other"), 15), Some(("me".into(), 5)));
        assert_eq!(check(held_by(""), 0), Some(("me".into(), 5)));
    }
}
