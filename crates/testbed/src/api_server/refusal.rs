//! Error answers.

use serde_json::{Value, json};

/// An error answer.
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

pub(super) const GONE: Refusal = Refusal {
    code: 410,
    reason: "Expired",
    message: "too old resource version",
};

pub(super) const TOO_LARGE: Refusal = Refusal {
    code: 504,
    reason: "Timeout",
    message: "Too large resource version",
};

pub(super) const FORBIDDEN: Refusal = Refusal {
    code: 403,
    reason: "Forbidden",
    message: "the user cannot list the resource at the cluster scope",
};

pub(super) const NOT_FOUND: Refusal = Refusal {
    code: 404,
    reason: "NotFound",
    message: "the server could not find the requested resource",
};

pub(super) const EXISTS: Refusal = Refusal {
    code: 409,
    reason: "AlreadyExists",
    message: "an object of that name already exists",
};

impl Refusal {
    /// The `Status` object.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}
