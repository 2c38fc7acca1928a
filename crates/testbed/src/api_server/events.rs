//! The API server's checks of Events (kubernetes `pkg/apis/core/validation/events.go`).
#![expect(
    clippy::indexing_slicing,
    reason = "what a JSON object does not hold is null"
)]

use serde_json::Value;

use super::http::Refusal;

/// Why an Event is rejected.
pub(super) fn check(event: &Value, namespace: Option<&str>) -> Result<(), Refusal> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let filled = |value: &Value, longest: usize| (1..=longest).contains(&text(value).len());
    let (own, of_regarding) = (
        &event["metadata"]["namespace"],
        &event["regarding"]["namespace"],
    );
    let subdomain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
    let name = text(&event["metadata"]["name"]);
    let checks = [
        (
            filled(&event["metadata"]["name"], 253),
            "metadata.name: required",
        ),
        (
            name.chars().all(subdomain),
            "metadata.name: not a DNS subdomain",
        ),
        (
            own.as_str() == namespace,
            "metadata.namespace: not that of the request",
        ),
        (
            of_regarding == own || of_regarding.is_null() && own == "default",
            "regarding.namespace: does not match event.namespace",
        ),
        (!event["eventTime"].is_null(), "eventTime: required"),
        (
            filled(&event["reportingController"], 253),
            "reportingController: required",
        ),
        (
            filled(&event["reportingInstance"], 128),
            "reportingInstance: required",
        ),
        (filled(&event["action"], 128), "action: required"),
        (filled(&event["reason"], 128), "reason: required"),
        (text(&event["note"]).len() <= 1024, "note: too long"),
        (
            ["Normal", "Warning"].contains(&text(&event["type"]).as_str()),
            "type: neither Normal nor Warning",
        ),
    ];
    match checks.into_iter().find(|(holds, _)| !holds) {
        Some((_, message)) => Err(Refusal {
            code: 422,
            reason: "Invalid",
            message,
        }),
        None => Ok(()),
    }
}
