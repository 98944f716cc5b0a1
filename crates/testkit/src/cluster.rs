//! Clusters for end-to-end tests: made with the built binary, used with the stock kubectl.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{Image, Traces, images, place};

/// A cluster of this test's own: own name, own directory, own kubeconfig and home. Dropping it takes it
/// down; [`Cluster::down`] also says whether anything stayed.
pub struct Cluster {
    name: String,
    dir: TempDir,
    before: Traces,
    is_up: bool,
    came_up_in: Duration,
}

/// How a program ended and what it printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code; 128 and the signal's number for one that was killed.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Cluster {
    /// Starts a cluster of `nodes` nodes and returns when `tiphys up` says that it is ready.
    ///
    /// `name` gets this process' number behind it, so that tests may run beside each other.
    ///
    /// # Errors
    /// The binary isn't built, or `up` fails: then with what it printed.
    pub fn up(name: &str, nodes: usize) -> Result<Cluster> {
        Cluster::up_with(name, nodes, &[])
    }

    /// The same with further arguments for `tiphys up`.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub fn up_with(name: &str, nodes: usize, arguments: &[&str]) -> Result<Cluster> {
        Cluster::start(name, nodes, |_| Ok(arguments.iter().map(|&one| one.to_owned()).collect()))
    }

    /// A cluster as the pages in `docs/` want it: all images, plain HTTP on port 8080, the store's etcd API on
    /// port 2379, static pods from `$MANIFESTS`.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub fn for_pages(name: &str) -> Result<Cluster> {
        let cluster = Cluster::start(name, 1, |dir| {
            let manifests = text(&dir.join("manifests"))?;
            let all = ["--insecure-port", "8080", "--etcd-port", "2379", "--pod-manifest-path", &manifests];
            Ok(all.map(str::to_owned).to_vec())
        })?;
        for image in images::all()? {
            cluster.import(&image)?;
        }
        Ok(cluster)
    }

    fn start(
        name: &str,
        nodes: usize,
        arguments: impl FnOnce(&Path) -> Result<Vec<String>>,
    ) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("tiphys-test-").tempdir()?;
        std::fs::create_dir(dir.path().join("home"))?;
        std::fs::create_dir(dir.path().join("manifests"))?;
        let arguments = arguments(dir.path())?;
        let name = format!("{name}-{}", std::process::id());
        let before = Traces::now()?;
        let mut cluster = Cluster { name, dir, before, is_up: true, came_up_in: Duration::ZERO };
        let count = nodes.to_string();
        let arguments = arguments.iter().map(String::as_str);
        let all: Vec<&str> = ["up", "--nodes", &count].into_iter().chain(arguments).collect();
        let start = Instant::now();
        // On failure `cluster` is dropped, which takes away what `up` had made by then.
        cluster.tiphys(&all)?;
        cluster.came_up_in = start.elapsed();
        Ok(cluster)
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long `tiphys up` took, which returns when the nodes are Ready.
    pub fn came_up_in(&self) -> Duration {
        self.came_up_in
    }

    /// `TIPHYS_STATE` of its processes: below it lies a directory with the cluster's name.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// `TIPHYS_RUN` of its processes.
    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Its administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state_dir().join(&self.name).join("kubeconfig")
    }

    /// Runs `tiphys` on this cluster; it must succeed. The first argument is the command.
    ///
    /// # Errors
    /// The binary isn't built, or it fails: then with what it printed.
    pub fn tiphys(&self, arguments: &[&str]) -> Result<Output> {
        let (command, rest) = arguments.split_first().context("a command is needed")?;
        // `image import` and its like are commands of two words.
        let second = rest.first().filter(|word| *command == "image" && !word.starts_with('-'));
        let mut program = Command::new(place::tiphys()?);
        program.arg(command).args(second).args(["--name", &self.name]);
        program.args(&rest[usize::from(second.is_some())..]);
        program.env("TIPHYS_STATE", self.state_dir()).env("TIPHYS_RUN", self.run_dir());
        program.env("HOME", self.dir.path().join("home")).env_remove("KUBECONFIG");
        run(program, None)?.success(&format!("tiphys {}", arguments.join(" ")))
    }

    /// Imports an image on every node.
    ///
    /// # Errors
    /// `tiphys image import` fails.
    pub fn import(&self, image: &Image) -> Result<()> {
        self.tiphys(&["image", "import", &text(&image.oci)?])?;
        Ok(())
    }

    /// Runs the stock kubectl, which must succeed, and returns its standard output.
    ///
    /// # Errors
    /// kubectl is missing or fails: then with what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.try_kubectl(arguments, None)?.success(&format!("kubectl {}", arguments.join(" ")))?.stdout)
    }

    /// Runs the stock kubectl, with something on its standard input if given, however it ends.
    ///
    /// # Errors
    /// kubectl is missing.
    pub fn try_kubectl(&self, arguments: &[&str], input: Option<&str>) -> Result<Output> {
        let mut program = Command::new(place::kubectl()?);
        program.args(arguments);
        program.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path().join("home"));
        run(program, input)
    }

    /// `kubectl apply -f -` with a manifest.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn apply(&self, manifest: &str) -> Result<String> {
        Ok(self.try_kubectl(&["apply", "-f", "-"], Some(manifest))?.success("kubectl apply")?.stdout)
    }

    /// `kubectl wait` for up to two minutes: `wait("pod/a", "condition=Ready")`, `wait("pod/a", "delete")`.
    ///
    /// # Errors
    /// It doesn't come about.
    pub fn wait(&self, object: &str, condition: &str) -> Result<()> {
        self.kubectl(&["wait", "--timeout=120s", &format!("--for={condition}"), object])?;
        Ok(())
    }

    /// The environment in which a page's commands use this cluster: `kubectl` and `tiphys` are on the path,
    /// `CLUSTER` is its name, `TREE` the source tree, `MANIFESTS` the directory of static pods' manifests.
    ///
    /// # Errors
    /// A program is missing, or a path isn't UTF-8.
    pub fn environment(&self) -> Result<Vec<(String, String)>> {
        let mut variables = environment(&self.kubeconfig(), &self.dir.path().join("home"), &self.name)?;
        variables.push(("TIPHYS_STATE".into(), text(&self.state_dir())?));
        variables.push(("TIPHYS_RUN".into(), text(&self.run_dir())?));
        variables.push(("MANIFESTS".into(), text(&self.dir.path().join("manifests"))?));
        Ok(variables)
    }

    /// Takes the cluster down with its state.
    ///
    /// # Errors
    /// `tiphys down` fails, or something of the cluster is still on the host: then with its list.
    pub fn down(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.is_up, false) {
            return Ok(());
        }
        self.tiphys(&["down", "--purge"])?;
        let dir = text(self.dir.path())?;
        let left = self.before.added_naming(&Traces::now()?, &[&self.name, &dir]);
        ensure!(left.is_empty(), "left behind by {}: {left:#?}", self.name);
        let state = self.state_dir().join(&self.name);
        ensure!(!state.exists(), "{} is still there after down --purge", state.display());
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            assert!(std::thread::panicking(), "{error:#}");
            eprintln!("{error:#}");
        }
    }
}

impl Output {
    /// Itself, if the program succeeded.
    ///
    /// # Errors
    /// It didn't: then with everything it printed.
    pub fn success(self, what: &str) -> Result<Output> {
        if self.code != 0 {
            bail!("{what}: exit code {}\n{}{}", self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }
}

/// See [`Cluster::environment`]; for a cluster that somebody else made in the usual place.
///
/// # Errors
/// As there.
pub fn environment(kubeconfig: &Path, home: &Path, name: &str) -> Result<Vec<(String, String)>> {
    let mut path = String::new();
    for program in [place::kubectl()?, place::tiphys()?] {
        path += &text(program.parent().context("a program lies in a directory")?)?;
        path += ":";
    }
    path += &std::env::var("PATH").unwrap_or_default();
    Ok([
        ("PATH", path),
        ("KUBECONFIG", text(kubeconfig)?),
        ("HOME", text(home)?),
        ("CLUSTER", name.to_owned()),
        ("TREE", text(place::tree())?),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec())
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} isn't UTF-8", path.display()))?.to_owned())
}

pub(crate) fn run(mut program: Command, input: Option<&str>) -> Result<Output> {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;

    let name = Path::new(program.get_program()).display().to_string();
    program.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().with_context(|| format!("couldn't start {name}"))?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
        // Manifests are smaller than a pipe's buffer, or read before anything is printed.
        pipe.write_all(text.as_bytes()).with_context(|| format!("{name} doesn't read its input"))?;
    }
    let out = child.wait_with_output()?;
    Ok(Output {
        code: out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or_default()),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}
