//! HTTP: metrics, the proxy's own health, and the health checks of Services.

pub mod health;
mod http;
#[cfg(feature = "metrics")]
pub mod metrics;
