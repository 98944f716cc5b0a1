use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn names(address: [u8; 4]) -> ApiServerNames {
    ApiServerNames {
        domain: "cluster.local".into(),
        service_addresses: vec![IpAddr::from([10, 96, 0, 1])],
        names: vec!["host".into()],
        addresses: vec![IpAddr::from(address)],
    }
}

#[test]
fn what_is_good_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let first = Pki::open(directory.path(), now).unwrap();
    let request = Request::api_server(&names([192, 0, 2, 1]));
    let made = first.ensure(&request, now).unwrap();

    let again = Pki::open(directory.path(), now).unwrap();
    assert_eq!(again.cluster.certificate, first.cluster.certificate);
    assert_eq!(again.service_accounts.private, first.service_accounts.private);
    assert_eq!(again.ensure(&request, now).unwrap().certificate, made.certificate);

    // Another address, an old age, another authority: each makes a new one.
    let moved = Request::api_server(&names([192, 0, 2, 2]));
    let moved = again.ensure(&moved, now).unwrap();
    assert_ne!(moved.certificate, made.certificate);
    let made = again.ensure(&request, now).unwrap();
    let later = again.ensure(&request, now + 240 * DAY).unwrap();
    assert_eq!(later.certificate, made.certificate);
    let later = again.ensure(&request, now + 250 * DAY).unwrap();
    assert_ne!(later.certificate, made.certificate);
    for file in ["ca.crt", "ca.key"] {
        std::fs::remove_file(directory.path().join(file)).unwrap();
    }
    let other = Pki::open(directory.path(), now).unwrap();
    assert_ne!(other.ensure(&request, now + 250 * DAY).unwrap().certificate, later.certificate);
}

#[test]
fn keys_are_private_and_nothing_else_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let pki = Pki::open(directory.path(), now).unwrap();
    pki.ensure(&Request::admin(), now).unwrap();
    let mut files: Vec<(String, u32)> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            (entry.file_name().into_string().unwrap(), mode)
        })
        .collect();
    files.sort();
    let expected = [
        ("admin.crt", 0o644),
        ("admin.key", 0o600),
        ("ca.crt", 0o644),
        ("ca.key", 0o600),
        ("front-proxy-ca.crt", 0o644),
        ("front-proxy-ca.key", 0o600),
        ("sa.key", 0o600),
        ("sa.pub", 0o644),
    ];
    assert_eq!(files, expected.map(|(name, mode)| (name.to_owned(), mode)));
}

#[test]
fn half_an_authority_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    Pki::open(directory.path(), now).unwrap();
    std::fs::remove_file(directory.path().join("ca.key")).unwrap();
    assert!(matches!(Pki::open(directory.path(), now), Err(Error::Half { .. })));
    assert!(!directory.path().join("ca.key").exists());
    std::fs::write(directory.path().join("ca.key"), "nonsense").unwrap();
    assert!(matches!(Pki::open(directory.path(), now), Err(Error::Malformed { .. })));
}

/// The certificates are what `auth` reads users from, and what TLS accepts.
#[test]
fn users_of_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let pki = Pki::open(directory.path(), now).unwrap();
    let der = |pem: &str| x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(&pki.cluster.certificate).into()).unwrap();
    let known = auth::certificate::ClientCertificates::new(roots).unwrap();
    let user = |request: Request| {
        let pair = pki.ensure(&request, now).unwrap();
        known.identify(&[der(&pair.certificate).into()], rustls::pki_types::UnixTime::now())
    };
    assert_eq!(user(Request::kubelet_client("n1")).unwrap().node(), Some("n1"));
    assert!(user(Request::admin()).unwrap().in_group("system:masters"));
    assert_eq!(user(Request::scheduler()).unwrap().name, "system:kube-scheduler");
    // A server's certificate and another authority's are no client's.
    assert!(user(Request::kubelet_serving("n1", &[])).is_err());
    assert!(user(Request::front_proxy_client()).is_err());
    let key = auth::token::SigningKey::from_pem(&pki.service_accounts.private).unwrap();
    let public = auth::token::VerifyingKey::from_pem(&pki.service_accounts.public).unwrap();
    assert_eq!(auth::token::jwks(&[key.public]), auth::token::jwks(&[public]));
}
