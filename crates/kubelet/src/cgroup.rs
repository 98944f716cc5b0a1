//! The cgroups of pods, as far as the kubelet owns them: the runtime makes them below the parent it is told.

use std::io;

/// Removes a pod's cgroup from every hierarchy. Succeeds where it does not exist.
///
/// # Errors
/// Where processes are still in it.
pub fn remove(path: &str) -> io::Result<()> {
    let relative = path.trim_start_matches('/');
    if relative.is_empty() {
        return Ok(());
    }
    const ROOT: &str = "/sys/fs/cgroup";
    let mut roots = vec![std::path::PathBuf::from(ROOT)];
    roots.extend(std::fs::read_dir(ROOT)?.flatten().map(|entry| entry.path()));
    for dir in roots.into_iter().map(|root| root.join(relative)).filter(|dir| dir.is_dir()) {
        remove_tree(&dir)?;
    }
    Ok(())
}

fn remove_tree(dir: &std::path::Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
