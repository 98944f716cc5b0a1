//! ResourceQuota: a write takes what it uses from the quotas of its namespace, in its own transaction.
//!
//! A quota's `status.used` is the counter: it is raised with the object, guarded by the quota's revision, so
//! that many writers at once never take more than there is. Lowering it after a deletion, and counting again,
//! is the quota controller's.

use api::k8s::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota as Quota, Service};
use api::quota::{self, Amounts};
use api::{Object, Quantity, Status};
use registry::{Claims, Operation, Resource, Verdict};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Plugin, refuse, standing};

pub(crate) struct ResourceQuota;

const QUOTAS: &str = "resourcequotas";

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        let own = request.resource.group.is_empty() && request.resource.plural == QUOTAS;
        let counted = match request.operation {
            Operation::Create => true,
            Operation::Update => {
                ["pods", "services", "persistentvolumeclaims"].iter().any(|kind| is(request.resource, kind))
            }
            Operation::Delete | Operation::Connect => false,
        };
        let resized = request.subresource == Some("resize");
        request.resource.namespaced() && (request.subresource.is_none() || resized) && counted && !own
    }

    fn claim(&self, request: &Verdict<'_>, object: &Object) -> Result<Claims, Status> {
        let mut claims = Claims::default();
        let quotas = standing(request, "", QUOTAS, request.namespace);
        let Some(row) = request.engine.resource("", QUOTAS).filter(|_| !quotas.is_empty()) else {
            return Ok(claims);
        };
        let Used { mut amounts, pod } = used(request.resource, object)?;
        if let Some(old) = request.old {
            let before = used(request.resource, old)?.amounts;
            amounts.iter_mut().for_each(|(name, amount)| *amount = less(*amount, before.get(name)));
        }
        amounts.retain(|_, amount| !amount.is_zero());
        for item in quotas {
            let quota = item.object()?;
            if let Some(quota) = charge(request, quota, pod.as_ref(), &amounts)? {
                claims.swap.push(registry::swap(row, &item, &quota));
            }
        }
        Ok(claims)
    }
}

fn less(amount: Quantity, before: Option<&Quantity>) -> Quantity {
    let left = amount - before.copied().unwrap_or(Quantity::ZERO);
    if left.is_negative() { Quantity::ZERO } else { left }
}

/// The quota with what is asked for taken; nothing where it does not speak of it.
fn charge(
    request: &Verdict<'_>,
    mut quota: Object,
    pod: Option<&Pod>,
    asked: &Amounts,
) -> Result<Option<Object>, Status> {
    // A quota that nobody has counted yet binds nobody.
    let typed: Quota = decode(&quota)?;
    let status = typed.status.unwrap_or_default();
    let (hard, used) = (quota::amounts(status.hard.as_ref()), quota::amounts(status.used.as_ref()));
    if !quota::in_scope(&typed.spec.unwrap_or_default(), pod) {
        return Ok(None);
    }
    let missing = pod.and_then(|pod| pod.spec.as_ref()).map(|spec| quota::unspecified(spec, &hard));
    if let Some(missing) = missing.filter(|missing| !missing.is_empty()) {
        return Err(refuse(request, &format!("failed quota: {}: must specify {missing}", quota.name())));
    }
    let about: Amounts =
        asked.iter().filter(|(name, _)| hard.contains_key(*name)).map(|(n, a)| (n.clone(), *a)).collect();
    if about.is_empty() {
        return Ok(None);
    }
    let uncounted: Vec<&str> =
        about.keys().filter(|name| !used.contains_key(*name)).map(String::as_str).collect();
    if !uncounted.is_empty() {
        let why = format!("status unknown for quota: {}, resources: {}", quota.name(), uncounted.join(","));
        return Err(refuse(request, &why));
    }
    let after = |name: &str, amount: Quantity| used[name] + amount;
    let over: Vec<&String> =
        about.iter().filter(|(name, amount)| after(name, **amount) > hard[*name]).map(|(n, _)| n).collect();
    if !over.is_empty() {
        let told = |list: &Amounts| {
            let each: Vec<String> = over.iter().map(|name| format!("{name}={}", list[*name])).collect();
            each.join(",")
        };
        let (asked, taken, most) = (told(&about), told(&used), told(&hard));
        let why =
            format!("exceeded quota: {}, requested: {asked}, used: {taken}, limited: {most}", quota.name());
        return Err(refuse(request, &why));
    }
    let counters: Map<String, Value> =
        about.iter().map(|(name, amount)| (name.clone(), after(name, *amount).to_string().into())).collect();
    let status = api::object::map_entry(&mut quota.0, "status");
    api::object::map_entry(status, "used").extend(counters);
    Ok(Some(quota))
}

/// Kinds of the core group that a quota knows by a plain name too.
const PLAIN: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

fn is(resource: &Resource, plural: &str) -> bool {
    resource.group.is_empty() && resource.plural == plural
}

/// What an object uses, each amount under every name that a quota may have for it.
struct Used {
    amounts: Amounts,
    /// The object where it is a pod: quotas may speak of some pods only.
    pod: Option<Pod>,
}

fn used(resource: &Resource, object: &Object) -> Result<Used, Status> {
    if is(resource, "pods") {
        let pod: Pod = decode(object)?;
        return Ok(Used { amounts: quota::of_pod(&pod), pod: Some(pod) });
    }
    let amounts = if is(resource, "services") {
        quota::of_service(&decode::<Service>(object)?)
    } else if is(resource, "persistentvolumeclaims") {
        quota::of_claim(&decode::<PersistentVolumeClaim>(object)?)
    } else {
        let plain = resource.group.is_empty() && PLAIN.contains(&resource.plural.as_str());
        let names = [format!("count/{}", resource.group_resource())];
        let names = names.into_iter().chain(plain.then(|| resource.plural.clone()));
        names.map(|name| (name, Quantity::from_i64(1))).collect()
    };
    Ok(Used { amounts, pod: None })
}

pub(crate) fn decode<T: DeserializeOwned>(object: &Object) -> Result<T, Status> {
    T::deserialize(&object.0).map_err(Status::internal)
}
