//! Acting as somebody else: the `Impersonate-*` headers.

use std::collections::BTreeMap;

use api::Status;
use http::HeaderMap;

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
    /// None where the headers ask for nobody.
    ///
    /// # Errors
    /// [`Incomplete`].
    pub fn parse(headers: &HeaderMap) -> Result<Option<Impersonation>, Incomplete> {
        let text = |name: &str| {
            headers
                .get_all(name)
                .iter()
                .filter_map(|v| v.to_str().ok())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let mut asked = Impersonation {
            user: text(USER).into_iter().next().unwrap_or_default(),
            groups: text(GROUP),
            uid: text(UID).into_iter().next().unwrap_or_default(),
            extra: BTreeMap::new(),
        };
        for name in headers.keys().map(http::HeaderName::as_str).filter(|n| n.starts_with(EXTRA)) {
            asked.extra.insert(unescape(&name[EXTRA.len()..]), text(name));
        }
        if asked == Impersonation::default() {
            return Ok(None);
        }
        if asked.user.is_empty() {
            return Err(Incomplete(asked.references().join(" ")));
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

    fn check(headers: &[(&'static str, &'static str)], asker: &User, expect: Expect) {
        let rbac = Rbac::default();
        rbac.put_policy(&bootstrap::policy());
        let chain = Chain::new(vec![Arc::new(rbac)]);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let text = match Impersonation::parse(&map) {
            Err(incomplete) => incomplete.to_string(),
            Ok(None) => "nobody".into(),
            Ok(Some(asked)) => match asked.apply(asker, &chain) {
                Ok(user) => format!("{} {:?} {:?} {:?}", user.name, user.uid, user.groups, user.extra),
                Err(status) => status.message,
            },
        };
        expect.assert_eq(&text);
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
}
