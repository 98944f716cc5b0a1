//! The process section: command, environment, identity, rights.

use std::collections::BTreeSet;

use cri::v1::LinuxContainerSecurityContext;
use serde_json::{Value, json};

use super::{Fault, Input};

/// What a container may do unless told otherwise: the set Docker and containerd grant.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability Linux knows, by number.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Those that this process has and can therefore pass on.
fn ours() -> BTreeSet<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok())
        .unwrap_or(u64::MAX);
    CAPABILITIES.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, name)| *name).collect()
}

/// The capabilities a container gets: the default set with what is added and without what is dropped;
/// all there are where it is privileged.
pub fn capabilities(security: &LinuxContainerSecurityContext) -> Result<BTreeSet<&'static str>, Fault> {
    let ours = ours();
    if security.privileged {
        return Ok(ours);
    }
    let mut set: BTreeSet<&str> = DEFAULT_CAPABILITIES.into_iter().collect();
    let Some(asked) = &security.capabilities else { return Ok(&set & &ours) };
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    if asked.add_capabilities.iter().any(is_all) {
        set.extend(CAPABILITIES);
    }
    if asked.drop_capabilities.iter().any(is_all) {
        set.clear();
    }
    for name in asked.add_capabilities.iter().filter(|name| !is_all(name)) {
        set.insert(known(name)?);
    }
    for name in asked.drop_capabilities.iter().filter(|name| !is_all(name)) {
        set.remove(known(name)?);
    }
    Ok(&set & &ours)
}

fn known(name: &str) -> Result<&'static str, Fault> {
    let upper = name.to_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    CAPABILITIES
        .into_iter()
        .find(|known| &known[4..] == bare)
        .ok_or_else(|| ("capabilities", format!("unknown capability {name:?}")))
}

/// The section itself.
pub fn process(input: &Input<'_>) -> Result<Value, Fault> {
    let security = input.security();
    let image = input.image.config().as_ref();
    let strings = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let entrypoint = strings(image.and_then(|image| image.entrypoint().as_ref()));
    let default_args = strings(image.and_then(|image| image.cmd().as_ref()));
    // A command replaces the image's entry point and, with it, the image's arguments.
    let (mut args, rest) = if input.config.command.is_empty() {
        let rest = if input.config.args.is_empty() { default_args } else { input.config.args.clone() };
        (entrypoint, rest)
    } else {
        (input.config.command.clone(), input.config.args.clone())
    };
    args.extend(rest);
    if args.is_empty() {
        return Err(("command", "no command specified".into()));
    }
    let image_cwd = image.and_then(|image| image.working_dir().clone()).unwrap_or_default();
    let cwd = [input.config.working_dir.as_str(), image_cwd.as_str(), "/"];
    let cwd = cwd.into_iter().find(|cwd| !cwd.is_empty());
    let set = capabilities(&security)?;
    let ambient: BTreeSet<&str> = match &security.capabilities {
        Some(asked) => {
            let names = asked.add_ambient_capabilities.iter();
            names.map(|name| known(name)).collect::<Result<_, _>>()?
        }
        None => BTreeSet::new(),
    };
    let mut process = json!({
        "terminal": input.config.tty,
        "user": {
            "uid": input.user.uid,
            "gid": input.user.gid,
            "additionalGids": input.user.groups,
        },
        "args": args,
        "env": environment(input),
        "cwd": cwd,
        "capabilities": {
            "bounding": set,
            "effective": set,
            "permitted": set,
            "inheritable": ambient,
            "ambient": ambient,
        },
    });
    if security.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    Ok(process)
}

fn environment(input: &Input<'_>) -> Vec<String> {
    let image = input.image.config().as_ref().and_then(|image| image.env().clone()).unwrap_or_default();
    let mut entries: Vec<(String, String)> = image
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let mut set = |key: &str, value: &str, over: bool| match entries.iter_mut().find(|(name, _)| name == key)
    {
        Some(entry) if over => value.clone_into(&mut entry.1),
        Some(_) => {}
        None => entries.push((key.to_owned(), value.to_owned())),
    };
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", false);
    if input.config.tty {
        set("TERM", "xterm", false);
    }
    set("HOSTNAME", &hostname(input), false);
    for env in &input.config.envs {
        set(&env.key, &env.value, true);
    }
    entries.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn hostname(input: &Input<'_>) -> String {
    if !input.sandbox.hostname.is_empty() {
        return input.sandbox.hostname.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
