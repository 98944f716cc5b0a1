//! Kubeconfig files: our own, and our context in the user's.
//!
//! Merging keeps every other entry; comments are lost, as `kubectl config` loses them. Writers are
//! kept apart by the lock file that kubectl uses too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::files;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    /// Another program writes the file, or died at it.
    #[error("{0} exists: another program is writing the kubeconfig, or died at it (then remove the file)")]
    Locked(PathBuf),
}

/// How a client shows who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Both PEM.
    Certificate {
        certificate: String,
        key: String,
    },
    Token(String),
    /// None: as `system:anonymous`.
    Nothing,
}

/// One cluster and how to reach it; cluster, user and context bear the same name.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// `https://HOST:PORT`
    pub server: String,
    /// PEM; none: the system's roots.
    pub authority: Option<String>,
    pub credentials: Credentials,
}

impl Entry {
    fn sections(&self) -> [(&'static str, &'static str, Value); 3] {
        let encode = |text: &str| STANDARD.encode(text);
        let mut cluster = json!({"server": self.server});
        if let Some(authority) = &self.authority {
            cluster["certificate-authority-data"] = encode(authority).into();
        }
        let user = match &self.credentials {
            Credentials::Certificate { certificate, key } => json!({
                "client-certificate-data": encode(certificate),
                "client-key-data": encode(key),
            }),
            Credentials::Token(token) => json!({ "token": token }),
            Credentials::Nothing => json!({}),
        };
        let context = json!({"cluster": self.name, "user": self.name});
        [("clusters", "cluster", cluster), ("contexts", "context", context), ("users", "user", user)]
    }
}

/// Writes a file with this entry alone, mode 0600.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, entry: &Entry) -> Result<(), Error> {
    let mut document = empty();
    put(&mut document, entry);
    document.insert("current-context".into(), entry.name.clone().into());
    save(path, &document)
}

/// Puts an entry into a file beside what is there, replacing one of the same name; makes the file
/// and its directory where absent. `current`: whether it becomes the current context.
///
/// # Errors
/// [`Error`]; the file is then as it was.
pub fn merge(path: &Path, entry: &Entry, current: bool) -> Result<(), Error> {
    if let Some(directory) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(|source| Error::Io { path: directory.to_owned(), source })?;
    }
    let path = followed(path)?;
    let _lock = Lock::take(&path)?;
    let mut document = load(&path)?.unwrap_or_else(empty);
    let chosen = document.get("current-context").and_then(Value::as_str).unwrap_or_default().to_owned();
    let before = if chosen == entry.name { former(&document, &entry.name) } else { chosen.clone() };
    put(&mut document, entry);
    if current || chosen.is_empty() {
        document.insert("current-context".into(), entry.name.clone().into());
        remember(&mut document, &entry.name, &before);
    }
    save(&path, &document)
}

/// Takes an entry out again; if it is the current context, the one before it becomes that again, where there
/// still is one. A file without the entry is left alone.
///
/// # Errors
/// [`Error`]; the file is then as it was.
pub fn remove(path: &Path, name: &str) -> Result<(), Error> {
    let path = followed(path)?;
    if !path.exists() {
        return Ok(());
    }
    let _lock = Lock::take(&path)?;
    let Some(mut document) = load(&path)? else { return Ok(()) };
    let before = document.clone();
    let former = former(&document, name);
    for section in ["clusters", "contexts", "users"] {
        if let Some(Value::Array(items)) = document.get_mut(section) {
            items.retain(|item| item["name"] != name);
        }
    }
    if document.get("current-context").is_some_and(|c| c == name) {
        let contexts = document.get("contexts").and_then(Value::as_array).into_iter().flatten();
        let there = contexts.into_iter().any(|context| context["name"] == former.as_str());
        let next = if there { former } else { String::new() };
        document.insert("current-context".into(), next.into());
    }
    if document == before { Ok(()) } else { save(&path, &document) }
}

/// The name of the extension in which an entry's context keeps the context that was current before it.
const FORMER: &str = "tiphys.io/former-context";

fn former(document: &Map<String, Value>, name: &str) -> String {
    let contexts = document.get("contexts").and_then(Value::as_array).into_iter().flatten();
    let context = contexts.into_iter().find(|context| context["name"] == name);
    let extensions =
        context.and_then(|found| found["context"]["extensions"].as_array()).into_iter().flatten();
    let kept = extensions.into_iter().find(|extension| extension["name"] == FORMER);
    kept.and_then(|kept| kept["extension"]["name"].as_str()).unwrap_or_default().to_owned()
}

fn remember(document: &mut Map<String, Value>, name: &str, former: &str) {
    let contexts = document.get_mut("contexts").and_then(Value::as_array_mut).into_iter().flatten();
    for context in contexts.into_iter().filter(|context| context["name"] == name && !former.is_empty()) {
        context["context"]["extensions"] = json!([{"name": FORMER, "extension": {"name": former}}]);
    }
}

/// Reads the entry of a context (none: the current one). Files that it names are read too.
///
/// # Errors
/// [`Error`].
pub fn read(path: &Path, context: Option<&str>) -> Result<Entry, Error> {
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    let document = load(path)?.ok_or_else(|| Error::Io {
        path: path.to_owned(),
        source: io::Error::from(io::ErrorKind::NotFound),
    })?;
    let current = document.get("current-context").and_then(Value::as_str).unwrap_or_default();
    let name = context.unwrap_or(current).to_owned();
    let find = |section: &str, kind: &str, name: &str| {
        let items = document.get(section).and_then(Value::as_array).into_iter().flatten();
        let found = items.into_iter().find(|item| item["name"] == name).map(|item| item[kind].clone());
        found.ok_or_else(|| malformed(format!("{kind} {name:?} does not exist")))
    };
    let context = find("contexts", "context", &name)?;
    let cluster = find("clusters", "cluster", context["cluster"].as_str().unwrap_or_default())?;
    let user = match context["user"].as_str() {
        Some(user) if !user.is_empty() => find("users", "user", user)?,
        _ => Value::Null,
    };
    let text = |holder: &Value, key: &str| -> Result<Option<String>, Error> {
        if let Some(data) = holder[format!("{key}-data").as_str()].as_str() {
            let bytes = STANDARD.decode(data).map_err(|e| malformed(format!("{key}-data: {e}")))?;
            return String::from_utf8(bytes).map(Some).map_err(|e| malformed(format!("{key}-data: {e}")));
        }
        let Some(file) = holder[key].as_str() else { return Ok(None) };
        let file = path.parent().unwrap_or(Path::new("")).join(file);
        fs::read_to_string(&file).map(Some).map_err(|source| Error::Io { path: file, source })
    };
    let credentials = match (text(&user, "client-certificate")?, text(&user, "client-key")?) {
        (Some(certificate), Some(key)) => Credentials::Certificate { certificate, key },
        _ => match user["token"].as_str() {
            Some(token) => Credentials::Token(token.to_owned()),
            None => Credentials::Nothing,
        },
    };
    let server = cluster["server"].as_str().unwrap_or_default().to_owned();
    Ok(Entry { name, server, authority: text(&cluster, "certificate-authority")?, credentials })
}

fn empty() -> Map<String, Value> {
    match json!({"apiVersion": "v1", "kind": "Config", "preferences": {}}) {
        Value::Object(map) => map,
        _ => unreachable!("made as a map"),
    }
}

fn put(document: &mut Map<String, Value>, entry: &Entry) {
    for (section, kind, value) in entry.sections() {
        let item = json!({"name": entry.name, kind: value});
        let items = document.entry(section).or_insert_with(|| json!([]));
        match items.as_array_mut() {
            Some(items) => match items.iter_mut().find(|item| item["name"] == entry.name.as_str()) {
                Some(old) => *old = item,
                None => items.push(item),
            },
            // `clusters: null`, as an emptied file has it.
            None => *items = json!([item]),
        }
    }
}

fn load(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let text = files::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let Some(text) = text else { return Ok(None) };
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    if text.trim().is_empty() {
        return Ok(None);
    }
    match serde_saphyr::from_str::<Value>(&text).map_err(|e| malformed(e.to_string()))? {
        Value::Object(map) => Ok(Some(map)),
        Value::Null => Ok(None),
        _ => Err(malformed("not a kubeconfig".into())),
    }
}

fn save(path: &Path, document: &Map<String, Value>) -> Result<(), Error> {
    let text = serde_saphyr::to_string(document)
        .map_err(|e| Error::Malformed { path: path.to_owned(), reason: e.to_string() })?;
    files::write_atomically(path, text.as_bytes(), 0o600)
        .map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// The file that a link leads to: the link is to stay.
fn followed(path: &Path) -> Result<PathBuf, Error> {
    match fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(source) => Err(Error::Io { path: path.to_owned(), source }),
    }
}

/// kubectl's lock: a file beside, there while somebody writes.
struct Lock(PathBuf);

impl Lock {
    fn take(path: &Path) -> Result<Lock, Error> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        match fs::OpenOptions::new().write(true).create_new(true).open(&lock) {
            Ok(_) => Ok(Lock(lock)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Locked(lock)),
            Err(source) => Err(Error::Io { path: lock, source }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A lock that cannot be removed is told to the next writer by its own error.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.into(),
            server: "https://127.0.0.1:6443".into(),
            authority: Some("CA\n".into()),
            credentials: Credentials::Certificate { certificate: "C\n".into(), key: "K\n".into() },
        }
    }

    const FOREIGN: &str = "\
# mine
apiVersion: v1
kind: Config
clusters:
- name: work
  cluster: {server: \"https://work:6443\", extensions: [{name: x, extension: {a: \"true\"}}]}
contexts:
- {name: work, context: {cluster: work, user: me, namespace: \"1\"}}
users:
- {name: me, user: {exec: {command: aws, args: [eks]}}}
current-context: work
";

    #[test]
    fn comes_and_goes_without_a_trace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        fs::write(&path, FOREIGN).unwrap();
        let before = load(&path).unwrap();
        merge(&path, &entry("tiphys"), true).unwrap();
        assert!(read(&path, None).unwrap() == entry("tiphys"));
        assert_eq!(read(&path, Some("work")).unwrap().server, "https://work:6443");
        merge(&path, &entry("tiphys"), true).unwrap();
        assert_eq!(load(&path).unwrap().unwrap()["contexts"].as_array().unwrap().len(), 2);
        remove(&path, "tiphys").unwrap();
        assert_eq!(load(&path).unwrap(), before);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn makes_the_file_and_keeps_links() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/config");
        merge(&path, &entry("a"), false).unwrap();
        assert_eq!(read(&path, None).unwrap().name, "a");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        merge(&link, &entry("b"), false).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&path, Some("b")).unwrap().name, "b");
        assert_eq!(read(&path, None).unwrap().name, "a");
        remove(&directory.path().join("none"), "a").unwrap();
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        fs::write(&path, "- a\n- b\n").unwrap();
        assert!(matches!(merge(&path, &entry("a"), true), Err(Error::Malformed { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "- a\n- b\n");
        fs::write(directory.path().join("config.lock"), "").unwrap();
        assert!(matches!(merge(&path, &entry("a"), true), Err(Error::Locked(_))));
    }
}
