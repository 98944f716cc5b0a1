//! The verbs of a resource itself, and reads.

use std::sync::Arc;

use api::Status;
use http::{Method, Response};
use registry::{Part, Verb};

use crate::body::Body;
use crate::info::Info;
use crate::negotiate;
use crate::server::{Call, Endpoint, Server};

impl Server {
    pub(crate) async fn main_request(
        self: Arc<Self>,
        call: Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let named = !info.name.is_empty();
        let watching = info.verb(&Method::GET, call.query.flag("watch")) == "watch";
        let verb = match (&call.parts.method, named) {
            // A HEAD is no read here: upstream's router knows it for proxies alone.
            (&Method::GET, _) if watching => Verb::Watch,
            (&Method::GET, true) => Verb::Get,
            (&Method::GET, false) => Verb::List,
            (&Method::POST, false) => Verb::Create,
            (&Method::PUT, true) => Verb::Update,
            (&Method::PATCH, true) => Verb::Patch,
            (&Method::DELETE, true) => Verb::Delete,
            (&Method::DELETE, false) => Verb::DeleteCollection,
            _ => return Err(Status::method_not_allowed()),
        };
        if !endpoint.resource.allows(verb) {
            return Err(Status::method_not_allowed());
        }
        match verb {
            Verb::Get => self.get(&call, endpoint, info).await,
            Verb::List => self.list(&call, endpoint, info).await,
            Verb::Watch => self.watch(&call, endpoint, info).await,
            Verb::Create => self.create(&call, endpoint, info, body).await,
            Verb::Update => self.replace(&call, endpoint, info, body, Part::Main).await,
            Verb::Patch => self.patch(&call, endpoint, info, body, Part::Main).await,
            Verb::Delete => self.delete(&call, endpoint, info, body).await,
            Verb::DeleteCollection => self.delete_collection(&call, endpoint, info, body).await,
        }
    }

    /// One object, the whole or what a subresource reads of it.
    pub(crate) async fn get(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
    ) -> Result<Response<Body>, Status> {
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        let revision = call.query.get_revision()?;
        let item = self.engine.get(&endpoint.resource, &info.namespace, &info.name, revision).await?;
        self.answer_item(call, endpoint, &item, accepted)
    }

    async fn list(&self, call: &Call, endpoint: &Endpoint, info: &Info) -> Result<Response<Body>, Status> {
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        let options = call.query.list(&endpoint.resource, &info.namespace)?;
        let listed = self.engine.list(&endpoint.resource, &options).await?;
        self.answer_listed(call, endpoint, &listed, accepted)
    }
}
