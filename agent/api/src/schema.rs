//! The shape of a type, read out of the type itself: serde asks for its fields, and this answers and takes notes.
//!
//! So the documentation and `core.get_methods` can't say anything that the code doesn't.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value, json};
use std::fmt;

/// What a value looks like.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Always null.
    Null,
    /// True or false.
    Bool,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// Text.
    Text,
    /// A moment: `{"$date": milliseconds since 1970}`.
    Date,
    /// Anything.
    Any,
    /// An object with keys that aren't known in advance.
    Object,
    /// The inner shape, or null.
    Optional(Box<Shape>),
    /// Any number of the inner shape.
    List(Box<Shape>),
    /// One of a few words.
    Word {
        /// Name of the type.
        name: &'static str,
        /// The words.
        words: &'static [&'static str],
    },
    /// An object with known keys.
    Struct {
        /// Name of the type.
        name: &'static str,
        /// Keys in their order.
        fields: Vec<(&'static str, Shape)>,
    },
}

impl Shape {
    /// The shape of what `T` is read from.
    pub fn of<T: de::DeserializeOwned>() -> Shape {
        let mut shape = Shape::Any;
        // The outcome doesn't matter: a type that refuses the sample value has shown its shape before that.
        let _ = T::deserialize(Tracer { shape: &mut shape });
        shape
    }

    /// The same object, whose keys may be left out but not be null.
    pub fn without_null(self) -> Shape {
        match self {
            Shape::Struct { name, fields } => Shape::Struct {
                name,
                fields: fields
                    .into_iter()
                    .map(|(field, shape)| match shape {
                        Shape::Optional(inner) => (field, *inner),
                        other => (field, other),
                    })
                    .collect(),
            },
            other => other,
        }
    }

    /// The same as JSON schema.
    pub fn schema(&self) -> Value {
        match self {
            Shape::Null => json!({"type": "null"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Integer => json!({"type": "integer"}),
            Shape::Number => json!({"type": "number"}),
            Shape::Text => json!({"type": "string"}),
            Shape::Any => json!({}),
            Shape::Object => json!({"type": "object"}),
            // An object with the one key `$date` would be read as a date itself, so that key isn't spelled out.
            Shape::Date => {
                json!({"type": "object", "format": "date", "description": "{\"$date\": milliseconds since 1970}"})
            }
            Shape::Optional(inner) => json!({"anyOf": [inner.schema(), {"type": "null"}]}),
            Shape::List(inner) => json!({"type": "array", "items": inner.schema()}),
            Shape::Word { name, words } => json!({"type": "string", "title": name, "enum": words}),
            Shape::Struct { name, fields } => {
                let properties: Map<String, Value> = fields
                    .iter()
                    .map(|(field, shape)| ((*field).to_owned(), shape.schema()))
                    .collect();
                json!({"type": "object", "title": name, "properties": properties})
            }
        }
    }

    /// Every named type in it, itself included, each once, outer ones first.
    pub fn named<'a>(&'a self, found: &mut Vec<&'a Shape>) {
        match self {
            Shape::Word { .. } if !found.contains(&self) => found.push(self),
            Shape::Struct { fields, .. } if !found.contains(&self) => {
                found.push(self);
                for (_, field) in fields {
                    field.named(found);
                }
            }
            Shape::Optional(inner) | Shape::List(inner) => inner.named(found),
            _ => {}
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Null => f.write_str("null"),
            Shape::Bool => f.write_str("boolean"),
            Shape::Integer => f.write_str("integer"),
            Shape::Number => f.write_str("number"),
            Shape::Text => f.write_str("string"),
            Shape::Date => f.write_str("date"),
            Shape::Any => f.write_str("any"),
            Shape::Object => f.write_str("object"),
            Shape::Optional(inner) => write!(f, "{inner} or null"),
            Shape::List(inner) => write!(f, "list of {inner}"),
            Shape::Word { name, .. } | Shape::Struct { name, .. } => f.write_str(name),
        }
    }
}

struct Tracer<'a> {
    shape: &'a mut Shape,
}

type Refused = de::value::Error;

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        *self.shape = Shape::Bool;
        visitor.visit_bool(false)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        *self.shape = Shape::Integer;
        visitor.visit_u8(0)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_i32(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_i32(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_i32(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_i32(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_i32(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        *self.shape = Shape::Number;
        visitor.visit_f64(0.0)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        *self.shape = Shape::Text;
        visitor.visit_str("")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        *self.shape = Shape::Null;
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let mut inner = Shape::Any;
        let value = visitor.visit_some(Tracer { shape: &mut inner });
        *self.shape = Shape::Optional(Box::new(inner));
        value
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let mut fields = vec![("", Shape::Any)];
        let value = visitor.visit_seq(Fields {
            fields: &mut fields,
            next: 0,
        });
        let item = fields.pop().map_or(Shape::Any, |(_, shape)| shape);
        *self.shape = Shape::List(Box::new(item));
        value
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        *self.shape = Shape::Object;
        visitor.visit_map(de::value::MapDeserializer::new(std::iter::empty::<(
            &str,
            &str,
        )>()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let mut found: Vec<_> = fields.iter().map(|field| (*field, Shape::Any)).collect();
        let value = visitor.visit_seq(Fields {
            fields: &mut found,
            next: 0,
        });
        *self.shape = match fields {
            ["$date"] => Shape::Date,
            _ => Shape::Struct {
                name,
                fields: found,
            },
        };
        value
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        *self.shape = Shape::Word { name, words };
        let first: StrDeserializer<'_, Refused> = words
            .first()
            .copied()
            .unwrap_or_default()
            .into_deserializer();
        visitor.visit_enum(first)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 char bytes byte_buf unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// Hands out a tracer for each field, in order.
struct Fields<'a> {
    fields: &'a mut Vec<(&'static str, Shape)>,
    next: usize,
}

impl<'de> SeqAccess<'de> for Fields<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refused> {
        let Some((_, shape)) = self.fields.get_mut(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        seed.deserialize(Tracer { shape }).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FailoverConfig, HistoryRecord, StateReport, Status};

    #[test]
    fn shapes_are_read_from_the_types() {
        assert_eq!(Shape::of::<()>(), Shape::Null);
        assert_eq!(Shape::of::<Value>(), Shape::Any);
        assert_eq!(
            Shape::of::<Vec<Option<String>>>().to_string(),
            "list of string or null"
        );
        assert_eq!(
            Shape::of::<Status>().schema()["enum"],
            json!([
                "MASTER",
                "BACKUP",
                "ELECTING",
                "IMPORTING",
                "SINGLE",
                "ERROR"
            ])
        );
        let Shape::Struct { name, fields } = Shape::of::<FailoverConfig>() else {
            panic!("FailoverConfig is a struct");
        };
        assert_eq!(name, "FailoverConfig");
        assert_eq!(
            fields,
            [
                ("id", Shape::Integer),
                ("disabled", Shape::Bool),
                ("master", Shape::Bool),
                ("timeout", Shape::Integer)
            ]
        );
    }

    #[test]
    fn nested_types_are_found_once() {
        let shape = Shape::of::<StateReport>();
        let mut found = Vec::new();
        shape.named(&mut found);
        let names: Vec<_> = found.iter().map(|shape| shape.to_string()).collect();
        assert_eq!(names[0], "StateReport");
        for name in ["PeerReport", "LinkReport", "DiskReport", "DisabledReason"] {
            assert_eq!(names.iter().filter(|found| *found == name).count(), 1);
        }
    }

    #[test]
    fn times_are_dates() {
        let Shape::Struct { fields, .. } = Shape::of::<HistoryRecord>() else {
            panic!("HistoryRecord is a struct");
        };
        assert!(fields.contains(&("time", Shape::Optional(Box::new(Shape::Date)))));
    }
}
