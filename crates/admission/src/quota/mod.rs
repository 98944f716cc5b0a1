//! ResourceQuota: a write takes what it uses from the quotas of its namespace, in its own transaction.
//!
//! A quota's `status.used` is the counter: it is raised with the object, guarded by the quota's revision, so
//! that many writers at once never take more than there is. Lowering it after a deletion, and counting again,
//! is the quota controller's.

mod usage;

use api::{Object, Quantity, Status};
use registry::{Claims, Operation, Resource, Verdict};
use serde_json::{Map, Value};

use crate::{Plugin, refuse, standing};
use usage::Amounts;

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
            Operation::Update => usage::changes(request.resource),
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
        let mut asked = usage::of(request.resource, object);
        if let Some(old) = request.old {
            let before = usage::of(request.resource, old);
            asked = asked
                .into_iter()
                .map(|(name, amount)| (name.clone(), less(amount, before.get(&name))))
                .collect();
        }
        asked.retain(|_, amount| !amount.is_zero());
        for item in quotas {
            let quota = item.object()?;
            if let Some(quota) = charge(request, quota, object, &asked)? {
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
    object: &Object,
    asked: &Amounts,
) -> Result<Option<Object>, Status> {
    // A quota that nobody has counted yet binds nobody.
    let hard = amounts(quota.get(&["status", "hard"]));
    if !usage::in_scope(request.resource, &quota, object) {
        return Ok(None);
    }
    let missing = usage::unspecified(request.resource, object, &hard);
    if !missing.is_empty() {
        return Err(refuse(request, &format!("failed quota: {}: must specify {missing}", quota.name())));
    }
    let about: Amounts =
        asked.iter().filter(|(name, _)| hard.contains_key(*name)).map(|(n, a)| (n.clone(), *a)).collect();
    if about.is_empty() {
        return Ok(None);
    }
    let used = amounts(quota.get(&["status", "used"]));
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

fn amounts(value: Option<&Value>) -> Amounts {
    let list = value.and_then(Value::as_object).into_iter().flatten();
    // What was validated parses.
    list.filter_map(|(name, v)| Some((name.clone(), Quantity::parse(v.as_str()?).ok()?))).collect()
}

/// `count/deployments.apps`
fn count_name(resource: &Resource) -> String {
    format!("count/{}", resource.group_resource())
}
