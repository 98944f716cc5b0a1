//! What every runtime must do.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use cri::{AttachOptions, Error, ExecOptions, TerminalSize, v1};
use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{BUSYBOX, PATIENCE, World, container};

type Running = Pin<Box<dyn Future<Output = World> + Send>>;

/// One promise.
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// Keeps the promise or panics; gives the world back.
    pub run: fn(World) -> Running,
}

/// Names functions of a world as cases.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        &[$($crate::suite::Case { name: stringify!($name), run: |mut world| Box::pin(async move {
            $name(&mut world).await;
            world
        }) }),*]
    };
}

/// All promises.
pub const CASES: &[Case] = crate::cases![
    a_container_runs_to_its_end_and_its_log_tells,
    a_container_is_who_and_what_it_was_told,
    no_signal_is_ignored,
    rights_are_the_default_ones_and_change,
    the_default_seccomp_profile_holds_for_exec_too,
    a_sandbox_is_shared_and_named,
    the_end_by_memory_is_told,
    a_stop_asks_then_kills,
    what_cannot_be_started_is_told,
    exec_tells_code_and_output_and_times_out,
    exec_streams_and_takes_input,
    exec_has_a_terminal_of_its_size,
    attach_joins_a_running_container,
    ports_are_forwarded,
    logs_are_reopened,
    statistics_and_limits_follow_the_container,
    everything_may_be_repeated_and_is_gone_at_the_end,
    a_shared_pid_namespace_is_shared,
];

async fn a_container_runs_to_its_end_and_its_log_tells(world: &mut World) {
    // It goes on when the start has been answered: containerd takes the time of the start only then.
    let script = "until [ -e /go ]; do sleep 0.01; done; echo out; echo err >&2; printf rest; exit 3";
    let mut events = world.runtime.events().await.unwrap();
    let (_, container) = world.start("hello", script).await;
    // The container's end may take the command with it.
    assert!(matches!(world.exec(&container, "touch /go").await.0, 0 | 137));
    let status = world.exited(&container, &mut events).await;
    let log = world.log("hello");
    assert_eq!(status.exit_code, 3);
    assert_eq!(status.reason, "Error");
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P rest"]);
    assert_eq!(status.state(), v1::ContainerState::ContainerExited);
}

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

async fn a_container_is_who_and_what_it_was_told(world: &mut World) {
    let volume = world.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "from the host").unwrap();
    let script = "id -u; id -g; id -G; pwd; echo $IMAGE $OWN; cat /mnt/file; echo; \
                  touch /mnt/x 2>/dev/null || echo read-only volume; touch /x 2>/dev/null || echo read-only root";
    let (status, log) = world
        .run_with("who", script, |config| {
            config.working_dir = "/tmp".into();
            config.envs.push(v1::KeyValue { key: "OWN".into(), value: "own".into() });
            config.mounts.push(v1::Mount {
                container_path: "/mnt".into(),
                host_path: volume.to_string_lossy().into_owned(),
                readonly: true,
                ..Default::default()
            });
            let security = security(config);
            security.run_as_user = Some(v1::Int64Value { value: 33 });
            security.supplemental_groups = vec![7];
            security.readonly_rootfs = true;
        })
        .await;
    assert_eq!(status.exit_code, 0, "{log}");
    let lines: Vec<&str> = log.lines().map(|line| line.strip_prefix("stdout F ").unwrap()).collect();
    let mut groups: Vec<&str> = lines[2].split(' ').collect();
    groups.sort_unstable();
    assert_eq!(groups, ["34", "40", "7"]);
    assert_eq!(&lines[..2], ["33", "34"]);
    let rest = ["/tmp", "yes own", "from the host", "read-only volume", "read-only root"];
    assert_eq!(&lines[3..], rest);
}

async fn no_signal_is_ignored(world: &mut World) {
    let ask = "grep SigIgn /proc/self/status";
    let (_, log) = world.run_with("signals", ask, |_| ()).await;
    let (_, container) = world.start("running", "sleep 1000").await;
    let (_, output) = world.exec(&container, ask).await;
    for text in [log, output] {
        let mask = text.trim().rsplit('\t').next().and_then(|mask| u64::from_str_radix(mask, 16).ok());
        // Those from 32 on have no meaning of their own; busybox's shell itself ignores SIGQUIT.
        assert_eq!(mask.map(|mask| mask & 0x7fff_fffb), Some(0), "{text}");
    }
}

async fn rights_are_the_default_ones_and_change(world: &mut World) {
    let script = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/timer_list | wc -c; \
                  echo 1 2>/dev/null >/proc/sys/vm/swappiness || echo refused";
    let (_, log) = world.run("default", script).await;
    let words: String = log.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("CapEff: 00000000a80425fb"), "{words}");
    assert!(words.contains("NoNewPrivs: 0") && words.contains("Seccomp: 0"), "{words}");
    assert!(words.contains("stdout F 0 stdout F refused"), "{words}");
    let (_, log) = world
        .run_with("changed", script, |config| {
            let security = security(config);
            security.no_new_privs = true;
            security.capabilities = Some(v1::Capability {
                add_capabilities: vec!["NET_ADMIN".into()],
                drop_capabilities: vec!["ALL".into()],
                ..Default::default()
            });
        })
        .await;
    let words: String = log.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("CapEff: 0000000000001000") && words.contains("NoNewPrivs: 1"), "{words}");
}

async fn the_default_seccomp_profile_holds_for_exec_too(world: &mut World) {
    let (_, container) = world
        .start_with("filtered", "sleep 1000", |config| {
            security(config).seccomp = Some(v1::SecurityProfile {
                profile_type: v1::security_profile::ProfileType::RuntimeDefault as i32,
                ..Default::default()
            });
        })
        .await;
    let (code, out) =
        world.exec(&container, "grep Seccomp: /proc/self/status; grep Seccomp: /proc/1/status").await;
    assert_eq!((code, out.as_str()), (0, "Seccomp:\t2\nSeccomp:\t2\n"));
}

async fn a_sandbox_is_shared_and_named(world: &mut World) {
    let script = "hostname; cat /etc/hostname /etc/resolv.conf; readlink /proc/self/ns/net; echo $HOSTNAME; \
                  df /dev/shm | tail -n 1 | awk '{print $2}'; ip addr show lo | grep -c 127.0.0.1";
    let (_, log) = world.run("first", script).await;
    let lines: Vec<&str> = log.lines().map(|line| line.strip_prefix("stdout F ").unwrap()).collect();
    assert_eq!(lines[..2], ["first", "first"]);
    assert_eq!(
        lines[2..5],
        ["search default.svc.cluster.local svc.cluster.local", "nameserver 10.96.0.10", "options ndots:5"]
    );
    assert_ne!(lines[5], std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
    assert_eq!(lines[6..], ["first", "65536", "1"]);
}

async fn the_end_by_memory_is_told(world: &mut World) {
    let script = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let (mut status, log) = world
        .run_with("greedy", script, |config| {
            let resources = config.linux.as_mut().unwrap().resources.as_mut().unwrap();
            resources.memory_limit_in_bytes = 16 << 20;
        })
        .await;
    // containerd may hear of the end before it hears of the reason, which it writes down without a word.
    let deadline = Instant::now() + PATIENCE;
    while world.embedded.is_none() && status.reason == "Error" && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
        status = world.runtime.container_status(&status.id).await.unwrap();
    }
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{log}");
}

async fn a_stop_asks_then_kills(world: &mut World) {
    let polite = "trap 'echo bye; exit 0' TERM; echo ready; while true; do sleep 0.01; done";
    let (_, container) = world.start("polite", polite).await;
    wait_for_log(world, "polite", "ready").await;
    world.runtime.stop_container(&container, Duration::from_secs(10)).await.unwrap();
    let status = world.runtime.container_status(&container).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert!(world.log("polite").ends_with("stdout F bye\n"));
    let deaf = "trap '' TERM; echo ready; while true; do sleep 0.01; done";
    let (_, container) = world.start("deaf", deaf).await;
    wait_for_log(world, "deaf", "ready").await;
    world.runtime.stop_container(&container, Duration::from_millis(100)).await.unwrap();
    let status = world.runtime.container_status(&container).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
}

/// Waits until the log has `text`, by looking whenever something in its directory changes.
async fn wait_for_log(world: &World, name: &str, text: &str) {
    let changes = Inotify::init().unwrap();
    let wanted = WatchMask::CREATE | WatchMask::MODIFY;
    changes.watches().add(world.log_dir(), wanted).unwrap();
    let mut changes = changes.into_event_stream([0; 4096]).unwrap();
    let path = world.log_dir().join(format!("{name}.log"));
    // It is not there before the container starts.
    while !std::fs::read_to_string(&path).is_ok_and(|log| log.contains(text)) {
        changes.next().await.unwrap().unwrap();
    }
}

async fn what_cannot_be_started_is_told(world: &mut World) {
    let sandbox_config = world.sandbox("broken");
    let sandbox = world.runtime.run_pod_sandbox(sandbox_config.clone(), "").await.unwrap();
    let mut config = container("missing", "");
    config.command = vec!["no-such-program".into()];
    let id = world.runtime.create_container(&sandbox, config, &sandbox_config).await.unwrap();
    let error = world.runtime.start_container(&id).await.unwrap_err();
    assert!(error.to_string().contains("no-such-program"), "{error}");
    let status = world.runtime.container_status(&id).await.unwrap();
    assert_eq!((status.state(), status.exit_code), (v1::ContainerState::ContainerExited, 128));
    assert_eq!(status.reason, "StartError");
    let mut config = container("no-image", "");
    config.image.as_mut().unwrap().image = "docker.io/library/absent:latest".into();
    let error = world.runtime.create_container(&sandbox, config, &sandbox_config).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let again = world.runtime.run_pod_sandbox(sandbox_config, "").await.unwrap_err();
    assert!(matches!(again, Error::AlreadyExists { .. }), "{again}");
}

async fn exec_tells_code_and_output_and_times_out(world: &mut World) {
    let (_, container) = world.start("exec", "sleep 1000").await;
    assert_eq!(world.exec(&container, "echo $IMAGE; exit 5").await, (5, "yes\n".into()));
    assert_eq!(world.exec(&container, "kill -9 $$").await.0, 137);
    let command = ["sleep".to_owned(), "1000".to_owned()];
    let late = world.runtime.exec_sync(&container, &command, Some(Duration::from_millis(50))).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded { .. })), "{late:?}");
    let missing =
        world.runtime.exec_sync(&container, &["no-such-program".to_owned()], None).await.unwrap_err();
    assert!(missing.to_string().contains("no-such-program"), "{missing}");
}

async fn exec_streams_and_takes_input(world: &mut World) {
    let (_, container) = world.start("streams", "sleep 1000").await;
    let command = ["sh", "-c", "tr a-z A-Z; echo end >&2; exit 4"].map(str::to_owned).to_vec();
    let options = ExecOptions { command, stdin: true, stdout: true, stderr: true, tty: false };
    let mut streams = world.runtime.exec(&container, options).await.unwrap();
    let input = "some text\n".repeat(50_000);
    let (mut stdin, mut stdout) = (streams.stdin.take().unwrap(), streams.stdout.take().unwrap());
    let write = async {
        stdin.write_all(input.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let mut output = String::new();
    let ((), read) = tokio::join!(write, stdout.read_to_string(&mut output));
    read.unwrap();
    assert_eq!(output, input.to_uppercase());
    let mut error = String::new();
    streams.stderr.take().unwrap().read_to_string(&mut error).await.unwrap();
    assert_eq!((error.as_str(), streams.exit.await.unwrap()), ("end\n", 4));
}

async fn exec_has_a_terminal_of_its_size(world: &mut World) {
    let (_, container) = world.start("terminal", "sleep 1000").await;
    let script = "tty >/dev/null || exit 1; trap 'stty size; exit 6' WINCH; echo ready; \
                  while true; do sleep 1000 & wait; done";
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let options = ExecOptions { command, stdin: true, stdout: true, stderr: false, tty: true };
    let mut streams = world.runtime.exec(&container, options).await.unwrap();
    let size = TerminalSize { width: 132, height: 43 };
    let mut output = Vec::new();
    let mut stdout = streams.stdout.take().unwrap();
    // The size is told to who already listens.
    while !output.ends_with(b"ready\r\n") {
        assert!(stdout.read_buf(&mut output).await.unwrap() > 0, "{}", output.escape_ascii());
    }
    streams.resize.as_ref().unwrap().send(size).await.unwrap();
    stdout.read_to_end(&mut output).await.unwrap();
    assert_eq!(output.escape_ascii().to_string(), "ready\\r\\n43 132\\r\\n");
    assert_eq!(streams.exit.await.unwrap(), 6);
}

async fn attach_joins_a_running_container(world: &mut World) {
    let (_, container) = world
        .start_with("attached", "echo early; while read line; do echo got $line; done; exit 9", |config| {
            config.stdin = true;
            config.stdin_once = true;
        })
        .await;
    let mut events = world.runtime.events().await.unwrap();
    wait_for_log(world, "attached", "early").await;
    let options = AttachOptions { stdin: true, stdout: true, stderr: true, tty: false };
    let mut streams = world.runtime.attach(&container, options).await.unwrap();
    let mut stdin = streams.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut output = String::new();
    streams.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "got one\ngot two\n");
    streams.exit.await.unwrap();
    assert_eq!(world.exited(&container, &mut events).await.exit_code, 9);
    assert_eq!(world.log("attached"), "stdout F early\nstdout F got one\nstdout F got two\n");
}

async fn ports_are_forwarded(world: &mut World) {
    let script = "echo page >/tmp/index.html; httpd -f -p 127.0.0.1:8080 -h /tmp";
    let (sandbox, container) = world.start("web", script).await;
    let listening = "until grep -q ':1F90 ' /proc/net/tcp; do :; done";
    assert_eq!(world.exec(&container, listening).await.0, 0);
    let mut stream = world.runtime.port_forward(&sandbox, 8080).await.unwrap();
    stream.writer.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.reader.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("page\n"), "{answer}");
    let refused = match world.runtime.port_forward(&sandbox, 9).await {
        Ok(mut stream) => stream.reader.read_to_string(&mut String::new()).await.unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(refused.contains("refused"), "{refused}");
}

async fn logs_are_reopened(world: &mut World) {
    let script = "echo one; read line; echo two";
    let (_, container) = world
        .start_with("rotated", script, |config| {
            config.stdin = true;
            config.stdin_once = true;
        })
        .await;
    wait_for_log(world, "rotated", "one").await;
    let (path, old) = (world.log_dir().join("rotated.log"), world.log_dir().join("rotated.log.1"));
    std::fs::rename(&path, &old).unwrap();
    world.runtime.reopen_container_log(&container).await.unwrap();
    let mut events = world.runtime.events().await.unwrap();
    let options = AttachOptions { stdin: true, ..AttachOptions::default() };
    let mut streams = world.runtime.attach(&container, options).await.unwrap();
    streams.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    world.exited(&container, &mut events).await;
    assert_eq!(world.log("rotated"), "stdout F two\n");
}

async fn statistics_and_limits_follow_the_container(world: &mut World) {
    let (sandbox, container) = world.start("measured", "echo x >/file; sleep 1000").await;
    let stats = world.runtime.container_stats(&container).await.unwrap();
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
    let stats = world.runtime.pod_sandbox_stats(&sandbox).await.unwrap();
    assert_eq!(stats.linux.unwrap().containers.len(), 1);
    let change = v1::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    world.runtime.update_container_resources(&container, change).await.unwrap();
    let stats = world.runtime.container_stats(&container).await.unwrap();
    let available = stats.memory.unwrap().available_bytes.unwrap().value;
    assert!(available > 0 && available <= 64 << 20, "{available}");
}

async fn everything_may_be_repeated_and_is_gone_at_the_end(world: &mut World) {
    let (sandbox, container) = world.start("brief", "sleep 1000").await;
    for _ in 0..2 {
        world.runtime.stop_container(&container, Duration::ZERO).await.unwrap();
    }
    for _ in 0..2 {
        world.runtime.stop_pod_sandbox(&sandbox).await.unwrap();
    }
    let status = world.runtime.pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    for _ in 0..2 {
        world.runtime.remove_container(&container).await.unwrap();
        world.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    }
    assert!(world.runtime.pod_sandbox_status(&sandbox).await.unwrap_err().is_not_found());
    assert!(world.runtime.container_status(&container).await.unwrap_err().is_not_found());
    for _ in 0..2 {
        world.runtime.remove_image(spec(BUSYBOX)).await.unwrap();
    }
    assert_eq!(world.runtime.image_status(spec(BUSYBOX)).await.unwrap(), None);
}

fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.into(), ..Default::default() }
}

async fn a_shared_pid_namespace_is_shared(world: &mut World) {
    let mut sandbox_config = world.sandbox("family");
    let shared = v1::NamespaceOption { pid: v1::NamespaceMode::Pod as i32, ..Default::default() };
    let linux = sandbox_config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options = Some(shared.clone());
    let sandbox = world.runtime.run_pod_sandbox(sandbox_config.clone(), "").await.unwrap();
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let mut config = container(name, &format!("sleep 100{}", name.len()));
        security(&mut config).namespace_options = Some(shared.clone());
        let id = world.runtime.create_container(&sandbox, config, &sandbox_config).await.unwrap();
        world.runtime.start_container(&id).await.unwrap();
        ids.push(id);
    }
    let (_, out) = world.exec(&ids[0], "ps | grep -c '[s]leep 1003'").await;
    assert_eq!(out, "2\n");
}
