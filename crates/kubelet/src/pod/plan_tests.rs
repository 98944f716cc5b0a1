use serde_json::{Value, json};

use super::super::backoff::Backoff;
use super::super::images::Image;
use super::super::security::ImageUser;
use super::*;

const SANDBOX: &str = "sandbox";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A pod of one container, `c`, whose image and volumes are there.
struct World {
    pod: Pod,
    observed: Observed,
    memory: Memory,
}

impl World {
    fn new(spec: &Value, containers: Vec<observed::Container>) -> World {
        let mut whole = json!({"containers": [{"name": "c"}], "terminationGracePeriodSeconds": 7});
        for (field, value) in spec.as_object().into_iter().flatten() {
            whole[field] = value.clone();
        }
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": whole});
        let sandbox = observed::Sandbox {
            id: SANDBOX.into(),
            attempt: 0,
            ready: true,
            created_at: 0,
            ips: vec!["10.1.2.3".into()],
        };
        let image = Image { reference: "i".into(), user: ImageUser::default() };
        let images = [("c".to_owned(), image)].into();
        World {
            pod: serde_json::from_value(pod).unwrap(),
            observed: Observed { sandboxes: vec![sandbox], containers },
            memory: Memory { volumes_ready: true, images, ..Memory::default() },
        }
    }

    fn plan(&self, now: Timestamp) -> Plan {
        plan(&View { pod: &self.pod, observed: &self.observed, memory: &self.memory, now })
    }
}

fn container(restarts: u32, state: State) -> observed::Container {
    observed::Container {
        id: format!("c{restarts}"),
        name: "c".into(),
        sandbox: SANDBOX.into(),
        restart_count: restarts,
        state,
        finished_at: 100 * 1_000_000_000,
        exit_code: 1,
        ..observed::Container::default()
    }
}

fn start(attempt: u32) -> Action {
    Action::Start { container: "c".into(), attempt, sandbox: SANDBOX.into() }
}

#[test]
fn what_is_not_there_is_started() {
    let world = World::new(&json!({}), Vec::new());
    assert_eq!(world.plan(at(100)).actions, [start(0)]);
    let running = World::new(&json!({}), vec![container(0, State::Running)]);
    assert_eq!(running.plan(at(100)), Plan::default());
}

#[test]
fn what_runs_before_the_others_is_resized_as_they_are() {
    let limit = |memory: &str| json!({"name": "c", "resources": {"limits": {"memory": memory}}});
    let spec = |memory: &str| json!({"initContainers": [limit(memory)], "containers": [{"name": "main"}]});
    let mut world = World::new(&spec("64Mi"), vec![container(0, State::Running)]);
    let had = super::super::qos::resources(&world.pod, &spec::init_containers(&world.pod)[0], 0);
    world.observed.containers[0].resources = Some(had);
    assert_eq!(world.plan(at(100)), Plan::default());
    world.pod = World::new(&spec("32Mi"), Vec::new()).pod;
    assert_eq!(world.plan(at(100)).actions, [Action::Resize { id: "c0".into(), container: "c".into() }]);
}

#[test]
fn what_has_exited_runs_again_at_once_and_then_later() {
    let mut world = World::new(&json!({}), vec![container(0, State::Exited)]);
    assert_eq!(world.plan(at(100)).actions, [start(1)]);
    // The start is in hand: nothing waits.
    world.memory.backoffs.insert("c".into(), Backoff::next(None, at(100), at(100)));
    world.memory.busy.insert(Job::Start("c".into()));
    assert_eq!(world.plan(at(100)), Plan::default());
    world.memory.busy.clear();
    world.observed.containers.insert(0, container(1, State::Exited));
    let waits = world.plan(at(101));
    assert_eq!(waits.actions, [Action::ReportBackOff { container: "c".into(), attempt: 1 }]);
    assert_eq!(waits.wake_at, Some(at(110)));
    assert_eq!(world.plan(at(110)).actions, [start(2)]);
}

#[test]
fn what_has_run_its_course_is_given_back() {
    let never = World::new(&json!({"restartPolicy": "Never"}), vec![container(0, State::Exited)]);
    assert_eq!(never.plan(at(100)).actions, [Action::TearDown { remove: false }]);
}

#[test]
fn a_pod_that_goes_ends_its_containers_first() {
    let mut world = World::new(&json!({}), vec![container(0, State::Running)]);
    world.memory.gone = true;
    let stops = world.plan(at(100)).actions;
    let [Action::Stop { id, grace, .. }] = &stops[..] else { panic!("{stops:?}") };
    assert_eq!((id.as_str(), *grace), ("c0", Duration::from_secs(7)));
    world.observed.containers[0].state = State::Exited;
    assert_eq!(world.plan(at(101)).actions, [Action::TearDown { remove: true }]);
    world.memory.torn = Torn::Removed;
    assert_eq!(world.plan(at(101)), Plan::default());
}

#[test]
fn only_the_newest_dead_are_kept() {
    let dead = |restarts| container(restarts, State::Exited);
    let world = World::new(&json!({}), vec![container(3, State::Running), dead(2), dead(1), dead(0)]);
    let removed = |id: &str| Action::RemoveContainer { id: id.into() };
    assert_eq!(world.plan(at(200)).actions, [removed("c1"), removed("c0")]);
}
