//! ServiceAccount: a pod runs as an account that exists, with its token mounted.

use api::{Object, Status};
use registry::{Operation, Verdict};
use serde_json::{Value, json};

use crate::{Plugin, is, refuse};

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A little over an hour: the kubelet renews before.
const TOKEN_SECONDS: i64 = 3607;

pub(crate) struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is(request, "pods", &[Operation::Create])
    }

    fn mutate(&self, request: &Verdict<'_>, pod: &mut Object) -> Result<(), Status> {
        // Mirror pods show what already runs without an account.
        if pod.annotation("kubernetes.io/config.mirror").is_some() {
            return Ok(());
        }
        if pod.get_str(&["spec", "serviceAccountName"]).is_empty() {
            pod.set(&["spec", "serviceAccountName"], "default");
            pod.set(&["spec", "serviceAccount"], "default");
        }
        let name = pod.get_str(&["spec", "serviceAccountName"]).to_owned();
        let key = format!("{}/{name}", request.namespace);
        let account = request.engine.cache("", "serviceaccounts").and_then(|c| c.get(&key));
        let Some(account) = account else {
            let why = format!(
                "error looking up service account {key}: serviceaccount {} not found",
                api::field::quote(&name)
            );
            return Err(refuse(&Verdict { name: pod.name(), ..copy(request) }, &why));
        };
        let account = account.object()?;
        if pod.get(&["spec", "imagePullSecrets"]).is_none()
            && let Some(secrets) =
                account.0.get("imagePullSecrets").filter(|s| s.as_array().is_some_and(|a| !a.is_empty()))
        {
            pod.set(&["spec", "imagePullSecrets"], secrets.clone());
        }
        let wanted = pod
            .get(&["spec", "automountServiceAccountToken"])
            .or_else(|| account.0.get("automountServiceAccountToken"))
            .and_then(Value::as_bool)
            .unwrap_or(true);
        if wanted {
            mount_token(pod);
        }
        Ok(())
    }
}

fn copy<'a>(request: &Verdict<'a>) -> Verdict<'a> {
    Verdict {
        engine: request.engine,
        cx: request.cx,
        resource: request.resource,
        subresource: request.subresource,
        operation: request.operation,
        namespace: request.namespace,
        name: request.name,
        old: request.old,
    }
}

/// Mounts the token into every container that has nothing there yet.
fn mount_token(pod: &mut Object) {
    let standing = pod.get(&["spec", "volumes"]).and_then(Value::as_array);
    let standing = standing.into_iter().flatten().find_map(|v| {
        let name = v.get("name")?.as_str()?;
        name.starts_with("kube-api-access-").then(|| name.to_owned())
    });
    let volume = standing.clone().unwrap_or_else(api_access_name);
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let containers = pod.0.get_mut("spec").and_then(|s| s.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Value::Object(container) = container else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Value::Array(mounts) = mounts else { continue };
            if mounts.iter().any(|m| m.get("mountPath").and_then(Value::as_str) == Some(MOUNT)) {
                continue;
            }
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT}));
            used = true;
        }
    }
    if !used || standing.is_some() {
        return;
    }
    let spec = api::object::map_entry(&mut pod.0, "spec");
    if let Value::Array(volumes) = spec.entry("volumes").or_insert_with(|| json!([])) {
        volumes.push(json!({
            "name": volume,
            "projected": {
                "defaultMode": 420,
                "sources": [
                    {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{
                        "path": "namespace",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                    }]}},
                ],
            },
        }));
    }
}

/// `kube-api-access-` and five letters drawn by chance.
fn api_access_name() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let suffix: String = (0..5).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect();
    format!("kube-api-access-{suffix}")
}
