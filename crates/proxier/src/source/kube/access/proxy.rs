//! The proxy between a node and its API server; reads the environment as Go does
//! (`golang.org/x/net/http/httpproxy`).

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;

use super::{AccessError, basic, without_brackets};

/// The protocol of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Protocol {
    Http,
    /// HTTP over TLS.
    Https,
    Socks5,
}

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub(in super::super) struct Proxy {
    pub(in super::super) protocol: Protocol,
    /// Without brackets.
    pub(in super::super) host: String,
    pub(in super::super) port: u16,
    pub(in super::super) credentials: Option<(String, String)>,
    /// The variable or file that names it.
    pub(in super::super) origin: String,
}

impl fmt::Display for Proxy {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host, port, origin, ..
        } = self;
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Https => "https",
            Protocol::Socks5 => "socks5",
        };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port} ({origin})")
        } else {
            write!(f, "{scheme}://{host}:{port} ({origin})")
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Proxy {
    /// # Errors
    ///
    /// [`AccessError::Proxy`] if this is not the URL of a proxy. The error does not contain the
    /// URL, which may include a password.
    pub(super) fn parse(url: &str, origin: &str) -> Result<Self, AccessError> {
        let wrong = |problem: &str| AccessError::Proxy {
            origin: origin.to_owned(),
            problem: problem.to_owned(),
        };
        let url = url.trim();
        // A URL without a scheme means `http`, as in Go.
        let url = match url.split_once("://") {
            Some(_) => url.to_owned(),
            None => format!("http://{url}"),
        };
        let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        let (protocol, port) = match uri.scheme_str() {
            Some("http") => (Protocol::Http, 80),
            Some("https") => (Protocol::Https, 443),
            Some("socks5" | "socks5h") => (Protocol::Socks5, 1080),
            _ => return Err(wrong("its scheme is not http, https or socks5")),
        };
        let host = without_brackets(uri.host().unwrap_or_default());
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let credentials = authority.rsplit_once('@').map(|(credentials, _)| {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
            (decode(user), decode(password))
        });
        Ok(Self {
            protocol,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(port),
            credentials,
            origin: origin.to_owned(),
        })
    }

    /// The proxy for a server in the environment's variables, if any. A variable in upper case
    /// takes precedence over lower case.
    pub(super) fn of_environment(
        is_tls: bool,
        host: &str,
        port: u16,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, AccessError> {
        let find = |name: &str| {
            let names = [name.to_owned(), name.to_lowercase()];
            let mut found = names
                .into_iter()
                .filter_map(|name| Some((variable(&name)?, name)));
            found.find(|(value, _)| !value.is_empty())
        };
        let scheme = if is_tls { "HTTPS_PROXY" } else { "HTTP_PROXY" };
        // Go does not read ALL_PROXY, which environments set for curl and other programs.
        let Some((url, name)) = find(scheme) else {
            return Ok(None);
        };
        let excluded = find("NO_PROXY").map_or_else(String::new, |(value, _)| value);
        if NoProxy::new(&excluded).has(host, port) {
            return Ok(None);
        }
        Self::parse(&url, &name).map(Some)
    }

    /// The value of `Proxy-Authorization`.
    pub(in super::super) fn authorization(&self) -> Option<String> {
        let (user, password) = self.credentials.as_ref()?;
        Some(basic(user, password))
    }
}

/// The servers that are reached without a proxy.
#[derive(Debug, Default, PartialEq, Eq)]
struct NoProxy {
    all: bool,
    networks: Vec<IpNet>,
    addresses: Vec<(IpAddr, Option<u16>)>,
    domains: Vec<Domain>,
}

#[derive(Debug, PartialEq, Eq)]
struct Domain {
    /// The suffix, with a leading dot.
    suffix: String,
    /// Whether the name itself matches, not only names below it.
    itself: bool,
    port: Option<u16>,
}

impl NoProxy {
    fn new(list: &str) -> Self {
        let mut excluded = Self::default();
        for entry in list.split(',') {
            let entry = entry.trim().to_lowercase();
            if entry == "*" {
                excluded.all = true;
            } else if let Ok(network) = entry.parse() {
                excluded.networks.push(network);
            } else if let Some((host, port)) = host_and_port(&entry) {
                excluded.add(host, port);
            }
        }
        excluded
    }

    fn add(&mut self, host: &str, port: Option<u16>) {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.addresses.push((address.to_canonical(), port));
        }
        let host = host
            .strip_prefix('*')
            .filter(|rest| rest.starts_with('.'))
            .unwrap_or(host);
        self.domains.push(if host.starts_with('.') {
            Domain {
                suffix: host.to_owned(),
                itself: false,
                port,
            }
        } else {
            Domain {
                suffix: format!(".{host}"),
                itself: true,
                port,
            }
        });
    }

    fn has(&self, host: &str, port: u16) -> bool {
        let host = host.trim().to_lowercase();
        let is_port = |of: Option<u16>| of.is_none_or(|of| of == port);
        if let Ok(address) = host.parse::<IpAddr>() {
            let address = address.to_canonical();
            let mut addresses = self.addresses.iter();
            return self.all
                || address.is_loopback()
                || self
                    .networks
                    .iter()
                    .any(|network| network.contains(&address))
                || addresses.any(|(of, port)| *of == address && is_port(*port));
        }
        let mut domains = self.domains.iter();
        self.all
            || host == "localhost"
            || domains.any(|domain| {
                let itself = domain.itself && domain.suffix.strip_prefix('.') == Some(&*host);
                (itself || host.ends_with(&domain.suffix)) && is_port(domain.port)
            })
    }
}

/// A host, without brackets, and a port if given. None if there is no host, or the port is invalid.
fn host_and_port(entry: &str) -> Option<(&str, Option<u16>)> {
    let is_address = entry.parse::<IpAddr>().is_ok();
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) if !is_address && !port.ends_with(']') => (host, Some(port)),
        _ => (entry, None),
    };
    let port = match port {
        Some("") | None => None,
        Some(port) => Some(port.parse().ok()?),
    };
    let host = without_brackets(host);
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn through(variables: &[(&str, &str)], server: &str) -> Option<String> {
        let (scheme, rest) = server.split_once("://").unwrap();
        let (host, port) = rest.rsplit_once(':').unwrap();
        let map: HashMap<_, _> = variables.iter().copied().collect();
        let variable = |name: &str| map.get(name).map(|value| (*value).to_owned());
        let port = port.parse().unwrap();
        let host = without_brackets(host);
        let proxy = Proxy::of_environment(scheme == "https", host, port, variable);
        proxy.unwrap().map(|proxy| proxy.to_string())
    }

    #[test]
    fn variables_by_scheme_and_case() {
        let server = "https://api.test:6443";
        let all = [
            ("HTTPS_PROXY", "http://s.test:1"),
            ("https_proxy", "http://t.test:2"),
            ("HTTP_PROXY", "p.test:3"),
            ("all_proxy", "socks5://a.test"),
        ];
        let cases = [
            (&all[..], server, Some("http://s.test:1 (HTTPS_PROXY)")),
            (&all[1..], server, Some("http://t.test:2 (https_proxy)")),
            // Neither the other scheme's variable nor ALL_PROXY, which Go does not read.
            (&all[2..], server, None),
            (&[("ALL_PROXY", "socks5://a.test")], server, None),
            (
                &all[..],
                "http://api.test:80",
                Some("http://p.test:3 (HTTP_PROXY)"),
            ),
            (&[("HTTPS_PROXY", "")], server, None),
            (
                &[("HTTPS_PROXY", ""), ("https_proxy", "p.test")],
                server,
                Some("http://p.test:80 (https_proxy)"),
            ),
            (&[], server, None),
        ];
        for (variables, server, expected) in cases {
            assert_eq!(
                through(variables, server).as_deref(),
                expected,
                "{variables:?} {server}"
            );
        }
    }

    /// The cases of Go's documentation, and edge cases.
    #[test]
    fn no_proxy_as_go_reads_it() {
        let cases = [
            ("", "api.test:6443", false),
            ("*", "api.test:6443", true),
            ("foo, *", "192.0.2.1:6443", true),
            // A name matches itself and the names below it.
            ("api.test", "api.test:6443", true),
            ("API.Test", "a.api.TEST:6443", true),
            ("api.test", "notapi.test:6443", false),
            ("test", "api.test:6443", true),
            // With a dot or an asterisk, it matches only names below it.
            (".api.test", "api.test:6443", false),
            (".api.test", "a.api.test:6443", true),
            ("*.api.test", "api.test:6443", false),
            ("*.api.test", "a.b.api.test:6443", true),
            ("*api.test", "api.test:6443", false),
            // Ports.
            ("api.test:6443", "api.test:6443", true),
            ("api.test:6443", "api.test:443", false),
            ("api.test:", "api.test:443", true),
            ("api.test:https", "api.test:443", false),
            (".test:443", "api.test:443", true),
            (".test:443", "api.test:6443", false),
            // Addresses and networks.
            ("192.0.2.1", "192.0.2.1:6443", true),
            ("192.0.2.1:443", "192.0.2.1:6443", false),
            ("192.0.2.1:6443", "192.0.2.1:6443", true),
            ("192.0.2.0/24", "192.0.2.1:6443", true),
            ("192.0.2.0/24", "192.0.3.1:6443", false),
            ("192.0.2.7/24", "192.0.2.1:6443", true),
            ("192.0.2.0/24", "::ffff:192.0.2.1:6443", true),
            ("2001:db8::1", "2001:db8::1:6443", true),
            ("[2001:db8::1]", "2001:db8::1:6443", true),
            ("[2001:db8::1]:6443", "2001:db8::1:6443", true),
            ("[2001:db8::1]:443", "2001:db8::1:6443", false),
            ("2001:db8::/32", "2001:db8::1:6443", true),
            // An address is not a name.
            (".2.1", "192.0.2.1:6443", false),
            // Never through a proxy.
            ("", "localhost:6443", true),
            ("", "127.0.0.1:6443", true),
            ("", "127.8.0.1:6443", true),
            ("", "::1:6443", true),
            // Meaningless entries are ignored.
            (",, ,:443,/24,192.0.2.0/33,[]", "192.0.2.1:6443", false),
            (" a.test , b.test ", "b.test:6443", true),
        ];
        for (list, server, expected) in cases {
            let (host, port) = server.rsplit_once(':').unwrap();
            let is = NoProxy::new(list).has(host, port.parse().unwrap());
            assert_eq!(is, expected, "{list:?} {server}");
        }
    }

    #[test]
    fn urls_of_proxies() {
        let proxy = Proxy::parse("http://us%40er:p%3Ass:w@[2001:db8::1]:3128/", "x").unwrap();
        let credentials = ("us@er".to_owned(), "p:ss:w".to_owned());
        assert_eq!(proxy.credentials, Some(credentials));
        assert_eq!(proxy.to_string(), "http://[2001:db8::1]:3128 (x)");
        assert_eq!(proxy.authorization().unwrap(), "Basic dXNAZXI6cDpzczp3");
        for url in ["ftp://secret@p.test", "http://", "http://secret@ p.test"] {
            let error = Proxy::parse(url, "HTTPS_PROXY").unwrap_err().to_string();
            assert!(
                error.starts_with("cannot use the proxy of HTTPS_PROXY: "),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
