//! The environment variables of a container that name Services. Pure.
//!
//! Names, values and rules are those of the kubelet (kubernetes `pkg/kubelet/envvars/envvars.go` and
//! `getServiceEnvVarMap` in `pkg/kubelet/kubelet_pods.go`): `{SVC}_SERVICE_HOST`,
//! `{SVC}_SERVICE_PORT`, one variable for each named port, and the variables of Docker's links.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::model::{Service, Unproxied};

/// The Service whose variables every container has.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// The variables of a container in a namespace, by name.
///
/// With `links` (`enableServiceLinks` of a Pod) they are those of all Services of the namespace that
/// have a cluster IP, and of `default/kubernetes`, unless the namespace has a Service with that name.
/// Without `links` they are those of `default/kubernetes` only.
///
/// A Service of two families has its first address. If two Services have a variable of the same name,
/// the last one in the order of names counts; the kubelet's choice is random.
///
/// ```
/// use proxier::discovery::environment;
/// use proxier::model::{ObjectName, PortName, Protocol, Service, ServicePort};
///
/// let mut web = Service::new(ObjectName::new("shop", "web-ui")?);
/// web.cluster_ips = ["10.96.0.80".parse().unwrap()].into();
/// let number = std::num::NonZeroU16::new(80).unwrap();
/// web.ports = [ServicePort::new(PortName::UNNAMED, Protocol::Tcp, number)].into();
/// let variables = environment::variables([&web], "shop", true);
/// assert_eq!(variables["WEB_UI_SERVICE_HOST"], "10.96.0.80");
/// assert_eq!(variables["WEB_UI_PORT"], "tcp://10.96.0.80:80");
/// # Ok::<(), proxier::model::InvalidName>(())
/// ```
pub fn variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut chosen = BTreeMap::new();
    for service in services {
        let Some(address) = address(service) else {
            continue;
        };
        let (of, name) = (service.name.namespace(), service.name.name());
        if (of, name) == MASTER {
            chosen.entry(name).or_insert((service, address));
        } else if links && of == namespace {
            chosen.insert(name, (service, address));
        }
    }
    let mut variables = BTreeMap::new();
    for (name, (service, address)) in chosen {
        add(&mut variables, &upper(name), service, address);
    }
    variables
}

/// The first cluster IP, even if another proxy serves it: a kubelet does not tell the difference.
fn address(service: &Service) -> Option<IpAddr> {
    let addresses = match service.unproxied.as_deref() {
        Some(Unproxied::OtherProxy(addresses)) => addresses,
        _ => &service.cluster_ips,
    };
    addresses.first().copied()
}

/// Adds the variables of one Service. Later ones replace earlier ones with the same name.
fn add(variables: &mut BTreeMap<String, String>, prefix: &str, service: &Service, address: IpAddr) {
    let Some(first) = service.ports.first() else {
        return;
    };
    let mut put = |name: String, value: String| variables.insert(name, value);
    put(format!("{prefix}_SERVICE_HOST"), address.to_string());
    put(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in service.ports.iter().filter(|port| !port.name.is_unnamed()) {
        let name = upper(port.name.as_str());
        put(
            format!("{prefix}_SERVICE_PORT_{name}"),
            port.port.to_string(),
        );
    }
    // Docker's links.
    for (index, port) in service.ports.iter().enumerate() {
        let protocol = port.protocol.to_string().to_ascii_lowercase();
        let url = format!("{protocol}://{}", SocketAddr::new(address, port.port.get()));
        if index == 0 {
            put(format!("{prefix}_PORT"), url.clone());
        }
        let prefix = format!(
            "{prefix}_PORT_{}_{}",
            port.port,
            protocol.to_ascii_uppercase()
        );
        put(format!("{prefix}_PROTO"), protocol);
        put(format!("{prefix}_PORT"), port.port.to_string());
        put(format!("{prefix}_ADDR"), address.to_string());
        put(prefix, url);
    }
}

/// A name as part of a variable's name (`makeEnvVariableName`).
fn upper(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::model::{ObjectName, PortName, Protocol, ServicePort};

    /// `NAMESPACE/NAME ADDRESS[,ADDRESS] [NAME:]NUMBER/PROTOCOL...`
    fn service(text: &str) -> Service {
        let mut words = text.split(' ');
        let (namespace, name) = words.next().unwrap().split_once('/').unwrap();
        let mut service = Service::new(ObjectName::new(namespace, name).unwrap());
        let addresses = words.next().unwrap().split(',');
        service.cluster_ips = addresses.filter_map(|text| text.parse().ok()).collect();
        let port = |word: &str| {
            let (name, port) = word.split_once(':').unwrap_or(("", word));
            let (number, protocol) = port.split_once('/').unwrap();
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => Protocol::Sctp,
            };
            let number = NonZeroU16::new(number.parse().unwrap()).unwrap();
            ServicePort::new(PortName::new(name).unwrap_or_default(), protocol, number)
        };
        service.ports = words.map(port).collect();
        service
    }

    fn text(services: &[Service], namespace: &str, links: bool) -> String {
        let variables = variables(services, namespace, links).into_iter();
        variables
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect()
    }

    fn hosts(services: &[Service], namespace: &str, links: bool) -> String {
        let all = text(services, namespace, links);
        let hosts = all.lines().filter(|line| line.contains("_SERVICE_HOST="));
        hosts.collect::<Vec<_>>().join(" ")
    }

    /// The example of Kubernetes' documentation (concepts/services-networking/service, "Environment
    /// variables").
    #[test]
    fn the_documented_example() {
        let redis = [service("default/redis-primary 10.0.0.11 6379/tcp")];
        let documented = "\
            REDIS_PRIMARY_PORT=tcp://10.0.0.11:6379\n\
            REDIS_PRIMARY_PORT_6379_TCP=tcp://10.0.0.11:6379\n\
            REDIS_PRIMARY_PORT_6379_TCP_ADDR=10.0.0.11\n\
            REDIS_PRIMARY_PORT_6379_TCP_PORT=6379\n\
            REDIS_PRIMARY_PORT_6379_TCP_PROTO=tcp\n\
            REDIS_PRIMARY_SERVICE_HOST=10.0.0.11\n\
            REDIS_PRIMARY_SERVICE_PORT=6379\n";
        assert_eq!(text(&redis, "default", true), documented);
    }

    /// The Services of the kubelet's own test (`TestFromServices`): ports with names, and two ports
    /// of one number.
    #[test]
    fn named_ports_and_protocols() {
        let services = [
            service("default/abc-123 5.6.7.8 u-d-p:8081/udp t-c-p:8081/tcp"),
            service("default/q-u-u-x 9.8.7.6 8082/tcp web8083:8083/tcp"),
        ];
        insta::assert_snapshot!(text(&services, "default", true));
    }

    #[test]
    fn services_without_a_cluster_ip_have_no_variables() {
        let mut external = service("default/ext -");
        external.unproxied = Some(Box::new(Unproxied::ExternalName("example.com".into())));
        let headless = service("default/none None 80/tcp");
        assert_eq!(text(&[external, headless], "default", true), "");
    }

    #[test]
    fn a_service_of_another_proxy_has_variables() {
        let mut other = service("default/other - 80/tcp");
        let addresses = ["10.0.0.1".parse().unwrap()];
        other.unproxied = Some(Box::new(Unproxied::OtherProxy(addresses.into())));
        assert_eq!(
            hosts(&[other], "default", true),
            "OTHER_SERVICE_HOST=10.0.0.1"
        );
    }

    #[test]
    fn kubernetes_of_default_is_always_there_unless_the_namespace_has_its_own() {
        let all = [
            service("shop/web 10.0.0.2 80/tcp"),
            service("default/kubernetes 10.0.0.1 https:443/tcp"),
            service("default/other 10.0.0.3 80/tcp"),
            service("own/kubernetes 10.0.0.4 80/tcp"),
        ];
        let master = "KUBERNETES_SERVICE_HOST=10.0.0.1";
        let shop = format!("{master} WEB_SERVICE_HOST=10.0.0.2");
        assert_eq!(hosts(&all, "shop", true), shop);
        assert_eq!(hosts(&all, "shop", false), master);
        assert_eq!(hosts(&all, "own", false), master);
        let own = "KUBERNETES_SERVICE_HOST=10.0.0.4";
        assert_eq!(hosts(&all, "own", true), own);
        let mut reversed = all.to_vec();
        reversed.reverse();
        assert_eq!(hosts(&reversed, "own", true), own);
    }

    #[test]
    fn the_first_address_counts_and_ipv6_is_in_brackets_in_urls() {
        let dual = [service("default/web fd00::80,10.0.0.1 80/tcp")];
        let text = text(&dual, "default", true);
        assert!(text.contains("WEB_SERVICE_HOST=fd00::80\n"), "{text}");
        assert!(text.contains("WEB_PORT=tcp://[fd00::80]:80\n"), "{text}");
        assert!(text.contains("WEB_PORT_80_TCP_ADDR=fd00::80\n"), "{text}");
        assert!(!text.contains("10.0.0.1"), "{text}");
    }

    /// `a` with a port named `b-c`, and `a-service-port-b` with one named `c`... share variables.
    #[test]
    fn the_last_of_two_services_with_one_variable_counts() {
        let all = [
            service("default/a 10.0.0.1 80/tcp"),
            service("default/a-port-80-tcp 10.0.0.2 81/tcp"),
        ];
        let text = text(&all, "default", true);
        // `A_PORT_80_TCP_PORT` is a variable of both.
        assert!(
            text.contains("A_PORT_80_TCP_PORT=tcp://10.0.0.2:81\n"),
            "{text}"
        );
    }
}
