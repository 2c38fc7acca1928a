//! Kubeconfigs: the current context, with cluster, user and files.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::options;

use super::exec::Plugin;
use super::{AccessError, Files, Material, Secret, Target, Trust, or_default};

/// A kubeconfig (client-go `tools/clientcmd/api/v1`), as far as a connection needs it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    #[serde(deserialize_with = "or_default")]
    current_context: String,
    #[serde(deserialize_with = "or_default")]
    contexts: Vec<NamedContext>,
    #[serde(deserialize_with = "or_default")]
    clusters: Vec<NamedCluster>,
    #[serde(deserialize_with = "or_default")]
    users: Vec<NamedUser>,
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    context: Context,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    user: User,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    #[serde(deserialize_with = "or_default")]
    cluster: String,
    #[serde(deserialize_with = "or_default")]
    user: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    #[serde(deserialize_with = "or_default")]
    server: String,
    #[serde(deserialize_with = "or_default")]
    tls_server_name: String,
    #[serde(deserialize_with = "or_default")]
    insecure_skip_tls_verify: bool,
    #[serde(deserialize_with = "or_default")]
    certificate_authority: String,
    #[serde(deserialize_with = "or_default")]
    certificate_authority_data: String,
    #[serde(deserialize_with = "or_default")]
    proxy_url: String,
    #[serde(deserialize_with = "or_default")]
    extensions: Vec<Extension>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extension {
    name: String,
    extension: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    #[serde(deserialize_with = "or_default")]
    client_certificate: String,
    #[serde(deserialize_with = "or_default")]
    client_certificate_data: String,
    #[serde(deserialize_with = "or_default")]
    client_key: String,
    #[serde(deserialize_with = "or_default")]
    client_key_data: String,
    #[serde(deserialize_with = "or_default")]
    token: String,
    #[serde(rename = "tokenFile", deserialize_with = "or_default")]
    token_file: String,
    #[serde(rename = "as", deserialize_with = "or_default")]
    as_user: String,
    #[serde(deserialize_with = "or_default")]
    as_uid: String,
    #[serde(deserialize_with = "or_default")]
    as_groups: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    as_user_extra: BTreeMap<String, Vec<String>>,
    #[serde(deserialize_with = "or_default")]
    username: String,
    #[serde(deserialize_with = "or_default")]
    password: String,
    auth_provider: Option<AuthProvider>,
    exec: Option<super::exec::Config>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthProvider {
    #[serde(deserialize_with = "or_default")]
    name: String,
}

/// The target of a kubeconfig's current context. `server` takes precedence over the kubeconfig's
/// server.
pub(super) fn load(path: &Path, server: Option<&str>) -> Result<Target, AccessError> {
    let mut files = Files::default();
    let text = files.read("kubeconfig", path)?;
    parse(path, &text, files, server)
}

/// As [`load`], with the text of the file.
pub(super) fn parse(
    path: &Path,
    text: &[u8],
    files: Files,
    server: Option<&str>,
) -> Result<Target, AccessError> {
    let wrong = |problem: String| AccessError::Kubeconfig {
        path: path.to_owned(),
        problem,
    };
    let options = options! { with_snippet: false };
    let config: Kubeconfig = serde_saphyr::from_slice_with_options(text, options)
        .map_err(|error| wrong(error.to_string()))?;
    let (cluster, user_name, user) = current(config).map_err(wrong)?;
    let server = match server {
        Some(server) => server,
        None if cluster.server.is_empty() => {
            return Err(wrong(
                "the cluster of its current context has no server".to_owned(),
            ));
        }
        None => &cluster.server,
    };
    let file = File { path, files };
    target(file, server, &cluster, &user_name, user)
}

/// The cluster and the user of the current context.
fn current(config: Kubeconfig) -> Result<(Cluster, String, User), String> {
    let name = config.current_context;
    if name.is_empty() {
        return Err("it has no current-context".to_owned());
    }
    let mut contexts = config.contexts.into_iter();
    let Some(context) = contexts.find(|context| context.name == name) else {
        return Err(format!("its current-context {name:?} is not defined"));
    };
    let Context { cluster, user } = context.context;
    let mut clusters = config.clusters.into_iter();
    let Some(found) = clusters.find(|named| named.name == cluster) else {
        return Err(format!(
            "the cluster {cluster:?} of context {name:?} is not defined"
        ));
    };
    if user.is_empty() {
        return Ok((found.cluster, user, User::default()));
    }
    let mut users = config.users.into_iter();
    let Some(named) = users.find(|named| named.name == user) else {
        return Err(format!(
            "the user {user:?} of context {name:?} is not defined"
        ));
    };
    Ok((found.cluster, user, named.user))
}

/// A kubeconfig, with all files that it refers to.
struct File<'a> {
    path: &'a Path,
    files: Files,
}

impl File<'_> {
    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new(""))
    }

    fn wrong(&self, problem: impl Into<String>) -> AccessError {
        AccessError::Kubeconfig {
            path: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    /// Data from the kubeconfig itself, in base64, or else from a file that it names.
    fn material(
        &mut self,
        what: &'static str,
        field: &str,
        data: &str,
        file: &str,
    ) -> Result<Option<Material>, AccessError> {
        if !data.is_empty() {
            let text = super::decode(data)
                .map_err(|error| self.wrong(format!("{field} is not base64: {error}")))?;
            let origin = format!("{field} of {}", self.path.display());
            return Ok(Some(Material { what, origin, text }));
        }
        if file.is_empty() {
            return Ok(None);
        }
        let path = self.directory().join(file);
        self.files.material(what, &path).map(Some)
    }
}

fn target(
    mut file: File<'_>,
    server: &str,
    cluster: &Cluster,
    user_name: &str,
    user: User,
) -> Result<Target, AccessError> {
    if let Some(provider) = &user.auth_provider {
        return Err(file.wrong(removed_provider(user_name, &provider.name)));
    }
    let authorities = file.material(
        "CA certificates",
        "certificate-authority-data",
        &cluster.certificate_authority_data,
        &cluster.certificate_authority,
    )?;
    let trust = match (cluster.insecure_skip_tls_verify, authorities) {
        (true, Some(_)) => {
            return Err(file.wrong(
                "insecure-skip-tls-verify and certificate-authority exclude each other; \
                 remove one of them",
            ));
        }
        (true, None) => Trust::Anyone,
        (false, Some(authorities)) => Trust::Authorities(authorities),
        (false, None) => Trust::System,
    };
    let certificate = file.material(
        "client certificate",
        "client-certificate-data",
        &user.client_certificate_data,
        &user.client_certificate,
    )?;
    let key = file.material(
        "client key",
        "client-key-data",
        &user.client_key_data,
        &user.client_key,
    )?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(file.wrong(format!(
                "user {user_name:?} has a client-certificate and no client-key"
            )));
        }
        (None, Some(_)) => {
            return Err(file.wrong(format!(
                "user {user_name:?} has a client-key and no client-certificate"
            )));
        }
    };
    let mut target = Target::new(server, &trust, identity.is_some())?;
    if !cluster.tls_server_name.is_empty() {
        target.server_name = Some(cluster.tls_server_name.clone());
    }
    if !cluster.proxy_url.is_empty() {
        let origin = format!("proxy-url of {}", file.path.display());
        target.proxy = Some((cluster.proxy_url.clone(), origin));
    }
    target.secret = if !user.token_file.is_empty() {
        let path = file.directory().join(&user.token_file);
        Some(file.files.token(&path)?)
    } else if !user.token.is_empty() {
        Some(Secret::Token(user.token))
    } else if !user.username.is_empty() {
        Some(Secret::Password {
            user: user.username,
            password: user.password,
        })
    } else {
        None
    };
    if let Some(config) = user.exec {
        let info = exec_cluster(cluster, server, &trust);
        let plugin = Plugin::new(config, file.directory(), info).map_err(|problem| {
            file.wrong(format!("the exec plugin of user {user_name:?} {problem}"))
        });
        target.plugin = Some(plugin?);
    }
    target.impersonation = impersonation(
        &user.as_user,
        &user.as_uid,
        user.as_groups,
        user.as_user_extra,
    );
    target.trust = trust;
    target.identity = identity;
    target.files = file.files;
    Ok(target)
}

fn removed_provider(user: &str, provider: &str) -> String {
    let instead = match provider {
        "gcp" => "an exec plugin: gke-gcloud-auth-plugin",
        "azure" | "oidc" => "an exec plugin: kubelogin",
        _ => "an exec plugin, a token or a client certificate",
    };
    format!(
        "user {user:?} has an auth-provider {provider:?}, which Kubernetes has replaced by exec \
         plugins; give the user {instead}"
    )
}

/// The cluster, in the form for plugins with `provideClusterInfo` (client-go
/// `pkg/apis/clientauthentication`).
fn exec_cluster(cluster: &Cluster, server: &str, trust: &Trust) -> Value {
    let mut info = serde_json::Map::new();
    let mut add = |key: &str, value: Value| {
        let is_zero = value.is_null() || value == "" || value == false;
        if !is_zero {
            info.insert(key.to_owned(), value);
        }
    };
    add("server", server.into());
    add("tls-server-name", cluster.tls_server_name.as_str().into());
    add(
        "insecure-skip-tls-verify",
        cluster.insecure_skip_tls_verify.into(),
    );
    add("proxy-url", cluster.proxy_url.as_str().into());
    if let Trust::Authorities(authorities) = trust {
        add(
            "certificate-authority-data",
            super::encode(&authorities.text).into(),
        );
    }
    let mut extensions = cluster.extensions.iter();
    let config = extensions.find(|extension| extension.name == "client.authentication.k8s.io/exec");
    if let Some(config) = config {
        add("config", config.extension.clone());
    }
    info.into()
}

fn impersonation(
    user: &str,
    uid: &str,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let mut header = |name: &str, value: String| {
        if !value.is_empty() {
            headers.push((name.to_owned(), value));
        }
    };
    header("Impersonate-User", user.to_owned());
    header("Impersonate-Uid", uid.to_owned());
    groups
        .into_iter()
        .for_each(|group| header("Impersonate-Group", group));
    for (key, values) in extra {
        let name = format!("Impersonate-Extra-{}", super::escape(&key));
        values.into_iter().for_each(|value| header(&name, value));
    }
    headers
}
