//! Words of the Kubernetes API.
