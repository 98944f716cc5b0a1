//! Requests to subresources: parts of an object, views of it, acts on it.

use std::borrow::Cow;
use std::sync::Arc;

use api::{GroupResource, Object, Status};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use registry::resource::Act;
use registry::{Action, Part, Preconditions, Subresource, UpdateOptions, View};
use serde_json::Value;

use crate::answer::encode;
use crate::body::Body;
use crate::info::Info;
use crate::negotiate::{self, Accepted, Form};
use crate::options::OptionsKind;
use crate::patch::Patch;
use crate::server::{Call, Endpoint, Server, read_body};
use crate::table;
use crate::write::{Asked, check_name, check_namespace};

impl Server {
    pub(crate) async fn subresource_request(
        self: Arc<Self>,
        call: Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let sub: Subresource =
            endpoint.resource.subresource(&info.subresource).cloned().ok_or_else(Status::path_not_found)?;
        if let Action::Connect(connect) = &sub.action {
            return self.connect(call, endpoint, info, &**connect, body).await;
        }
        if !info.rest.is_empty() {
            return Err(Status::path_not_found());
        }
        let method = call.parts.method.clone();
        match &sub.action {
            Action::Connect(_) => Err(Status::path_not_found()),
            Action::Create(act) if method == Method::POST => {
                let asked = call.asked(endpoint, OptionsKind::Create)?;
                let group = sub.kind.as_ref().map_or("", |k| &k.group);
                let bytes = read_body(body).await?;
                self.act(&call, &**act, (group, sub.name, asked), (&info.namespace, &info.name), &bytes).await
            }
            Action::Create(_) => Err(Status::method_not_allowed()),
            Action::View(view) => self.view(&call, endpoint, info, &sub, &**view, body).await,
            Action::Status => self.part(&call, endpoint, info, body, Part::Status).await,
            Action::Part(hook) => self.part(&call, endpoint, info, body, Part::Hook(sub.name, &**hook)).await,
        }
    }

    async fn part(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
        part: Part<'_>,
    ) -> Result<Response<Body>, Status> {
        let verb = match call.parts.method {
            Method::PUT => "update",
            Method::PATCH => "patch",
            _ => "get",
        };
        if let Part::Hook(_, hook) = part
            && !hook.verbs().contains(&verb)
        {
            return Err(Status::method_not_allowed());
        }
        match call.parts.method {
            Method::PUT => self.replace(call, endpoint, info, body, part).await,
            Method::PATCH => self.patch(call, endpoint, info, body, part).await,
            Method::GET => self.get(call, endpoint, info).await,
            _ => Err(Status::method_not_allowed()),
        }
    }

    /// Posts to something that acts.
    pub(crate) async fn act(
        self: &Arc<Self>,
        call: &Call,
        act: &dyn Act,
        (group, subresource, mut asked): (&str, &str, Asked),
        (namespace, name): (&str, &str),
        bytes: &Bytes,
    ) -> Result<Response<Body>, Status> {
        let mut posted = self.decode_typed(call, bytes, (group, act.type_name()), asked.validation)?;
        check_namespace(namespace, &posted)?;
        if namespace.is_empty() && !posted.namespace().is_empty() {
            posted.remove_meta("namespace");
        }
        if act.answers_posted() {
            self.engine.track_posted(&asked.cx, act.type_name(), subresource, &mut posted);
        }
        // What it does to the object is its own act, in the stored version.
        asked.cx.api_version.clear();
        let answer = act.act(&self.engine, &asked.cx, (namespace, name), posted).await?;
        Ok(encode(StatusCode::CREATED, &answer.0, asked.accepted))
    }

    /// Reads and writes an object as another kind.
    async fn view(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        sub: &Subresource,
        view: &dyn View,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let resource = &endpoint.resource;
        let at = (info.namespace.as_str(), info.name.as_str());
        let kind = match call.parts.method {
            Method::GET => {
                let accepted = negotiate::accepted(&call.parts.headers, false)?;
                let found = self.engine.get(resource, at.0, at.1, None).await;
                // Upstream names the view in the 404 of an object that is read and not there.
                let missing = |e: Status| {
                    let group = view.fault_group().unwrap_or(&resource.group);
                    let of = GroupResource::new(group, format!("{}/{}", resource.plural, sub.name));
                    if e.is_not_found() { Status::not_found(&of, at.1) } else { e }
                };
                let object = found.map_err(missing)?.object()?;
                return self.answer_view(call, view, &object, accepted);
            }
            Method::PUT => OptionsKind::Update,
            Method::PATCH => OptionsKind::Patch,
            _ => return Err(Status::method_not_allowed()),
        };
        let patch = (kind == OptionsKind::Patch).then(|| Patch::of(&call.parts.headers)).transpose()?;
        let asked = call.asked(endpoint, kind)?;
        let bytes = read_body(body).await?;
        let group = sub.kind.as_ref().map_or("", |k| &k.group);
        let whole = match patch {
            None => Some(self.decode_typed(call, &bytes, (group, view.type_name()), asked.validation)?),
            Some(_) => None,
        };
        let wanted = |object: &Object| match (&whole, patch) {
            (None, Some(patch)) => {
                let mut shown = view.show(object);
                shown.remove_meta("resourceVersion");
                self.patched_view(patch, &bytes, shown, (group, view.type_name())).map(Cow::Owned)
            }
            (Some(whole), _) => Ok(Cow::Borrowed(whole)),
            (None, None) => Err(Status::internal("a write is a whole object or a patch")),
        };
        let change = |current: Option<&Object>| {
            let absent = || Status::not_found(&resource.group_resource(), at.1);
            let mut object = current.cloned().ok_or_else(absent)?;
            let wanted = wanted(&object)?;
            check_namespace(at.0, &wanted)?;
            check_name(info, &wanted)?;
            if !wanted.uid().is_empty() && wanted.uid() != object.uid() {
                let key = resource.store_key(object.namespace(), object.name());
                let why = registry::other_uid(&key, wanted.uid(), object.uid());
                return Err(Status::conflict(&resource.group_resource(), at.1, &why));
            }
            view.take(&wanted, &mut object)?;
            Ok((object, Vec::new()))
        };
        // What is sent whole may say which object it means.
        let uid = whole.as_ref().map(|w| w.uid().to_owned()).filter(|uid| !uid.is_empty());
        let preconditions = Preconditions { uid, resource_version: None };
        let options = UpdateOptions { preconditions, ..UpdateOptions::default() };
        // A change that fails says nothing.
        let said = |current: &Object| {
            wanted(current).map(|wanted| view.said(&wanted, &view.show(current))).unwrap_or_default()
        };
        let part = Part::View(sub.name, &said);
        let written = self.engine.update(resource, &asked.cx, at, part, &change, &options).await;
        self.answer_view(call, view, &written?.object, asked.accepted)
    }

    /// The other kind, or its table.
    fn answer_view(
        &self,
        call: &Call,
        view: &dyn View,
        object: &Object,
        accepted: Accepted,
    ) -> Result<Response<Body>, Status> {
        let shown = view.show(object);
        if accepted.form == Form::Table
            && let Some(table) = table::view(view, &shown, call, accepted, self.engine.now())?
        {
            return Ok(encode(StatusCode::OK, &table, accepted));
        }
        Ok(encode(StatusCode::OK, &shown.0, accepted))
    }

    /// The other kind with a patch laid over it.
    fn patched_view(
        &self,
        patch: Patch,
        bytes: &[u8],
        shown: Object,
        (group, type_name): (&str, &str),
    ) -> Result<Object, Status> {
        if patch == Patch::Apply {
            return Err(Status::unsupported_media_type("415: Unsupported Media Type"));
        }
        let document = patch.document(bytes)?;
        let types = schema::builtin();
        let ty =
            types.lookup(type_name).ok_or_else(|| Status::internal(format!("no schema for {type_name}")))?;
        let patched = patch.patched((types, ty), shown.into_value(), &document.value)?;
        let refuse = |why: &str| patch.refuse(&document.value, why);
        // A strategic patch is laid over the type, which what the patch calls it does not change.
        if patch != Patch::Strategic {
            let kind = type_name.rsplit('.').next().unwrap_or(type_name);
            self.check_kind(&patched, (group, kind)).map_err(|why| refuse(&why))?;
        }
        let Value::Object(mut map) = patched else {
            return Err(refuse("the patched document is no object"));
        };
        types.conform(ty, &mut map).map_err(|e| refuse(&e.to_string()))?;
        Ok(Object(map))
    }
}
