//! Images: which are present, where their layers are, and how they come here.
//!
//! A layer is unpacked once, into a directory named after its content, and never changes; images refer to
//! layers, containers mount them. The compressed form is not kept. What is present is one small file,
//! replaced as a whole; a layer's directory appears by a rename, so a crash leaves no half of either. Both
//! are on the disk before they count, so neither does a power cut.
//!
//! An image may be removed while one that shares a layer with it comes here. Layers that are present are not
//! held meanwhile: whoever brings the image finds out at its end ([`Error::LayerGone`]) and begins again.

mod archive;
mod pull;
mod store;
mod unpack;

pub use archive::import;
pub use pull::{Pull, Registries};
pub use store::{Image, Images};
pub(crate) use unpack::make_directory;

/// Why an image could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference is none.
    #[error("couldn't parse image name {name:?}: {message}")]
    Reference {
        /// What was given.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// The registry failed.
    #[error("{message}")]
    Registry {
        /// Which way.
        failure: cri::PullFailure,
        /// In the registry's words.
        message: String,
    },
    /// What arrived is not what it says.
    #[error("{what} has digest {got}, not {want}")]
    Digest {
        /// The blob or layer.
        what: String,
        /// Its real digest.
        got: String,
        /// The expected digest.
        want: String,
    },
    /// The archive or manifest makes no sense.
    #[error("{0}")]
    Format(String),
    /// No variant of the image is for this machine.
    #[error("no match for platform in manifest: {0}")]
    Platform(String),
    /// A layer was removed, with another image, while an image that needs it too came here.
    #[error("layer {0} was removed meanwhile")]
    LayerGone(String),
    /// The host refused.
    #[error("{what}: {source}")]
    Io {
        /// The file or what was done.
        what: String,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

/// How often an image is brought here again that lost a layer on its way. Each time it takes another removal
/// just then.
const AGAIN: usize = 2;

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The kind of failure, as the contract has it.
    pub fn failure(&self) -> cri::PullFailure {
        match self {
            Self::Reference { .. } => cri::PullFailure::InvalidReference,
            Self::Registry { failure, .. } => *failure,
            Self::Digest { .. } | Self::Format(_) | Self::Platform(_) => cri::PullFailure::BadContent,
            Self::LayerGone(_) | Self::Io { .. } => cri::PullFailure::Storage,
        }
    }
}
