//! What one source may say, as it says it: every field optional, unknown keys denied.
//!
//! The wrappers here take any type of YAML node, so that a value of the wrong type is a mistake that validation
//! reports with its key, beside all the others, instead of ending the parse.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::lined::Lined;

/// A field with the place where it stands; `None`: it does not.
pub(super) type Field<T> = Option<Lined<T>>;

/// A key without a value is a mistake, which validation reports: to take it for one that is not there could leave out a
/// protection, where a template was filled in with nothing.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Field<T>, D::Error> {
    Lined::deserialize(deserializer).map(Some)
}

/// Fields that each may be missing, beside which no others are known.
macro_rules! fragment {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name {
            $(
                #[serde(deserialize_with = "present")]
                pub(super) $field: Field<$type>,
            )*
        }
    };
}

fragment! {
    /// The whole document.
    Fragment {
        mqtt: Mapping<Box<MqttFragment>>,
        environment: Scalar,
        service_manager: ManagerFragment,
        max_parallel: Scalar,
        stagger: Scalar,
        state_dir: Scalar,
        webhook_secret_file: Scalar,
        max_push_age: Scalar,
        on_outcome: Mapping<Box<CommandFragment>>,
        ec2: Mapping<Box<Ec2Fragment>>,
        apps: List<Mapping<AppFragment>>,
    }
}

fragment! {
    /// `mqtt:`
    MqttFragment {
        url: Scalar,
        protocol: Scalar,
        topic: Scalar,
        subscribe: Scalar,
        client_id: Scalar,
        username: Scalar,
        password_file: Scalar,
        ca_file: Scalar,
        cert_file: Scalar,
        key_file: Scalar,
        alpn: Scalar,
        keep_alive: Scalar,
        session_expiry: Scalar,
        max_payload: Scalar,
    }
}

fragment! {
    /// `ec2:`
    Ec2Fragment {
        tags: Scalar,
        refresh: Scalar,
    }
}

fragment! {
    /// One of `apps:`
    AppFragment {
        name: Scalar,
        repo: Scalar,
        service: Scalar,
        services: List<Scalar>,
        branch: BranchFragment,
        tags: OneOrMany,
        prepare: Mapping<Box<CommandFragment>>,
        update: Mapping<Box<CommandFragment>>,
        check: Mapping<Box<CommandFragment>>,
        settle: Scalar,
        retries: Scalar,
        stop_timeout: Scalar,
        start_timeout: Scalar,
    }
}

fragment! {
    /// A command: `{command: [PROGRAM, ARGUMENT, …], user: …, dir: …, timeout: …}`
    CommandFragment {
        command: List<Scalar>,
        user: Scalar,
        dir: Scalar,
        timeout: Scalar,
    }
}

fragment! {
    /// `service_manager:` as a mapping.
    CustomFragment {
        name: Scalar,
        stop: List<Scalar>,
        start: List<Scalar>,
        status: List<Scalar>,
    }
}

/// The kind of a key without a value.
pub(super) const EMPTY: &str = "empty";
/// The kind of `1.5`, and of `1e3`.
pub(super) const DECIMAL: &str = "a decimal number";

/// Text, or a number written without quotes; of anything else only the kind is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar {
    Text(Box<str>),
    /// In digits.
    Integer(Box<str>),
    Bool(bool),
    Other(&'static str),
}

/// A list, or the kind of what stands there instead.
#[derive(Debug, Clone)]
pub(super) enum List<T> {
    Items(Vec<Lined<T>>),
    Other(&'static str),
}

/// A mapping, or the kind of what stands there instead.
#[derive(Debug, Clone)]
pub(super) enum Mapping<T> {
    Fields(T),
    Other(&'static str),
}

/// One value or a list of them.
#[derive(Debug, Clone)]
pub(super) enum OneOrMany {
    One(Scalar),
    Many(Vec<Lined<Scalar>>),
    Other(&'static str),
}

/// `branch:`, the same everywhere or per environment.
#[derive(Debug, Clone)]
pub(super) enum BranchFragment {
    Everywhere(OneOrMany),
    PerEnvironment(Vec<(Lined<Scalar>, Lined<OneOrMany>)>),
}

/// `service_manager:`, by name or as templates.
#[derive(Debug, Clone)]
pub(super) enum ManagerFragment {
    Name(Scalar),
    Custom(Box<CustomFragment>),
}

/// What a YAML node can be; each wrapper says what it makes of each.
trait FromNode<'de>: Sized {
    fn scalar(scalar: Scalar) -> Self;
    fn sequence<A: SeqAccess<'de>>(seq: A) -> Result<Self, A::Error>;
    fn mapping<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

struct NodeVisitor<T>(PhantomData<T>);

impl<'de, T: FromNode<'de>> Visitor<'de> for NodeVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML node")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        Ok(T::scalar(Scalar::Text(text.into())))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        Ok(T::scalar(Scalar::Integer(number.to_string().into())))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        Ok(T::scalar(Scalar::Integer(number.to_string().into())))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<T, E> {
        Ok(T::scalar(Scalar::Other(DECIMAL)))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        Ok(T::scalar(Scalar::Bool(value)))
    }

    fn visit_unit<E: de::Error>(self) -> Result<T, E> {
        Ok(T::scalar(Scalar::Other(EMPTY)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        T::sequence(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::mapping(map)
    }
}

fn skip_sequence<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<&'static str, A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok("a list")
}

fn skip_mapping<'de, A: MapAccess<'de>>(mut map: A) -> Result<&'static str, A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok("a mapping")
}

impl Scalar {
    /// What it is, for a message that wanted something else.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::Other(kind) => kind,
        }
    }
}

impl<'de> FromNode<'de> for Scalar {
    fn scalar(scalar: Scalar) -> Self {
        scalar
    }

    fn sequence<A: SeqAccess<'de>>(seq: A) -> Result<Self, A::Error> {
        skip_sequence(seq).map(Self::Other)
    }

    fn mapping<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        skip_mapping(map).map(Self::Other)
    }
}

impl<'de, T: Deserialize<'de>> FromNode<'de> for List<T> {
    fn scalar(scalar: Scalar) -> Self {
        Self::Other(scalar.kind())
    }

    fn sequence<A: SeqAccess<'de>>(seq: A) -> Result<Self, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Self::Items)
    }

    fn mapping<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        skip_mapping(map).map(Self::Other)
    }
}

impl<'de, T: Deserialize<'de>> FromNode<'de> for Mapping<T> {
    fn scalar(scalar: Scalar) -> Self {
        Self::Other(scalar.kind())
    }

    fn sequence<A: SeqAccess<'de>>(seq: A) -> Result<Self, A::Error> {
        skip_sequence(seq).map(Self::Other)
    }

    fn mapping<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Self::Fields)
    }
}

impl<'de> FromNode<'de> for OneOrMany {
    fn scalar(scalar: Scalar) -> Self {
        Self::One(scalar)
    }

    fn sequence<A: SeqAccess<'de>>(seq: A) -> Result<Self, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Self::Many)
    }

    fn mapping<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        skip_mapping(map).map(Self::Other)
    }
}

impl<'de> FromNode<'de> for BranchFragment {
    fn scalar(scalar: Scalar) -> Self {
        Self::Everywhere(OneOrMany::scalar(scalar))
    }

    fn sequence<A: SeqAccess<'de>>(seq: A) -> Result<Self, A::Error> {
        OneOrMany::sequence(seq).map(Self::Everywhere)
    }

    fn mapping<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Self::PerEnvironment(entries))
    }
}

impl<'de> FromNode<'de> for ManagerFragment {
    fn scalar(scalar: Scalar) -> Self {
        Self::Name(scalar)
    }

    fn sequence<A: SeqAccess<'de>>(seq: A) -> Result<Self, A::Error> {
        skip_sequence(seq).map(|kind| Self::Name(Scalar::Other(kind)))
    }

    fn mapping<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        CustomFragment::deserialize(MapAccessDeserializer::new(map))
            .map(|custom| Self::Custom(Box::new(custom)))
    }
}

macro_rules! deserialize_from_node {
    ($($type:ident $(<$parameter:ident>)?),*) => {$(
        impl<'de $(, $parameter: Deserialize<'de>)?> Deserialize<'de> for $type $(<$parameter>)? {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(NodeVisitor(PhantomData))
            }
        }
    )*};
}

deserialize_from_node!(Scalar, List<T>, Mapping<T>, OneOrMany, BranchFragment, ManagerFragment);
