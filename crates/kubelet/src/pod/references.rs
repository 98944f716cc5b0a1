//! The ConfigMaps and Secrets a pod refers to by name.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::spec;

/// Names of objects in the pod's namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

/// All that `pod` refers to, from containers, volumes and pull secrets.
pub fn of(pod: &Pod) -> References {
    let mut found = References::default();
    for (_, container) in spec::containers(pod) {
        found.container(container);
    }
    for one in spec::ephemeral(pod) {
        found.container(&spec::from_ephemeral(one));
    }
    for volume in spec::spec(pod).volumes.iter().flatten() {
        found.volume(volume);
    }
    let pulls = spec::spec(pod).image_pull_secrets.iter().flatten();
    found.secrets.extend(pulls.map(|secret| secret.name.clone()));
    found.config_maps.remove("");
    found.secrets.remove("");
    found
}

impl References {
    fn container(&mut self, container: &Container) {
        for from in container.env_from.iter().flatten() {
            self.config_maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
            self.secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            self.config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
            self.secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
        }
    }

    fn volume(&mut self, volume: &Volume) {
        self.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        self.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in projected {
            self.config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            self.secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
}
