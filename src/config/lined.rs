//! A value of a document and its line, read as serde-saphyr's `Spanned` reads itself.
//!
//! `Spanned` is not used: it holds 80 bytes of places beside each value, and has code for each type three times over.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The newtype by whose name the library knows that places are wanted. What it then gives is a mapping: a marker, the
/// value, the place where it is referred to, the place where it is defined. (Tests hold each line that is reported.)
const SPANNED: &str = "__yaml_spanned";

/// A value and the line that it stands on; an alias stands where it is used.
#[derive(Debug, Clone)]
pub(super) struct Lined<T> {
    pub(super) value: T,
    /// From 1; 0: not known.
    pub(super) line: u32,
}

impl<T> Lined<T> {
    /// What no document says.
    pub(super) fn nowhere(value: T) -> Self {
        Self { value, line: 0 }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lined<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(SPANNED, LinedVisitor(PhantomData))
    }
}

struct LinedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for LinedVisitor<T> {
    type Value = Lined<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with its places")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let _marker = map.next_entry::<IgnoredAny, IgnoredAny>()?;
        let value = map.next_entry::<IgnoredAny, T>()?;
        let referenced = map.next_entry::<IgnoredAny, Line>()?;
        let lined = value.zip(referenced).map(|((_, value), (_, Line(line)))| Lined { value, line });
        lined.ok_or_else(|| Error::custom("the YAML parser gave no places"))
    }
}

/// Of a place, the line.
struct Line(u32);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Location", &["line"], LineVisitor)
    }
}

struct LineVisitor;

impl<'de> Visitor<'de> for LineVisitor {
    type Value = Line;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a place")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
        let line = map.next_entry::<IgnoredAny, u32>()?;
        line.map(|(_, line)| Line(line)).ok_or_else(|| Error::custom("the YAML parser gave no line"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_its_line_and_an_alias_that_of_its_use() {
        type List = Lined<Vec<Lined<String>>>;
        let list: List = serde_yaml::from_str("# first\n\n- &a one\n- two\n\n- *a\n").unwrap();
        let items: Vec<_> = list.value.iter().map(|item| (item.value.as_str(), item.line)).collect();
        assert_eq!((list.line, &items[..]), (3, &[("one", 3), ("two", 4), ("one", 6)][..]));
    }
}
