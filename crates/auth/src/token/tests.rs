use serde_json::json;

use super::*;

struct Cluster(Vec<(Kind, &'static str, &'static str, Found)>);

impl Lookup for Cluster {
    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<Found> {
        let same = |o: &&(Kind, &str, &str, Found)| o.0 == kind && o.1 == namespace && o.2 == name;
        self.0.iter().find(same).map(|o| o.3.clone())
    }
}

fn found(uid: &str) -> Found {
    Found { uid: uid.into(), deleted_at: None }
}

fn reference(name: &str, uid: &str) -> Reference {
    Reference { name: name.into(), uid: uid.into() }
}

fn issuer() -> Issuer {
    let pair = rcgen::KeyPair::generate().unwrap();
    Issuer { issuer: "https://i".into(), key: SigningKey::from_pem(&pair.serialize_pem()).unwrap() }
}

fn verifier(issuer: &Issuer) -> Verifier {
    Verifier::new(vec!["https://i".into()], vec!["https://a".into()], vec![issuer.key.public.clone()])
}

fn binding() -> Binding {
    Binding {
        namespace: "d".into(),
        serviceaccount: reference("sa", "1"),
        pod: Some(reference("p", "2")),
        node: Some(reference("n", "3")),
        ..Binding::default()
    }
}

#[test]
fn a_token_lives_as_long_as_what_it_is_bound_to() {
    let issuer = issuer();
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
    let hour = Duration::from_secs(3600);
    let token = issuer.issue(binding(), vec!["https://a".into()], hour, "j".into(), now).unwrap();
    let verifier = verifier(&issuer);
    let account = (Kind::ServiceAccount, "d", "sa", found("1"));
    let alive = Cluster(vec![account.clone(), (Kind::Pod, "d", "p", found("2"))]);

    let (user, audiences) = verifier.verify(&token, &[], &alive, now).unwrap();
    assert_eq!(user.name, "system:serviceaccount:d:sa");
    assert_eq!(user.uid, "1");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:d", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-uid"], ["2"]);
    assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n"]);
    assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j"]);
    assert_eq!(audiences, ["https://a"]);

    let check = |cluster: &Cluster, audiences: &[String], at| verifier.verify(&token, audiences, cluster, at);
    assert_eq!(check(&alive, &[], now + hour + hour).unwrap_err(), Error::Expired);
    assert!(matches!(check(&alive, &["x".into()], now), Err(Error::Audience { .. })));
    let replaced = Cluster(vec![account.clone(), (Kind::Pod, "d", "p", found("9"))]);
    assert_eq!(check(&replaced, &[], now).unwrap_err(), Error::Invalidated);
    let dying = Found { deleted_at: Some(now), ..found("2") };
    let dying = Cluster(vec![account, (Kind::Pod, "d", "p", dying)]);
    assert!(check(&dying, &[], now + Duration::from_secs(30)).is_ok());
    assert_eq!(check(&dying, &[], now + Duration::from_secs(90)).unwrap_err(), Error::Invalidated);
}

#[test]
fn only_our_signature_counts() {
    let (ours, other) = (issuer(), issuer());
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
    let cluster = Cluster(vec![]);
    let verifier = verifier(&ours);
    let token =
        other.issue(binding(), vec!["https://a".into()], Duration::from_secs(9), "j".into(), now).unwrap();
    assert!(matches!(verifier.verify(&token, &[], &cluster, now), Err(Error::Signature(_))));
    for garbage in ["bad", "a.b.c", "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln"] {
        assert_eq!(
            verifier.verify(garbage, &[], &cluster, now).unwrap_err().to_string(),
            "invalid bearer token"
        );
    }
    // Another payload under a good signature.
    let issue = |seconds| {
        ours.issue(binding(), vec!["https://a".into()], Duration::from_secs(seconds), "j".into(), now)
            .unwrap()
    };
    let (good, longer) = (issue(9), issue(99));
    let mut parts: Vec<&str> = good.split('.').collect();
    parts[1] = longer.split('.').nth(1).unwrap();
    assert!(matches!(verifier.verify(&parts.join("."), &[], &cluster, now), Err(Error::Signature(_))));
}

#[test]
fn rsa_keys_work_too() {
    let key = SigningKey::from_pem(include_str!("rsa-for-tests.pem")).unwrap();
    assert_eq!(jwks(std::slice::from_ref(&key.public))["keys"][0]["kty"], "RSA");
    let issuer = Issuer { issuer: "https://i".into(), key };
    let now = SystemTime::UNIX_EPOCH;
    let account =
        Binding { namespace: "d".into(), serviceaccount: reference("sa", "1"), ..Binding::default() };
    let minute = Duration::from_secs(60);
    let token = issuer.issue(account, vec!["https://a".into()], minute, "j".into(), now).unwrap();
    let cluster = Cluster(vec![(Kind::ServiceAccount, "d", "sa", found("1"))]);
    assert!(verifier(&issuer).verify(&token, &[], &cluster, now).is_ok());
}

#[test]
fn published_documents() {
    let issuer = issuer();
    let keys = [issuer.key.public.clone(), VerifyingKey::from_pem(&public_pem()).unwrap()];
    let document = jwks(&keys);
    assert_eq!(document["keys"][0]["crv"], "P-256");
    assert_eq!(document["keys"].as_array().unwrap().len(), 2);
    assert_eq!(
        openid_configuration("https://i", "https://i/openid/v1/jwks", &keys),
        json!({"issuer": "https://i", "jwks_uri": "https://i/openid/v1/jwks",
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]})
    );
}

fn public_pem() -> String {
    rcgen::KeyPair::generate().unwrap().public_key_pem()
}
