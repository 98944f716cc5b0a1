//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or not reached.

use api::{Object, Status};
use registry::{Operation, Verdict};
use serde_json::{Value, json};

use crate::{Plugin, is};

const SECONDS: i64 = 300;
const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(crate) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is(request, "pods", &[Operation::Create, Operation::Update])
    }

    fn mutate(&self, _: &Verdict<'_>, pod: &mut Object) -> Result<(), Status> {
        let spec = api::object::map_entry(&mut pod.0, "spec");
        let list = spec.entry("tolerations").or_insert_with(|| json!([]));
        let Value::Array(list) = list else { return Ok(()) };
        for taint in TAINTS {
            let tolerated = list.iter().any(|t| {
                let text = |f: &str| t.get(f).and_then(Value::as_str).unwrap_or_default();
                (text("key") == *taint || text("key").is_empty())
                    && matches!(text("effect"), "NoExecute" | "")
            });
            if !tolerated {
                list.push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
            }
        }
        Ok(())
    }
}
