//! A Service with every kind of address, and connections to each of them.

use std::collections::BTreeSet;

use testbed::Connection;

use crate::lab::Lab;
use crate::ports::Port;

/// A connection from every client to every kind of address.
pub(crate) struct Lasting<'a> {
    lab: &'a Lab,
    ports: &'static [Port],
    /// Connections with the answering backend, and a description.
    pub(crate) connections: Vec<(Connection, String, String)>,
}

impl<'a> Lasting<'a> {
    pub(crate) fn open(lab: &'a Lab, ports: &'static [Port]) -> Self {
        let mut connections = Vec::new();
        for port in ports {
            for from in [lab.probe(), lab.node(), lab.client()] {
                let mut connection = lab.connect(from, port);
                let backend = connection.ask().unwrap().backend;
                let name = format!("{} to {}", from.name(), port.vip());
                connections.push((connection, backend, name));
            }
        }
        Self {
            lab,
            ports,
            connections,
        }
    }

    /// The connections that do not have their backend any more.
    pub(crate) fn lost(&mut self) -> Vec<String> {
        let mut lost = Vec::new();
        for (connection, backend, name) in &mut self.connections {
            match connection.ask() {
                Ok(answer) if answer.backend == *backend => {}
                other => lost.push(format!("{name}: {other:?}")),
            }
        }
        lost
    }

    /// Checks that each connection still has its backend.
    pub(crate) fn hold(&mut self) {
        assert_eq!(self.lost(), [""; 0]);
    }

    /// Runs an action on svcproxy. New connections must work meanwhile, and these ones after it.
    pub(crate) fn through<T>(&mut self, action: impl FnOnce(&Lab) -> T) -> T {
        let lab = self.lab;
        let result = lab.undisturbed(lab.probe(), &self.ports[0], || action(lab));
        self.hold();
        result
    }

    /// The backends of the connections.
    pub(crate) fn backends(&self) -> BTreeSet<&str> {
        let backends = self.connections.iter();
        backends.map(|(_, backend, _)| backend.as_str()).collect()
    }
}

pub(crate) const FIRST: &str = "10.244.1.10";
pub(crate) const SECOND: &str = "10.244.1.11";
pub(crate) const THIRD: &str = "10.244.2.10";

/// The Service of [`SHOP`] with these endpoints, and these lines in its metadata and spec.
pub(crate) fn shop(endpoints: &[&str], metadata: &str, spec: &str) -> String {
    let place = |address: &str| match address {
        THIRD => "node-b",
        _ => "node-a",
    };
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|address| format!("{{addresses: [{address}], nodeName: {}}}", place(address)))
        .collect();
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: shop
  {metadata}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.90
  ports:
  - {{name: tcp, port: 80, targetPort: 8080, nodePort: 30090}}
  - {{name: udp, protocol: UDP, port: 80, targetPort: 8080, nodePort: 30090}}
  {spec}
status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.90}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: shop, labels: {{kubernetes.io/service-name: shop}}}}
addressType: IPv4
ports: [{{name: tcp, port: 8080}}, {{name: udp, protocol: UDP, port: 8080}}]
endpoints: [{}]
",
        endpoints.join(", ")
    )
}
