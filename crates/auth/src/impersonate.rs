//! Acting as somebody else: the `Impersonate-*` headers.

use std::collections::BTreeMap;

use api::Status;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::access::Refused;
use crate::authorize::{Attributes, Chain};
use crate::user::{ANONYMOUS, AUTHENTICATED, SERVICE_ACCOUNTS, UNAUTHENTICATED, User, split_service_account};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Whom the headers ask to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impersonation {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

/// Groups, a uid or extras without a user. Upstream answers 500, in plain text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("requested [{0}] without impersonating a user")]
pub struct Incomplete(String);

impl Impersonation {
    /// None where the headers ask for nobody. Headers that are there ask, whatever they hold: a proxy that
    /// has no name to give must not act with its own rights.
    ///
    /// # Errors
    /// [`Incomplete`]; 400 for values that are not UTF-8.
    pub fn parse(headers: &HeaderMap) -> Result<Option<Impersonation>, Refused> {
        let extras = || headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with(EXTRA));
        if extras().next().is_none() && ![USER, GROUP, UID].iter().any(|name| headers.contains_key(*name)) {
            return Ok(None);
        }
        let mut asked = Impersonation {
            user: values(headers, USER)?.into_iter().next().unwrap_or_default(),
            groups: values(headers, GROUP)?,
            uid: values(headers, UID)?.into_iter().next().unwrap_or_default(),
            extra: BTreeMap::new(),
        };
        for name in extras() {
            asked.extra.insert(unescape(&name[EXTRA.len()..]), values(headers, name)?);
        }
        if asked.user.is_empty() {
            return Err(Incomplete(asked.references().join(" ")).into());
        }
        Ok(Some(asked))
    }

    /// What was asked for beside the user, as Go prints object references.
    fn references(&self) -> Vec<String> {
        let mut out: Vec<String> = self.groups.iter().map(|g| format!("{{Group  {g}    }}")).collect();
        for (key, values) in &self.extra {
            out.extend(values.iter().map(|v| format!("{{UserExtra  {v}  authentication.k8s.io/v1  {key}}}")));
        }
        if !self.uid.is_empty() {
            out.push(format!("{{UID  {}  authentication.k8s.io/v1  }}", self.uid));
        }
        out
    }

    /// The user that `asker` becomes.
    ///
    /// # Errors
    /// The 403 of the first part that `asker` may not impersonate.
    pub fn apply(self, asker: &User, chain: &Chain) -> Result<User, Status> {
        let impersonate = |group, resource| Attributes::resource(asker, "impersonate", group, resource);
        const AUTHENTICATION: &str = "authentication.k8s.io";
        let account = split_service_account(&self.user);
        match account {
            Some((namespace, name)) => {
                chain.check(&impersonate("", "serviceaccounts").namespace(namespace).name(name))?;
            }
            None => chain.check(&impersonate("", "users").name(&self.user))?,
        }
        for group in &self.groups {
            chain.check(&impersonate("", "groups").name(group))?;
        }
        for (key, values) in &self.extra {
            for value in values {
                chain.check(&impersonate(AUTHENTICATION, "userextras").subresource(key).name(value))?;
            }
        }
        if !self.uid.is_empty() {
            chain.check(&impersonate(AUTHENTICATION, "uids").name(&self.uid))?;
        }
        let mut groups = self.groups;
        if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
            groups = vec![SERVICE_ACCOUNTS.into(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
        }
        let implied = if self.user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED) {
            groups.push(implied.into());
        }
        Ok(User { name: self.user, uid: self.uid, groups, extra: self.extra })
    }
}

/// All values of a header.
fn values(headers: &HeaderMap, name: &str) -> Result<Vec<String>, Status> {
    let text = |value: &HeaderValue| match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Status::bad_request(format!("the value of the header {name} is not valid UTF-8"))),
    };
    headers.get_all(name).iter().map(text).collect()
}

/// Keys of extras are percent-encoded, for header names hold few characters.
fn unescape(key: &str) -> String {
    percent_encoding::percent_decode_str(key)
        .decode_utf8()
        .map_or_else(|_| key.to_owned(), |decoded| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::{Rbac, bootstrap};

    fn check(headers: &[(&'static str, &str)], asker: &User, expect: Expect) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        expect.assert_eq(&outcome(&map, asker));
    }

    fn outcome(map: &HeaderMap, asker: &User) -> String {
        let rbac = Rbac::default();
        rbac.put_policy(&bootstrap::policy());
        let chain = Chain::new(vec![Arc::new(rbac)]);
        match Impersonation::parse(map) {
            Err(Refused::Incomplete(incomplete)) => incomplete.to_string(),
            Err(Refused::Status(status)) => format!("{} {}", status.code, status.message),
            Ok(None) => "nobody".into(),
            Ok(Some(asked)) => match asked.apply(asker, &chain) {
                Ok(user) => format!("{} {:?} {:?} {:?}", user.name, user.uid, user.groups, user.extra),
                Err(status) => status.message,
            },
        }
    }

    #[test]
    fn headers() {
        let root = User::new("root", ["system:masters"]);
        check(&[("accept", "x")], &root, expect!["nobody"]);
        check(
            &[("impersonate-user", "jane"), ("impersonate-group", "a"), ("impersonate-group", "b")],
            &root,
            expect![[r#"jane "" ["a", "b", "system:authenticated"] {}"#]],
        );
        check(
            &[("impersonate-user", "system:serviceaccount:d:s"), ("impersonate-extra-a%2fb", "x")],
            &root,
            expect![[
                r#"system:serviceaccount:d:s "" ["system:serviceaccounts", "system:serviceaccounts:d", "system:authenticated"] {"a/b": ["x"]}"#
            ]],
        );
        check(
            &[("impersonate-user", "system:anonymous")],
            &root,
            expect![[r#"system:anonymous "" ["system:unauthenticated"] {}"#]],
        );
        check(
            &[("impersonate-group", "devs")],
            &root,
            expect!["requested [{Group  devs    }] without impersonating a user"],
        );
        check(
            &[("impersonate-extra-scopes", "x")],
            &root,
            expect![
                "requested [{UserExtra  x  authentication.k8s.io/v1  scopes}] without impersonating a user"
            ],
        );
        check(
            &[("impersonate-user", "jane")],
            &User::new("bob", ["devs"]),
            expect![[
                r#"users "jane" is forbidden: User "bob" cannot impersonate resource "users" in API group "" at the cluster scope"#
            ]],
        );
    }

    #[test]
    fn values_are_utf_8() {
        let root = User::new("root", ["system:masters"]);
        check(
            &[("impersonate-user", "jörg"), ("impersonate-group", "größe"), ("impersonate-extra-a", "ü")],
            &root,
            expect![[r#"jörg "" ["größe", "system:authenticated"] {"a": ["ü"]}"#]],
        );
        for name in ["impersonate-user", "impersonate-group", "impersonate-uid", "impersonate-extra-a"] {
            let mut map = HeaderMap::new();
            map.insert(name, HeaderValue::from_bytes(b"j\xf6rg").unwrap());
            map.append("impersonate-user", HeaderValue::from_static("jane"));
            let said = format!("400 the value of the header {name} is not valid UTF-8");
            assert_eq!(outcome(&map, &root), said);
        }
    }

    #[test]
    fn a_header_without_a_value_asks() {
        let root = User::new("root", ["system:masters"]);
        check(
            &[("impersonate-user", ""), ("impersonate-group", "devs")],
            &root,
            expect!["requested [{Group  devs    }] without impersonating a user"],
        );
        check(
            &[("impersonate-group", "")],
            &root,
            expect!["requested [{Group      }] without impersonating a user"],
        );
        check(&[("impersonate-user", "")], &root, expect!["requested [] without impersonating a user"]);
    }
}
