//! ServiceAccount: a pod runs as an account that exists, with its token mounted.

use api::{Object, Status};
use registry::{Operation, Verdict};
use serde_json::{Value, json};

use crate::{Plugin, is, items, refuse, text};

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
            return Err(refuse(request, &why));
        };
        let account = account.object()?;
        if account.annotation("kubernetes.io/enforce-mountable-secrets") == Some("true") {
            mountable(&account, pod).map_err(|why| refuse(request, &why))?;
        }
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

/// A pod of such an account uses the secrets alone that the account names.
fn mountable(account: &Object, pod: &Object) -> Result<(), String> {
    let name = account.name();
    let names = |list: &str| -> Vec<String> {
        let all = account.0.get(list).and_then(Value::as_array);
        all.into_iter().flatten().map(|s| text(s, "name").to_owned()).collect()
    };
    let (secrets, pull) = (names("secrets"), names("imagePullSecrets"));
    let unknown = |secret: &str| !secrets.iter().any(|known| known == secret);
    let spec = pod.0.get("spec").unwrap_or(&Value::Null);
    for secret in items(spec, "volumes").filter_map(|v| v.get("secret")).map(|s| text(s, "secretName")) {
        if unknown(secret) {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    for (list, word) in [("initContainers", "init container"), ("containers", "container")] {
        for container in items(spec, list) {
            let envs = items(container, "env")
                .filter_map(|e| Some((text(e, "name"), e.get("valueFrom")?.get("secretKeyRef")?)));
            let mut unknown_ones = envs.filter(|(_, reference)| unknown(text(reference, "name")));
            if let Some((env, reference)) = unknown_ones.next() {
                return Err(format!(
                    "{word} {} with envVar {env} referencing secret.secretName=\"{}\" is not allowed because service account {name} does not reference that secret",
                    text(container, "name"),
                    text(reference, "name")
                ));
            }
        }
    }
    for (i, secret) in items(spec, "imagePullSecrets").map(|s| text(s, "name")).enumerate() {
        if !pull.iter().any(|known| known == secret) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{secret}\" is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
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
