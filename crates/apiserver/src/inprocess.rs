//! The server as a tower service, for the components of the same process: the same road as over
//! TLS, with an identity of the caller's own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::User;
use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use tower::Service;

use crate::body::{Body, Error};
use crate::server::Server;
use auth::Identity;

/// The server as one component sees it.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<Server>,
    user: Arc<User>,
    agent: HeaderValue,
}

impl InProcess {
    /// `component` is the client's User-Agent, by which managed fields name it.
    pub fn new(server: Arc<Server>, user: User, component: &'static str) -> InProcess {
        InProcess { server, user: Arc::new(user), agent: HeaderValue::from_static(component) }
    }
}

impl<B> Service<Request<B>> for InProcess
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::boxed);
        request.extensions_mut().insert(Identity::Trusted(self.user.clone()));
        request.headers_mut().entry(USER_AGENT).or_insert_with(|| self.agent.clone());
        let answer = self.server.clone().handle(request);
        Box::pin(async move { Ok(answer.await) })
    }
}
