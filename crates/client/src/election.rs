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

/// Why somebody no longer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to stop, perhaps before it led.
    Cancelled,
    /// The lease was lost.
    Lost,
    /// The work ended by itself.
    Finished,
}

/// Waits for the lease, then runs `work` with a token that is cancelled when the lease is lost or
/// `cancel` fires, and waits for it to end. The lease is given back at the end, so that the next
/// instance need not wait.
pub async fn lead<F, W>(client: Client, config: Config, cancel: CancellationToken, work: F) -> End
where
    F: FnOnce(CancellationToken) -> W,
    W: Future<Output = ()>,
{
    let api: Api<Lease> = Api::namespaced(client, &config.namespace);
    let mut observed: Option<Observed> = None;
    if cancel.run_until_cancelled(acquire(&api, &config, &mut observed)).await.is_none() {
        return End::Cancelled;
    }
    tracing::info!(lease = config.name, identity = config.identity, "leading");
    let leading = cancel.child_token();
    let renewal = async {
        renew(&api, &config, &mut observed, &leading).await;
        let lost = !leading.is_cancelled();
        leading.cancel();
        lost
    };
    let work = async {
        work(leading.clone()).await;
        // Whoever does nothing holds nothing: another instance may do better.
        leading.cancel();
    };
    let ((), lost) = tokio::join!(work, renewal);
    if observed.is_some_and(|seen| is_ours(&seen.lease, &config)) {
        release(&api, &config).await;
    }
    match (cancel.is_cancelled(), lost) {
        (true, _) => End::Cancelled,
        (false, true) => End::Lost,
        (false, false) => End::Finished,
    }
}

fn is_ours(lease: &Lease, config: &Config) -> bool {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref());
    holder == Some(&config.identity)
}

/// Tries until the lease is ours. A server that does not answer is asked again after the renew deadline.
async fn acquire(api: &Api<Lease>, config: &Config, observed: &mut Option<Observed>) {
    loop {
        match tokio::time::timeout(config.renew_deadline, attempt(api, config, observed)).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::debug!(lease = config.name, %error, "cannot acquire the lease"),
            Err(_) => tracing::debug!(lease = config.name, "no answer about the lease"),
        }
        let pause = config.retry_period.mul_f64(1.0 + 0.2 * rand::random::<f64>());
        tokio::time::sleep(pause).await;
    }
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
        let attempt = tokio::time::timeout_at(deadline, attempt(api, config, observed));
        let Some(attempted) = leading.run_until_cancelled(attempt).await else { return };
        match attempted {
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

/// Gives the lease back, as it is now: a renewal that was broken off may have been done.
async fn release(api: &Api<Lease>, config: &Config) {
    let put = async {
        let Some(mut lease) = api.get_opt(&config.name).await?.filter(|lease| is_ours(lease, config)) else {
            return Ok(());
        };
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        api.replace(&config.name, &PostParams::default(), &lease).await.map(drop)
    };
    match tokio::time::timeout(config.retry_period, put).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(lease = config.name, %error, "the lease was not given back"),
        Err(_) => tracing::debug!(lease = config.name, "the lease was not given back in time"),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use parking_lot::Mutex;

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

    /// A server of one lease, which keeps what is written and answers what `answers` lets through.
    fn serve(
        kept: Arc<Mutex<Option<Lease>>>,
        answers: impl Fn(usize) -> bool + Send + Sync + 'static,
        mut asked: impl FnMut(usize) + Send + 'static,
    ) -> Client {
        let answers = Arc::new(answers);
        let mut count = 0;
        let service = tower::service_fn(move |request: Request<Body>| {
            count += 1;
            asked(count);
            let (kept, answers, number) = (kept.clone(), answers.clone(), count);
            async move {
                if !answers(number) {
                    return std::future::pending().await;
                }
                let (parts, body) = request.into_parts();
                if parts.method != Method::GET {
                    let text = body.collect().await.unwrap().to_bytes();
                    *kept.lock() = Some(serde_json::from_slice(&text).unwrap());
                }
                let (status, text) = match &*kept.lock() {
                    Some(lease) => (200, serde_json::to_string(lease).unwrap()),
                    None => (
                        404,
                        serde_json::to_string(&kube::core::Status::failure("", "NotFound").with_code(404))
                            .unwrap(),
                    ),
                };
                Ok::<_, Infallible>(
                    Response::builder().status(status).body(Body::from(text.into_bytes())).unwrap(),
                )
            }
        });
        Client::new(service, "default")
    }

    /// Periods far apart, so that only what a test is about happens.
    fn patient() -> Config {
        let long = Duration::from_secs(600);
        let config = Config::new("kube-system", "kube-scheduler", "me");
        Config { renew_deadline: long, retry_period: long, ..config }
    }

    fn holder(kept: &Mutex<Option<Lease>>) -> String {
        kept.lock().as_ref().unwrap().spec.as_ref().unwrap().holder_identity.clone().unwrap()
    }

    #[tokio::test]
    async fn work_that_ends_gives_the_lease_back() {
        let kept = Arc::new(Mutex::new(None));
        let client = serve(kept.clone(), |_| true, |_| {});
        let seen = kept.clone();
        let end = lead(client, patient(), CancellationToken::new(), async move |_| {
            assert_eq!(holder(&seen), "me");
        });
        assert_eq!(end.await, End::Finished);
        assert_eq!(holder(&kept), "");
    }

    #[tokio::test]
    async fn a_silent_server_does_not_keep_it_from_ending() {
        let (kept, cancel) = (Arc::default(), CancellationToken::new());
        let asked = cancel.clone();
        let client = serve(kept, |_| false, move |_| asked.cancel());
        let end = lead(client, patient(), cancel, async |_| panic!("there is no lease")).await;
        assert_eq!(end, End::Cancelled);
    }

    #[tokio::test]
    async fn an_attempt_without_an_answer_is_made_again() {
        let kept = Arc::new(Mutex::new(None));
        let client = serve(kept.clone(), |number| number > 2, |_| {});
        let brief = Duration::from_millis(20);
        let config = Config { renew_deadline: brief, retry_period: brief, ..patient() };
        acquire(&Api::namespaced(client, "kube-system"), &config, &mut None).await;
        assert_eq!(holder(&kept), "me");
    }

    #[tokio::test]
    async fn a_renewal_without_an_answer_ends_with_the_token() {
        let (kept, cancel) = (Arc::new(Mutex::new(None)), CancellationToken::new());
        let asked = cancel.clone();
        // Got and created; then the first renewal hangs, and what follows is answered.
        let client = serve(
            kept.clone(),
            |number| number != 3,
            move |number| {
                if number == 3 {
                    asked.cancel();
                }
            },
        );
        let api = Api::namespaced(client, "kube-system");
        let mut observed = None;
        acquire(&api, &patient(), &mut observed).await;
        let soon = Config { retry_period: Duration::from_millis(1), ..patient() };
        renew(&api, &soon, &mut observed, &cancel).await;
        release(&api, &patient()).await;
        assert_eq!(holder(&kept), "");
    }
}
