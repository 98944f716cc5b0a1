use k8s_openapi::api::core::v1::ConfigMap;

use super::*;

fn object(name: &str, version: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.namespace = Some("ns".into());
    object.metadata.name = Some(name.into());
    object.metadata.uid = Some(format!("uid-{name}"));
    object.metadata.resource_version = Some(version.into());
    object
}

fn tell_all(informer: &Informer<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    informer.on_change(move |change| {
        let name = change.object().metadata.name.clone().unwrap();
        let word = match change {
            Change::Added(_) => "added",
            Change::Updated { .. } => "updated",
            Change::Deleted(_) => "deleted",
        };
        log.lock().push(format!("{word} {name}"));
    });
    told
}

#[test]
fn handlers_hear_each_object_once_and_relists_as_differences() {
    let informer = Informer::<ConfigMap>::default();
    informer.apply(object("a", "1"));
    let told = tell_all(&informer);
    informer.apply(object("b", "2"));
    informer.apply(object("a", "3"));
    informer.apply(object("a", "3"));
    informer.apply(object("c", "4"));
    informer.retain(&["a", "c"].map(|name| ObjectKey::new("ns", name)).into());
    informer.remove_last(object("c", "5"));
    informer.remove_last(object("c", "5"));
    assert_eq!(*told.lock(), ["added a", "added b", "updated a", "added c", "deleted b", "deleted c"]);
    assert_eq!(informer.len(), 1);
}

#[test]
fn an_object_made_again_under_its_name_is_another() {
    let informer = Informer::<ConfigMap>::default();
    let told = tell_all(&informer);
    informer.apply(object("a", "1"));
    let mut again = object("a", "2");
    again.metadata.uid = Some("other".into());
    informer.apply(again);
    assert_eq!(*told.lock(), ["added a", "deleted a", "added a"]);
}

#[tokio::test]
async fn a_subscription_merges_what_was_not_pulled() {
    let informer = Informer::<ConfigMap>::default();
    let mut changes = informer.subscribe();
    informer.apply(object("a", "1"));
    informer.apply(object("a", "2"));
    informer.apply(object("b", "3"));
    informer.remove(&ObjectKey::new("ns", "b"));
    informer.apply(object("c", "4"));
    assert!(
        matches!(changes.next().await, Change::Added(o) if o.metadata.resource_version.as_deref() == Some("2"))
    );
    assert!(matches!(changes.next().await, Change::Added(o) if o.metadata.name.as_deref() == Some("c")));
    informer.apply(object("a", "5"));
    informer.remove(&ObjectKey::new("ns", "a"));
    assert!(
        matches!(changes.next().await, Change::Deleted(o) if o.metadata.resource_version.as_deref() == Some("2"))
    );
}
