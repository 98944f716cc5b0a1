//! The files of `configMap`, `secret`, `downwardAPI` and `projected` volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, Volume, VolumeProjection,
};

use super::{Error, Setup};
use crate::names;
use crate::pod::fields;

/// Files by their path below the volume.
pub type Payload = BTreeMap<PathBuf, File>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub owner: Option<u32>,
}

type Data = BTreeMap<String, Vec<u8>>;

/// The files of `volume`, once every object it needs is known.
///
/// # Errors
/// For objects, keys or fields that are missing and not optional.
pub async fn of(setup: &Setup<'_>, volume: &Volume) -> Result<Payload, Error> {
    let mut payload = Payload::new();
    if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode);
        let data = config_map(setup, &source.name, source.optional).await?;
        select(
            "configmap",
            &source.name,
            data,
            source.items.as_deref(),
            source.optional,
            mode,
            &mut payload,
        )?;
    } else if let Some(source) = &volume.secret {
        let mode = mode(source.default_mode);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let data = secret(setup, name, source.optional).await?;
        select("secret", name, data, source.items.as_deref(), source.optional, mode, &mut payload)?;
    } else if let Some(source) = &volume.downward_api {
        downward(
            setup,
            source.items.as_deref().unwrap_or_default(),
            mode(source.default_mode),
            &mut payload,
        )?;
    } else if let Some(source) = &volume.projected {
        let mode = mode(source.default_mode);
        for projection in source.sources.iter().flatten() {
            project(setup, projection, mode, &mut payload).await?;
        }
    }
    Ok(payload)
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644)
}

async fn project(
    setup: &Setup<'_>,
    projection: &VolumeProjection,
    mode: u32,
    payload: &mut Payload,
) -> Result<(), Error> {
    if let Some(source) = &projection.config_map {
        let data = config_map(setup, &source.name, source.optional).await?;
        select("configmap", &source.name, data, source.items.as_deref(), source.optional, mode, payload)?;
    }
    if let Some(source) = &projection.secret {
        let data = secret(setup, &source.name, source.optional).await?;
        select("secret", &source.name, data, source.items.as_deref(), source.optional, mode, payload)?;
    }
    if let Some(source) = &projection.downward_api {
        downward(setup, source.items.as_deref().unwrap_or_default(), mode, payload)?;
    }
    if let Some(source) = &projection.service_account_token {
        let token = setup.tokens.get(setup.pod, source).await.map_err(Error::Refused)?;
        // A token is for its pod alone: a pod that runs as one user owns it, others read it by group.
        let context = crate::pod::spec::spec(setup.pod).security_context.as_ref();
        let user = context.and_then(|context| context.run_as_user).and_then(|user| u32::try_from(user).ok());
        let group = context.and_then(|context| context.fs_group).is_some();
        let (mode, owner) = match (group, user) {
            (true, _) => (0o600, None),
            (false, Some(user)) => (0o600, Some(user)),
            (false, None) => (mode, None),
        };
        payload.insert(source.path.clone().into(), File { data: token.into_bytes(), mode, owner });
    }
    if projection.cluster_trust_bundle.is_some() || projection.pod_certificate.is_some() {
        return Err(Error::Refused("this kind of projection is not supported".into()));
    }
    Ok(())
}

async fn config_map(setup: &Setup<'_>, name: &str, optional: Option<bool>) -> Result<Option<Data>, Error> {
    let found = setup.held.config_map(name).await.map_err(Error::Refused)?;
    match found {
        Some(map) => {
            let ConfigMap { data, binary_data, .. } = map.as_ref();
            let text = data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
            let binary = binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
            Ok(Some(text.chain(binary).collect()))
        }
        None if optional.unwrap_or(false) => Ok(None),
        None => Err(Error::Refused(format!("configmap {name:?} not found"))),
    }
}

async fn secret(setup: &Setup<'_>, name: &str, optional: Option<bool>) -> Result<Option<Data>, Error> {
    let found = setup.held.secret(name).await.map_err(Error::Refused)?;
    match found {
        Some(secret) => {
            let Secret { data, .. } = secret.as_ref();
            Ok(Some(data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()))
        }
        None if optional.unwrap_or(false) => Ok(None),
        None => Err(Error::Refused(format!("secret {name:?} not found"))),
    }
}

/// All of an object's data, or the keys asked for at the paths asked for.
fn select(
    kind: &str,
    name: &str,
    data: Option<Data>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    payload: &mut Payload,
) -> Result<(), Error> {
    let Some(mut data) = data else { return Ok(()) };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        payload.extend(data.into_iter().map(|(key, data)| (key.into(), File { data, mode, owner: None })));
        return Ok(());
    };
    for item in items {
        match data.remove(&item.key) {
            Some(data) => {
                let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
                payload.insert(item.path.clone().into(), File { data, mode, owner: None });
            }
            None if optional.unwrap_or(false) => {}
            None => {
                return Err(Error::Refused(format!(
                    "{kind} references non-existent {kind} key: {name}/{}",
                    item.key
                )));
            }
        }
    }
    Ok(())
}

fn downward(
    setup: &Setup<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    payload: &mut Payload,
) -> Result<(), Error> {
    for item in items {
        let text = if let Some(selector) = &item.field_ref {
            fields::field(setup.pod, &selector.field_path, &setup.place)
        } else if let Some(selector) = &item.resource_field_ref {
            fields::resource(setup.pod, None, selector, setup.node)
        } else {
            Err(format!("downward API file {:?} of pod {} has no source", item.path, names::full(setup.pod)))
        };
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
        let data = text.map_err(Error::Refused)?.into_bytes();
        payload.insert(item.path.clone().into(), File { data, mode, owner: None });
    }
    Ok(())
}
