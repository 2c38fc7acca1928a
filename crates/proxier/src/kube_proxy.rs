//! What on a node is kube-proxy's. Pure; [`KubeProxy`](crate::backend::KubeProxy) removes it.

/// The table of its nftables mode, in families `ip` and `ip6` (`kubeProxyTable` in
/// pkg/proxy/nftables/proxier.go).
pub(crate) const NFTABLES_TABLE: &str = "kube-proxy";
