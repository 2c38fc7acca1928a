//! What svcproxy serves about itself over HTTP: health checks, metrics, the proxy's own health.

pub mod health;
mod http;
#[cfg(feature = "metrics")]
pub mod metrics;
