//! Mounts and devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use cri::v1::{ContainerConfig, Mount, MountPropagation, NamespaceMode};
use serde_json::{Value, json};

use super::{Fault, Input};
use crate::cgroup;

/// All mounts, in the order they are made.
pub fn mounts(input: &Input<'_>) -> Vec<Value> {
    let security = input.security();
    let privileged = security.privileged;
    let read = if privileged { "rw" } else { "ro" };
    let host_network = input.namespaces().network == NamespaceMode::Node as i32;
    let host_ipc = input.namespaces().ipc == NamespaceMode::Node as i32;
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", read]),
    ];
    mounts.extend(cgroups(input, read));
    let in_sandbox = |name: &str| input.sandbox_dir.join(name).to_string_lossy().into_owned();
    let shm = if host_ipc { "/dev/shm".to_owned() } else { in_sandbox("shm") };
    let writable = if security.readonly_rootfs { "ro" } else { "rw" };
    let own = [
        ("/dev/shm", shm, "rw"),
        ("/etc/hosts", in_sandbox("hosts"), writable),
        ("/etc/resolv.conf", in_sandbox("resolv.conf"), writable),
        ("/etc/hostname", in_sandbox("hostname"), writable),
    ];
    for (target, source, write) in own {
        let taken = input.config.mounts.iter().any(|mount| mount.container_path == target);
        // A host-network pod keeps the image's own host name file, as its name is the host's.
        let hosts_own = host_network && target == "/etc/hostname";
        if !taken && !hosts_own {
            mounts.push(mount(target, "bind", &source, &["rbind", "rprivate", write]));
        }
    }
    // A mount below another has to come after it.
    let mut asked: Vec<&Mount> = input.config.mounts.iter().collect();
    asked.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    for volume in asked {
        mounts.retain(|mount| mount["destination"] != json!(volume.container_path));
        mounts.push(bind(volume));
    }
    mounts
}

/// The container's own cgroups, to be read unless it is privileged: who may write there lifts its own limits.
/// libcontainer mounts them on v2. On v1 it leaves them writable and shows whole hierarchies, so they are bound
/// one by one.
fn cgroups(input: &Input<'_>, read: &str) -> Vec<Value> {
    let flags = ["nosuid", "noexec", "nodev"];
    if cgroup::version() == cgroup::Version::V2 {
        let options = [&flags[..], &["relatime", read]].concat();
        return vec![
            json!({ "destination": cgroup::ROOT, "type": "cgroup", "source": "cgroup", "options": options }),
        ];
    }
    // It has to be written while the others are mounted below it, so it is kept small.
    let options = [&flags[..], &["mode=755", "size=64k", "nr_inodes=64"]].concat();
    let top = json!({ "destination": cgroup::ROOT, "type": "tmpfs", "source": "tmpfs", "options": options });
    let hierarchies = cgroup::CONTROLLERS.iter().map(|name| Path::new(cgroup::ROOT).join(name));
    let bound = hierarchies.filter(|hierarchy| hierarchy.is_dir()).map(|hierarchy| {
        let source = hierarchy.join(input.cgroup.trim_start_matches('/'));
        let options = [&["rbind", "rprivate", read][..], &flags].concat();
        json!({ "destination": hierarchy, "type": "bind", "source": source, "options": options })
    });
    std::iter::once(top).chain(bound).collect()
}

fn bind(volume: &Mount) -> Value {
    let propagation = match MountPropagation::try_from(volume.propagation) {
        Ok(MountPropagation::PropagationHostToContainer) => "rslave",
        Ok(MountPropagation::PropagationBidirectional) => "rshared",
        _ => "rprivate",
    };
    let write = match (volume.readonly, volume.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    json!({
        "destination": volume.container_path,
        "type": "bind",
        "source": volume.host_path,
        "options": ["rbind", propagation, write],
    })
}

/// The host's mounts reach the container where a volume asks for it; those of the container reach the
/// host only where one asks for both ways.
pub fn root_propagation(config: &ContainerConfig) -> &'static str {
    let both = MountPropagation::PropagationBidirectional as i32;
    if config.mounts.iter().any(|mount| mount.propagation == both) { "shared" } else { "slave" }
}

/// Devices to make: those asked for, and every one of the host's where the container is privileged.
pub fn devices(config: &ContainerConfig, privileged: bool) -> Result<Vec<Value>, Fault> {
    let mut devices = Vec::new();
    if privileged {
        collect(Path::new("/dev"), "/dev", &mut devices);
        return Ok(devices);
    }
    for device in &config.devices {
        let path = Path::new(&device.host_path);
        let Some(node) = node(path, &device.container_path) else {
            if path.is_dir() {
                collect(path, &device.container_path, &mut devices);
                continue;
            }
            return Err(("devices", format!("{} is not a device", device.host_path)));
        };
        devices.push(node);
    }
    Ok(devices)
}

fn node(path: &Path, target: &str) -> Option<Value> {
    let metadata = fs::metadata(path).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return None,
    };
    Some(json!({
        "path": target,
        "type": kind,
        "major": rustix::fs::major(metadata.rdev()),
        "minor": rustix::fs::minor(metadata.rdev()),
        "fileMode": metadata.mode() & 0o7777,
        "uid": metadata.uid(),
        "gid": metadata.gid(),
    }))
}

fn collect(dir: &Path, target: &str, devices: &mut Vec<Value>) {
    /// Made by the container's own mounts.
    const OWN: [&str; 5] = ["pts", "shm", "fd", "mqueue", "console"];
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(kind) = entry.file_type() else { continue };
        let target = format!("{target}/{name}");
        if OWN.contains(&name.as_str()) || kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), &target, devices);
        } else {
            devices.extend(node(&entry.path(), &target));
        }
    }
}

/// What the devices cgroup lets through.
pub fn device_rules(config: &ContainerConfig, privileged: bool) -> Vec<Value> {
    if privileged {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    for device in &config.devices {
        if let Some(node) = node(Path::new(&device.host_path), "") {
            rules.push(json!({
                "allow": true,
                "type": node["type"],
                "major": node["major"],
                "minor": node["minor"],
                "access": device.permissions,
            }));
        }
    }
    rules
}
