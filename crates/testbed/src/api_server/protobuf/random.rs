//! Random objects.

use serde_json::{Map, Value, json};

use super::super::Resource;
use super::schema::{self, Field, Kind, Rule};

/// Strings: names, addresses, values of fields, and others.
const TEXTS: [&str; 16] = [
    "a",
    "web",
    "10.96.0.1",
    "10.244.1.2",
    "2001:db8::1",
    "IPv4",
    "IPv6",
    "TCP",
    "UDP",
    "ClusterIP",
    "LoadBalancer",
    "Local",
    "10.0.0.0/8",
    "kubernetes.io/service-name",
    "svcproxy.io/weight",
    "é\"\\\n",
];
const NUMBERS: [i64; 8] = [1, 80, 8080, 30_000, 65_535, 65_536, -1, i32::MIN as i64];
const TIMES: [&str; 3] = [
    "1970-01-01T00:00:00Z",
    "2026-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
];

/// An object of a kind with random fields, as an API server writes it in JSON. `choose` returns a
/// number below its argument; 0 means the least.
pub fn random_object(resource: Resource, choose: &mut impl FnMut(usize) -> usize) -> Value {
    random_message(schema::of(resource), choose)
}

fn random_message(fields: &[Field], choose: &mut impl FnMut(usize) -> usize) -> Value {
    let mut object = Map::new();
    for field in fields {
        let value = match field.rule {
            Rule::Kept => random_value(field.kind, true, choose),
            // Kubernetes writes a message that is not a pointer even if it is empty.
            Rule::Always if matches!(field.kind, Kind::Message(_)) => {
                random_value(field.kind, false, choose)
            }
            Rule::Always if choose(2) == 1 => random_value(field.kind, false, choose),
            Rule::Optional if choose(2) == 1 => random_value(field.kind, true, choose),
            Rule::Repeated if choose(2) == 1 => random_list(field.kind, choose),
            _ => continue,
        };
        object.insert(field.name.to_owned(), value);
    }
    Value::Object(object)
}

fn random_list(kind: Kind, choose: &mut impl FnMut(usize) -> usize) -> Value {
    let count = 1 + choose(3);
    if let Kind::Map = kind {
        let entries = (0..count).map(|_| (random_text(choose), json!(random_text(choose))));
        return Value::Object(entries.collect());
    }
    let items = (0..count).map(|_| random_value(kind, true, choose));
    Value::Array(items.collect())
}

fn random_text(choose: &mut impl FnMut(usize) -> usize) -> String {
    pick(&TEXTS, choose).to_owned()
}

fn pick<T: Copy>(from: &[T], choose: &mut impl FnMut(usize) -> usize) -> T {
    let index = choose(from.len());
    #[expect(clippy::indexing_slicing, reason = "it is below the length")]
    from[index]
}

fn random_value(kind: Kind, may_be_empty: bool, choose: &mut impl FnMut(usize) -> usize) -> Value {
    let is_empty = may_be_empty && choose(4) == 1;
    match kind {
        Kind::Text | Kind::Map if is_empty => json!(""),
        Kind::Text | Kind::Map => json!(random_text(choose)),
        Kind::Number if is_empty => json!(0),
        Kind::Number => json!(pick(&NUMBERS, choose)),
        Kind::Switch => json!(!is_empty),
        Kind::Time => json!(pick(&TIMES, choose)),
        Kind::IntOrString if choose(2) == 0 => json!(pick(&NUMBERS, choose)),
        Kind::IntOrString => json!(random_text(choose)),
        Kind::Json => json!({"f:spec": {"f:ports": {}}}),
        Kind::Message(fields) => random_message(fields, choose),
    }
}
