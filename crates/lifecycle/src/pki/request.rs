//! What a certificate is to say, and whether one says it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::{DAY, Signer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
    /// Of those who are both, as etcd's peers are.
    Both,
}

/// A certificate that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The name of its files, without the ending.
    pub file: String,
    pub common_name: String,
    /// The group of its user.
    pub organization: Option<String>,
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub usage: Usage,
    pub signer: Signer,
}

/// The names under which an API server is reached.
#[derive(Clone, Debug)]
pub struct ApiServerNames {
    /// `cluster.local`
    pub domain: String,
    /// The address of the service `kubernetes`, one per IP family.
    pub service_addresses: Vec<IpAddr>,
    /// The host's own names and addresses; loopback is added.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Request {
    fn client(file: &str, common_name: &str, organization: Option<&str>) -> Request {
        Request {
            file: file.into(),
            common_name: common_name.into(),
            organization: organization.map(str::to_owned),
            names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
            signer: Signer::Cluster,
        }
    }

    pub fn api_server(at: &ApiServerNames) -> Request {
        let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut names: Vec<String> = service.iter().map(|n| (*n).to_owned()).collect();
        names.push(format!("kubernetes.default.svc.{}", at.domain));
        names.push("localhost".into());
        names.extend(at.names.iter().cloned());
        let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
        addresses.extend(at.service_addresses.iter().chain(&at.addresses));
        let client = Request::client("apiserver", "kube-apiserver", None);
        Request { names, addresses, usage: Usage::Server, ..client }
    }

    /// The API server as a client of kubelets.
    pub fn api_server_kubelet_client() -> Request {
        Request::client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters"))
    }

    /// The API server as a client of aggregated API servers.
    pub fn front_proxy_client() -> Request {
        let client = Request::client("front-proxy-client", "front-proxy-client", None);
        Request { signer: Signer::FrontProxy, ..client }
    }

    /// Who may do anything.
    pub fn admin() -> Request {
        Request::client("admin", "kubernetes-admin", Some("system:masters"))
    }

    pub fn controller_manager() -> Request {
        Request::client("controller-manager", "system:kube-controller-manager", None)
    }

    pub fn scheduler() -> Request {
        Request::client("scheduler", "system:kube-scheduler", None)
    }

    pub fn proxy() -> Request {
        Request::client("kube-proxy", "system:kube-proxy", None)
    }

    /// A kubelet as a client of the API server.
    pub fn kubelet_client(node: &str) -> Request {
        Request::client(
            &format!("kubelet-client-{node}"),
            &format!("system:node:{node}"),
            Some("system:nodes"),
        )
    }

    /// A kubelet as a server.
    pub fn kubelet_serving(node: &str, addresses: &[IpAddr]) -> Request {
        let client =
            Request::client(&format!("kubelet-{node}"), &format!("system:node:{node}"), Some("system:nodes"));
        Request {
            names: vec![node.to_owned(), "localhost".to_owned()],
            addresses: addresses.to_vec(),
            usage: Usage::Server,
            ..client
        }
    }

    pub(super) fn params(
        &self,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(self.unique_names())?;
        params.subject_alt_names.extend(self.unique_addresses().into_iter().map(SanType::IpAddress));
        if let Some(organization) = &self.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match self.usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        params.not_before = from.into();
        params.not_after = until.into();
        Ok(params)
    }

    fn unique_names(&self) -> Vec<String> {
        self.names.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn unique_addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().copied().collect()
    }

    /// When a certificate ends that is good for this request; none where it is not good.
    pub(super) fn satisfied_by(
        &self,
        certificate: &str,
        key: &str,
        authority: Option<&[u8]>,
        now: SystemTime,
    ) -> Option<SystemTime> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
        let key = KeyPair::from_pem(key).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().find_map(|n| n.as_str().ok());
        let organizations: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
        let (from, until) = (time(certificate.validity().not_before), time(certificate.validity().not_after));
        let (names, addresses) = alternative_names(&certificate);
        let good = *certificate.public_key().subject_public_key.data == *key.public_key_raw()
            && authority_key_id(&certificate).as_deref() == authority
            && name == Some(&self.common_name)
            && organizations == self.organization.iter().collect::<Vec<_>>()
            && names == self.names.iter().cloned().collect()
            && addresses == self.unique_addresses()
            && is_fresh(from, until, now);
        good.then_some(until)
    }
}

/// More than a third of its life is left.
fn is_fresh(from: SystemTime, until: SystemTime, now: SystemTime) -> bool {
    let life = until.duration_since(from).unwrap_or_default();
    let left = until.duration_since(now).unwrap_or_default();
    from <= now + DAY && left > life / 3
}

fn alternative_names(certificate: &X509Certificate) -> (BTreeSet<String>, BTreeSet<IpAddr>) {
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let found = certificate.subject_alternative_name().ok().flatten();
    for name in found.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => {
                names.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                addresses.extend(v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
            }
            _ => {}
        }
    }
    (names, addresses)
}

pub(super) fn subject_key_id(certificate: &X509Certificate) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn authority_key_id(certificate: &X509Certificate) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })
}

pub(super) fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
