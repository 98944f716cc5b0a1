//! The service with a shim that says what the test wants.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use cri::v1;
use tempfile::TempDir;

use super::client::listen;
use super::records::{ContainerRecord, Phase, SandboxRecord};
use super::{Service, recover};
use crate::shim::protocol::{Exit, Numbered, Process, Reply, Request};
use crate::shim::{PROCESS, wire};
use crate::{Config, ShimCommand, images};

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(20);
/// When the sandbox and its container were made.
const MADE: i64 = 5;
/// When the container was started.
const STARTED: i64 = 10;

/// A state directory with the sandbox `s` and, in it, the container `c`.
struct State {
    dir: TempDir,
}

impl State {
    fn new(process: Option<Process>) -> Self {
        let state = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(state.container()).unwrap();
        let sandbox = SandboxRecord {
            id: "s".into(),
            config: v1::PodSandboxConfig::default(),
            runtime_handler: String::new(),
            created_at: MADE,
            ips: Vec::new(),
        };
        sandbox.save(&state.sandbox()).unwrap();
        let container = ContainerRecord {
            id: "c".into(),
            sandbox: "s".into(),
            config: v1::ContainerConfig::default(),
            image: String::new(),
            image_ref: String::new(),
            layers: Vec::new(),
            created_at: MADE,
            log_path: None,
            stop_signal: 15,
            cgroup: "/tiphys-test-no-such-cgroup".into(),
            user: (0, 0, Vec::new()),
        };
        container.save(&state.container()).unwrap();
        if let Some(process) = process {
            fs::write(state.container().join(PROCESS), serde_json::to_vec(&process).unwrap()).unwrap();
        }
        state
    }

    fn sandbox(&self) -> PathBuf {
        self.dir.path().join("pods/s")
    }

    fn container(&self) -> PathBuf {
        self.sandbox().join("containers/c")
    }

    /// Starts a shim that does as `script` says with the first connection.
    fn shim<T: Send + 'static>(&self, script: impl FnOnce(Talk) -> T + Send + 'static) -> JoinHandle<T> {
        let listener = listen(&self.sandbox()).unwrap();
        std::thread::spawn(move || script(Talk(rustix::net::accept(&listener).unwrap())))
    }

    async fn start_within(&self, patience: Duration) -> Service {
        let config = Config {
            state: self.dir.path().to_owned(),
            shim: ShimCommand { program: "/nonexistent".into(), args: Vec::new() },
            network: None,
            registries: images::Registries::default(),
        };
        let started = tokio::time::timeout(LIMIT, Service::start_within(config, patience));
        started.await.expect("the start hangs").unwrap()
    }

    async fn start(&self) -> Service {
        self.start_within(recover::PATIENCE).await
    }
}

/// The shim's end of a connection.
struct Talk(OwnedFd);

impl Talk {
    fn next(&self) -> Option<Numbered<Request>> {
        wire::recv(self.0.as_fd()).unwrap().map(|(request, _)| request)
    }

    fn say(&self, number: u64, body: Reply) {
        wire::send(self.0.as_fd(), &Numbered { number, body }, &[]).unwrap();
    }

    fn say_state(&self, number: u64, process: Process) {
        self.say(number, Reply::State { containers: vec![process], pid_one: None });
    }

    fn say_end(&self, code: i32) {
        self.say(0, Reply::Exited { id: Some("c".into()), exec: 0, exit: exit(code) });
    }

    /// Waits until the service has gone.
    fn stay(&self) {
        while self.next().is_some() {}
    }
}

fn exit(code: i32) -> Exit {
    Exit { code, oom: false, at: 20 }
}

fn process(exit: Option<Exit>) -> Process {
    Process { id: "c".into(), pid: i32::MAX, started_at: STARTED, exit }
}

/// How the container ended: when it was started, and its exit code.
async fn end(service: &Service) -> (i64, i32) {
    let mut phase = service.container("c").unwrap().phase.subscribe();
    let ended = phase.wait_for(|phase| matches!(phase, Phase::Exited { .. }));
    let ended = tokio::time::timeout(LIMIT, ended).await.expect("the end is lost").unwrap();
    match *ended {
        Phase::Exited { started_at, exit, .. } => (started_at, exit.code),
        _ => unreachable!("waited for"),
    }
}

/// Recovers a pod whose shim answers the first request, for its state, as `answer` says, and checks what is
/// known of the container's end and whether the sandbox stays ready.
async fn check_end(
    before: Option<Process>,
    answer: impl FnOnce(Talk, u64) + Send + 'static,
    want: (i64, i32),
    ready: bool,
) {
    let state = State::new(before);
    let shim = state.shim(move |talk| {
        let asked = talk.next().unwrap();
        assert!(matches!(asked.body, Request::State));
        answer(talk, asked.number);
    });
    let service = state.start().await;
    assert_eq!(end(&service).await, want);
    assert_eq!(service.sandbox("s").unwrap().is_ready(), ready);
    service.shutdown().await;
    drop(service);
    shim.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_end_is_lost_while_recovering() {
    let running = || Some(process(None));
    let ends_before_the_answer = |talk: Talk, number| {
        talk.say_end(3);
        talk.say_state(number, process(None));
        talk.stay();
    };
    check_end(running(), ends_before_the_answer, (STARTED, 3), true).await;
    let ends_after_the_answer = |talk: Talk, number| {
        talk.say_state(number, process(None));
        talk.say_end(4);
        talk.stay();
    };
    check_end(running(), ends_after_the_answer, (STARTED, 4), true).await;
    check_end(None, ends_after_the_answer, (STARTED, 4), true).await;
    let ended_long_ago = |talk: Talk, number| {
        talk.say_state(number, process(Some(exit(5))));
        talk.stay();
    };
    check_end(running(), ended_long_ago, (STARTED, 5), true).await;
    check_end(None, ended_long_ago, (STARTED, 5), true).await;
    // The server was killed while the container was being started.
    let starts_and_ends_after_the_answer = |talk: Talk, number| {
        talk.say(number, Reply::State { containers: Vec::new(), pid_one: None });
        talk.say_end(6);
        talk.stay();
    };
    check_end(None, starts_and_ends_after_the_answer, (20, 6), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_dies_while_recovering_takes_its_containers_along() {
    let dies_unasked = |talk: Talk, _| drop(talk);
    check_end(Some(process(None)), dies_unasked, (STARTED, 255), false).await;
    let dies_after_the_answer = |talk: Talk, number| talk.say_state(number, process(None));
    check_end(Some(process(None)), dies_after_the_answer, (STARTED, 255), false).await;
}

#[tokio::test]
async fn a_shim_that_does_not_answer_is_not_waited_for() {
    let state = State::new(Some(process(None)));
    let (go_on, stopped) = mpsc::channel();
    let shim = state.shim(move |talk| {
        let asked = talk.next().unwrap();
        stopped.recv().unwrap();
        talk.say_state(asked.number, process(Some(exit(7))));
        talk.stay();
    });
    let service = state.start_within(Duration::from_millis(10)).await;
    assert!(service.sandbox("s").unwrap().is_ready());
    assert!(service.container("c").unwrap().pid().is_ok());
    go_on.send(()).unwrap();
    assert_eq!(end(&service).await, (STARTED, 7));
    service.shutdown().await;
    drop(service);
    shim.join().unwrap();
}

#[tokio::test]
async fn torn_records_keep_no_node_down() {
    let state = State::new(None);
    fs::write(state.container().join(PROCESS), "").unwrap();
    let half = state.sandbox().join("containers/half");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("container.json"), "{\"id\":").unwrap();
    let torn = state.dir.path().join("pods/torn");
    fs::create_dir(&torn).unwrap();
    fs::write(torn.join("sandbox.json"), "").unwrap();
    let service = state.start().await;
    assert_eq!(end(&service).await, (MADE, 255));
    assert!(service.container("half").is_err() && service.sandbox("torn").is_err());
    assert!(!torn.exists());
}

#[tokio::test]
async fn the_shim_of_a_sandbox_never_ready_ends() {
    let state = State::new(None);
    fs::remove_file(state.sandbox().join("sandbox.json")).unwrap();
    let shim = state.shim(|talk| talk.next().map(|asked| asked.body));
    let _service = state.start().await;
    assert!(!state.sandbox().exists());
    assert!(matches!(shim.join().unwrap(), Some(Request::Shutdown)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_given_up_while_it_is_being_started_is_killed() {
    let state = State::new(Some(process(None)));
    let (tell, told) = tokio::sync::oneshot::channel();
    let shim = state.shim(move |talk| {
        let asked = talk.next().unwrap();
        talk.say_state(asked.number, process(None));
        let Some(Numbered { body: Request::Exec { exec, .. }, .. }) = talk.next() else { return None };
        tell.send(()).unwrap();
        Some((exec, talk.next().map(|asked| asked.body)))
    });
    let service = state.start().await;
    let client = service.sandbox("s").unwrap().client().unwrap();
    let command = ["sleep".to_owned(), "1000".to_owned()];
    tokio::select! {
        result = service.run_command("c", &command, None) => panic!("nobody answers it: {result:?}"),
        asked = tokio::time::timeout(LIMIT, told) => asked.expect("nobody asks").unwrap(),
    }
    assert_eq!(client.waiting(), (0, 0));
    service.shutdown().await;
    drop((service, client));
    let (exec, then) = shim.join().unwrap().unwrap();
    assert!(matches!(then, Some(Request::KillExec { exec: killed }) if killed == exec), "{then:?}");
}
