//! Decoding that tolerates wrong values.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{IntOrString, annotation};

pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Decodes a struct from a map, or the default from null. serde's derive would also accept a list.
pub(super) fn mapping<'de, D: Deserializer<'de>, T: Mapping<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(MappingVisitor(PhantomData))
}

pub(super) trait Mapping<'de>: Default {
    fn of<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

impl<'de, T: Mapping<'de>> Mapping<'de> for Option<T> {
    fn of<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        T::of(map).map(Some)
    }
}

struct MappingVisitor<T>(PhantomData<T>);

impl<'de, T: Mapping<'de>> Visitor<'de> for MappingVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::of(map)
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }
}

/// The known [`annotation`]s, with their values.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Annotations(pub(super) Vec<(&'static str, String)>);

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AnnotationsVisitor)
    }
}

struct AnnotationsVisitor;

impl<'de> Visitor<'de> for AnnotationsVisitor {
    type Value = Annotations;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
        let mut kept = Vec::new();
        while let Some(KnownKey(key)) = map.next_key()? {
            match key {
                Some(key) => kept.push((key, map.next_value()?)),
                // A value that is not a string is an error, as in the API server.
                None => map.next_value::<AnyString>().map(drop)?,
            }
        }
        Ok(Annotations(kept))
    }
}

/// One of [`annotation::ALL`].
struct KnownKey(Option<&'static str>);

impl<'de> Deserialize<'de> for KnownKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = KnownKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<KnownKey, E> {
                let known = annotation::ALL.into_iter().find(|known| *known == text);
                Ok(KnownKey(known))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// A string that is checked and dropped.
struct AnyString;

impl<'de> Deserialize<'de> for AnyString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;
        impl Visitor<'_> for AnyVisitor {
            type Value = AnyString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, _: &str) -> Result<AnyString, E> {
                Ok(AnyString)
            }
        }
        deserializer.deserialize_str(AnyVisitor)
    }
}

/// A value of the right type, or the text of a wrong value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Loose<T> {
    Right(T),
    Wrong(String),
}

/// The types of [`Loose`] values.
pub(in super::super) trait FromAny<'de>: Sized {
    /// The expected type, for messages.
    const EXPECTED: &'static str;

    fn from_str(_: &str) -> Option<Self> {
        None
    }

    fn from_integer(_: i64) -> Option<Self> {
        None
    }

    /// None if the type is not a map; then `map` is unused.
    fn from_map<A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        skip_map(map).map(|()| None)
    }
}

impl FromAny<'_> for String {
    const EXPECTED: &'static str = "a string";

    fn from_str(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl FromAny<'_> for i32 {
    const EXPECTED: &'static str = "a whole number";

    fn from_integer(number: i64) -> Option<Self> {
        number.try_into().ok()
    }
}

/// A time, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Seconds(pub(in super::super) i64);

impl FromAny<'_> for Seconds {
    const EXPECTED: &'static str = "a time";

    fn from_str(text: &str) -> Option<Self> {
        let time: jiff::Timestamp = text.parse().ok()?;
        Some(Self(time.as_second()))
    }
}

impl FromAny<'_> for IntOrString {
    const EXPECTED: &'static str = "a whole number or a string";

    fn from_str(text: &str) -> Option<Self> {
        Some(Self::String(text.to_owned()))
    }

    fn from_integer(number: i64) -> Option<Self> {
        number.try_into().ok().map(Self::Int)
    }
}

impl<'de, T: FromAny<'de>> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor(PhantomData))
    }
}

struct LooseVisitor<T>(PhantomData<T>);

impl<'de, T: FromAny<'de>> LooseVisitor<T> {
    fn either(value: Option<T>, written: impl fmt::Display) -> Loose<T> {
        value.map_or_else(|| Loose::Wrong(written.to_string()), Loose::Right)
    }
}

impl<'de, T: FromAny<'de>> Visitor<'de> for LooseVisitor<T> {
    type Value = Loose<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Loose<T>, E> {
        Ok(Self::either(T::from_str(text), format_args!("{text:?}")))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Loose<T>, E> {
        Ok(Self::either(T::from_integer(number), number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Loose<T>, E> {
        let value = i64::try_from(number).ok().and_then(T::from_integer);
        Ok(Self::either(value, number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Loose<T>, E> {
        // kubectl writes YAML's 80.0 as JSON's 80.
        let whole = number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX);
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
        let value = whole.then_some(number as i64).and_then(T::from_integer);
        Ok(Self::either(value, number))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Loose<T>, E> {
        Ok(Loose::Wrong(value.to_string()))
    }

    fn visit_unit<E: Error>(self) -> Result<Loose<T>, E> {
        Ok(Loose::Wrong("null".to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Loose<T>, A::Error> {
        Ok(Self::either(T::from_map(map)?, "a mapping"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Loose<T>, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Wrong("a list".to_owned()))
    }
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}
