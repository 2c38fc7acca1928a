//! Attributes of newer kernels: kept, and written as they were received.

use super::attribute::{Attribute, Sink, put};
use crate::UnknownAttribute;

pub(super) fn keep_unknown(unknown: &mut Vec<UnknownAttribute>, attribute: Attribute<'_>) {
    let Attribute { kind, value } = attribute;
    unknown.push(UnknownAttribute {
        kind,
        value: value.to_vec(),
    });
}

pub(super) fn put_unknown<S: Sink>(sink: &mut S, unknown: &[UnknownAttribute]) {
    for UnknownAttribute { kind, value } in unknown {
        put(sink, *kind, value);
    }
}
