//! `/healthz`, `/livez`, `/readyz`: named checks, as upstream's.
//!
//! ```text
//! [+]ping ok
//! [-]etcd failed: reason withheld
//! [+]poststarthook/rbac/bootstrap-roles excluded: ok
//! readyz check failed
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use registry::Engine;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::options::Query;
use crate::respond;

/// How long the store may take to answer a check.
const PATIENCE: Duration = Duration::from_secs(2);
const ROOTS: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// What a check looks at.
enum Check {
    /// That requests are answered.
    Ping,
    /// That the store answers.
    Store,
    /// That the caches keep up with the store.
    Caches,
    /// That something done once after the start is done.
    Hook(Arc<AtomicBool>),
    /// That the server is not about to end.
    Shutdown,
}

/// Something to be done once after the start, whose end a check waits for.
#[derive(Clone)]
pub struct Hook(Arc<AtomicBool>);

impl Hook {
    pub fn done(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The checks of one server.
pub struct Health {
    checks: Vec<(String, Check)>,
    stop: CancellationToken,
}

impl Health {
    /// The checks that every server has; it ends with `stop`.
    pub fn new(stop: CancellationToken) -> Health {
        let checks = [
            ("ping", Check::Ping),
            ("etcd", Check::Store),
            ("informer-sync", Check::Caches),
            ("shutdown", Check::Shutdown),
        ];
        Health { checks: checks.map(|(name, check)| (name.to_owned(), check)).into(), stop }
    }

    /// Ends with the server.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Adds `poststarthook/<name>`.
    pub fn hook(&mut self, name: &str) -> Hook {
        let flag = Arc::new(AtomicBool::new(false));
        // The end of a server is told last.
        let at = self.checks.len() - 1;
        self.checks.insert(at, (format!("poststarthook/{name}"), Check::Hook(flag.clone())));
        Hook(flag)
    }

    /// Every path there is.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> {
        ROOTS.iter().flat_map(|root| {
            let checks = self.checks.iter().filter(|(_, check)| of_root(&root[1..], check));
            let each = checks.map(move |(name, _)| format!("{root}/{name}"));
            std::iter::once((*root).to_owned()).chain(each)
        })
    }

    /// Answers a health path; `None` where the path is none.
    pub(crate) async fn answer(&self, engine: &Engine, path: &str, query: &Query) -> Option<Response<Body>> {
        let (root, one) = ROOTS.iter().find_map(|root| {
            let rest = path.strip_prefix(root)?;
            // Each path as it stands: one that ends with a slash is another, and there is none.
            (rest.is_empty() || rest.starts_with('/') && !rest.ends_with('/'))
                .then(|| (&root[1..], rest.trim_start_matches('/')))
        })?;
        let checks = self.checks.iter().filter(|(_, check)| of_root(root, check));
        if one.is_empty() {
            return Some(self.all(engine, root, checks, query).await);
        }
        let (name, check) = checks.into_iter().find(|(name, _)| name == one)?;
        Some(match self.look(engine, check).await {
            Ok(()) => respond::text(StatusCode::OK, "ok"),
            Err(why) => {
                let text = format!("internal server error: {name}: {why}\n");
                respond::text(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        })
    }

    async fn all<'c>(
        &self,
        engine: &Engine,
        root: &str,
        checks: impl Iterator<Item = &'c (String, Check)>,
        query: &Query,
    ) -> Response<Body> {
        let mut excluded: Vec<&str> = query.all("exclude").flat_map(|list| list.split(',')).collect();
        let mut text = String::new();
        let mut failed = false;
        for (name, check) in checks {
            let listed = excluded.len();
            excluded.retain(|e| e != name);
            if excluded.len() < listed {
                text += &format!("[+]{name} excluded: ok\n");
                continue;
            }
            match self.look(engine, check).await {
                Ok(()) => text += &format!("[+]{name} ok\n"),
                Err(why) => {
                    tracing::warn!(check = name, %why, "{root} check failed");
                    failed = true;
                    text += &format!("[-]{name} failed: reason withheld\n");
                }
            }
        }
        excluded.retain(|e| !e.is_empty());
        if !excluded.is_empty() {
            let names: Vec<String> = excluded.iter().map(|e| api::field::quote(e)).collect();
            let names = names.join(",");
            text += &format!("warn: some health checks cannot be excluded: no matches for {names}\n");
        }
        if failed {
            return respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{root} check failed\n"));
        }
        if query.flag("verbose") {
            return respond::text(StatusCode::OK, format!("{text}{root} check passed\n"));
        }
        respond::text(StatusCode::OK, "ok")
    }

    async fn look(&self, engine: &Engine, check: &Check) -> Result<(), String> {
        let too_long = |what: &str| format!("{what} within {} s", PATIENCE.as_secs());
        match check {
            Check::Ping => Ok(()),
            Check::Store => match tokio::time::timeout(PATIENCE, engine.probe()).await {
                Ok(answer) => answer.map(|_| ()).map_err(|e| e.to_string()),
                Err(_) => Err(too_long("the store did not answer")),
            },
            Check::Caches => match tokio::time::timeout(PATIENCE, engine.catch_up()).await {
                Ok(answer) => answer.map(|_| ()).map_err(|e| e.message),
                Err(_) => Err(too_long("the caches did not come to the store's revision")),
            },
            Check::Hook(done) if done.load(Ordering::Acquire) => Ok(()),
            Check::Hook(_) => Err("not finished".into()),
            Check::Shutdown if self.stop.is_cancelled() => Err("process is shutting down".into()),
            Check::Shutdown => Ok(()),
        }
    }
}

/// Which checks a path has: only readiness ends before the server does, and a server whose caches
/// are behind is not ready but alive.
fn of_root(root: &str, check: &Check) -> bool {
    root == "readyz" || !matches!(check, Check::Shutdown | Check::Caches)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn engine(store: Arc<dyn store::Store>) -> Arc<Engine> {
        let config = registry::Config {
            store,
            resources: Vec::new(),
            admission: Arc::new(registry::admission::AdmitAll),
            clock: Arc::new(jiff::Timestamp::now),
        };
        Engine::open(config).await.unwrap()
    }

    async fn check(health: &Health, engine: &Engine, asked: &str, code: u16, body: &str) {
        let (path, query) = asked.split_once('?').unwrap_or((asked, ""));
        let response = health.answer(engine, path, &Query::parse(query)).await.unwrap();
        assert_eq!(response.status(), code, "{asked}");
        let Body::Full(bytes) = response.into_body() else { panic!("{asked}: no text") };
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), body, "{asked}");
    }

    #[tokio::test]
    async fn checks_are_told_one_by_one() {
        let stop = CancellationToken::new();
        let mut health = Health::new(stop.clone());
        let hook = health.hook("rbac/bootstrap-roles");
        let engine = engine(store::memory::Engine::new()).await;
        let path = "/livez/poststarthook/rbac/bootstrap-roles";
        let why = "internal server error: poststarthook/rbac/bootstrap-roles: not finished\n";
        check(&health, &engine, path, 500, why).await;
        let all = "[+]ping ok\n[+]etcd ok\n[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\nlivez check failed\n";
        check(&health, &engine, "/livez", 500, all).await;
        check(&health, &engine, "/livez?exclude=poststarthook/rbac/bootstrap-roles", 200, "ok").await;
        hook.done();
        check(&health, &engine, path, 200, "ok").await;
        check(&health, &engine, "/healthz", 200, "ok").await;
        check(
            &health,
            &engine,
            "/livez?verbose&exclude=etcd&exclude=none",
            200,
            "[+]ping ok\n[+]etcd excluded: ok\n[+]poststarthook/rbac/bootstrap-roles ok\nwarn: some health checks cannot be excluded: no matches for \"none\"\nlivez check passed\n",
        )
        .await;
        stop.cancel();
        check(&health, &engine, "/livez", 200, "ok").await;
        let why = "internal server error: shutdown: process is shutting down\n";
        check(&health, &engine, "/readyz/shutdown", 500, why).await;
        assert!(health.answer(&engine, "/healthz/none", &Query::parse("")).await.is_none());
        assert!(health.answer(&engine, "/healthzz", &Query::parse("")).await.is_none());
    }

    #[tokio::test]
    async fn a_store_that_is_gone_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let config = store::embedded::Config::default();
        let store = store::embedded::Engine::open(dir.path(), config).await.unwrap();
        let engine = engine(store.clone()).await;
        let health = Health::new(CancellationToken::new());
        check(&health, &engine, "/healthz/etcd", 200, "ok").await;
        store.close().await;
        check(&health, &engine, "/readyz?exclude=informer-sync", 500, "[+]ping ok\n[-]etcd failed: reason withheld\n[+]informer-sync excluded: ok\n[+]shutdown ok\nreadyz check failed\n").await;
    }
}
