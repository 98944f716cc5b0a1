//! What can go wrong, told so that the kubelet can name it to users.

use std::path::PathBuf;

/// The result of a runtime call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a runtime call failed. The kubelet turns it into an event and a waiting reason by the call that
/// failed (`CreateContainerError`, `RunContainerError`, `ErrImagePull`, `ImageInspectError`, …); the
/// text of the error is the message beside it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such sandbox, container or image.
    #[error("{kind} {id:?} not found")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The name is taken by another sandbox or container.
    #[error("{kind} {id:?} already exists")]
    AlreadyExists {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// The identifier of the one that exists.
        id: String,
    },
    /// The request cannot be meant as it stands.
    #[error("{field}: {message}")]
    InvalidArgument {
        /// The field of the CRI message.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The thing is not in a state that allows this: not running, still in use.
    #[error("{what} {message}")]
    FailedPrecondition {
        /// What is in the wrong state.
        what: String,
        /// The state it is in.
        message: String,
    },
    /// An image could not be fetched.
    #[error("failed to pull image {image:?}: {message}")]
    ImagePull {
        /// The reference asked for.
        image: String,
        /// The kind of failure.
        failure: PullFailure,
        /// In the registry's words where it had any.
        message: String,
    },
    /// A command, a pull or a stop took longer than it was given.
    #[error("{what} timed out after {seconds} s")]
    DeadlineExceeded {
        /// What took too long.
        what: String,
        /// How long it was given, in seconds.
        seconds: f64,
    },
    /// The runtime does not do this.
    #[error("{0} is not implemented by this runtime")]
    Unimplemented(&'static str),
    /// The runtime, or the part of it that keeps a pod, cannot be reached.
    #[error("{what}: {message}")]
    Unavailable {
        /// A socket's or a shim's name.
        what: String,
        /// What happened.
        message: String,
    },
    /// The container could not be made or its process not be run.
    #[error("{0}")]
    Container(String),
    /// The network of a sandbox could not be attached.
    #[error("failed to set up network of sandbox {sandbox:?}: {message}")]
    Network {
        /// The sandbox.
        sandbox: String,
        /// What the network said.
        message: String,
    },
    /// The host refused something about a file.
    #[error("{action} {path}: {source}")]
    File {
        /// What was being done: `read`, `mount`, `create`.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// Anything a remote runtime failed with that none of the above fits.
    #[error("{0}")]
    Other(String),
}

/// The kind of failure of an image pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullFailure {
    /// The reference is no image reference (`InvalidImageName`).
    InvalidReference,
    /// The registry has no such image.
    NotFound,
    /// The registry wants other credentials.
    Unauthorized,
    /// The registry cannot be reached or answers with failures (`RegistryUnavailable`).
    RegistryUnavailable,
    /// What arrived is not what its digest says, or not for this platform, or not an image.
    BadContent,
    /// The host could not keep it: disk full, unpacking failed.
    Storage,
    /// A remote runtime failed without saying how.
    Unknown,
}

impl Error {
    /// Wraps an error about a file; made for `map_err`.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// A [`Error::NotFound`].
    pub fn not_found(kind: &'static str, id: impl Into<String>) -> Self {
        Self::NotFound { kind, id: id.into() }
    }

    /// Whether the thing asked about does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
