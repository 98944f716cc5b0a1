//! gRPC's statuses as the contract's errors.

use std::time::Duration;

use tonic::{Code, Status};

use crate::{Error, PullFailure};

/// What a call was about.
#[derive(Debug, Clone, Copy)]
pub enum About<'a> {
    Runtime,
    Sandbox(&'a str),
    Container(&'a str),
    Image(&'a str),
    Pull(&'a str),
    /// A command in a container, and how long it was given.
    Command(&'a str, Duration),
}

impl About<'_> {
    fn kind(self) -> (&'static str, String) {
        match self {
            About::Runtime => ("runtime", String::new()),
            About::Sandbox(id) => ("sandbox", id.to_owned()),
            About::Container(id) | About::Command(id, _) => ("container", id.to_owned()),
            About::Image(name) | About::Pull(name) => ("image", name.to_owned()),
        }
    }

    /// The error a status stands for.
    pub fn fault(self, status: Status) -> Error {
        let message = status.message().to_owned();
        if let About::Pull(image) = self
            && !matches!(status.code(), Code::Unavailable | Code::Unimplemented)
        {
            let failure = pull_failure(status.code(), &message);
            return Error::ImagePull { image: image.to_owned(), failure, message };
        }
        let (kind, id) = self.kind();
        if status.code() == Code::Unknown && reserved(&message) {
            return Error::AlreadyExists { kind, id };
        }
        match status.code() {
            Code::NotFound => Error::NotFound { kind, id },
            Code::AlreadyExists => Error::AlreadyExists { kind, id },
            Code::InvalidArgument => Error::InvalidArgument { field: kind, message },
            Code::FailedPrecondition => Error::FailedPrecondition { what: format!("{kind} {id}"), message },
            Code::DeadlineExceeded => {
                let seconds = match self {
                    About::Command(_, limit) => limit.as_secs_f64(),
                    _ => super::PATIENCE.as_secs_f64(),
                };
                Error::DeadlineExceeded { what: format!("{kind} {id}"), seconds }
            }
            Code::Unimplemented => Error::Unimplemented("this call"),
            Code::Unavailable => Error::Unavailable { what: "container runtime".into(), message },
            _ => Error::Other(message),
        }
    }
}

/// Whether it tells of a name that is taken: containerd and CRI-O have no code for that.
fn reserved(message: &str) -> bool {
    message.contains("is reserved for")
}

/// What kind of failure a runtime's message tells of: most give them all one code.
fn pull_failure(code: Code, message: &str) -> PullFailure {
    let says = |text: &str| message.contains(text);
    if code == Code::InvalidArgument || says("invalid reference format") {
        PullFailure::InvalidReference
    } else if says("401 Unauthorized")
        || says("403 Forbidden")
        || says("authorization failed")
        || says("denied")
    {
        PullFailure::Unauthorized
    } else if code == Code::NotFound || says("not found") {
        PullFailure::NotFound
    } else if says("connection refused")
        || says("no such host")
        || says("i/o timeout")
        || says("RegistryUnavailable")
    {
        PullFailure::RegistryUnavailable
    } else {
        PullFailure::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(about: About<'_>, code: Code, message: &str, want: &str) {
        assert_eq!(about.fault(Status::new(code, message)).to_string(), want);
    }

    #[test]
    fn statuses_keep_what_they_are_about() {
        check(About::Container("c1"), Code::NotFound, "x", "container \"c1\" not found");
        check(
            About::Command("c1", Duration::from_secs(2)),
            Code::DeadlineExceeded,
            "",
            "container c1 timed out after 2 s",
        );
        check(About::Runtime, Code::Unknown, "why", "why");
        let taken = "failed to reserve sandbox name \"a_b_c_0\": name \"a_b_c_0\" is reserved for \"1f\"";
        check(
            About::Sandbox("a"),
            Code::Unknown,
            taken,
            &Error::AlreadyExists { kind: "sandbox", id: "a".into() }.to_string(),
        );
        let failure = |message| match About::Pull("i").fault(Status::unknown(message)) {
            Error::ImagePull { failure, .. } => failure,
            other => panic!("{other}"),
        };
        assert_eq!(failure("failed to resolve: 401 Unauthorized"), PullFailure::Unauthorized);
        assert_eq!(failure("docker.io/a:1: not found"), PullFailure::NotFound);
        assert_eq!(failure("dial tcp: connection refused"), PullFailure::RegistryUnavailable);
    }
}
