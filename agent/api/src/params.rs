//! Arguments of methods: read by position, checked, each fault named by its attribute.

use crate::FailoverUpdate;
use crate::errors::Violation;
use crate::schema::Shape;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Greatest `timeout` of the settings, seconds.
pub const TIMEOUT_MAX_S: u32 = 120;

/// A type that a parameter can have.
pub trait Param: Serialize + Sized {
    /// May be left out.
    const OPTIONAL: bool = false;

    /// Reads the argument; `at` is the parameter's name, for the faults.
    fn read(value: Value, at: &str) -> Result<Self, Vec<Violation>>;

    /// What stands for an argument that was left out.
    fn absent(at: &str) -> Result<Self, Vec<Violation>> {
        Err(vec![Violation::new(at, "Field required")])
    }

    /// What it looks like.
    fn shape() -> Shape;
}

fn fault<T>(at: &str, text: &str) -> Result<T, Vec<Violation>> {
    Err(vec![Violation::new(at, text)])
}

impl Param for String {
    fn read(value: Value, at: &str) -> Result<String, Vec<Violation>> {
        match value {
            Value::String(text) => Ok(text),
            _ => fault(at, "must be a string"),
        }
    }

    fn shape() -> Shape {
        Shape::Text
    }
}

impl Param for u32 {
    fn read(value: Value, at: &str) -> Result<u32, Vec<Violation>> {
        match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(number),
            None => fault(at, "must be a whole number that is not negative"),
        }
    }

    fn shape() -> Shape {
        Shape::Integer
    }
}

impl Param for Vec<Value> {
    fn read(value: Value, at: &str) -> Result<Vec<Value>, Vec<Violation>> {
        match value {
            Value::Array(items) => Ok(items),
            _ => fault(at, "must be a list"),
        }
    }

    fn shape() -> Shape {
        Shape::List(Box::new(Shape::Any))
    }
}

impl Param for Map<String, Value> {
    fn read(value: Value, at: &str) -> Result<Map<String, Value>, Vec<Violation>> {
        match value {
            Value::Object(members) => Ok(members),
            _ => fault(at, "must be an object"),
        }
    }

    fn shape() -> Shape {
        Shape::Object
    }
}

impl<T: Param> Param for Option<T> {
    const OPTIONAL: bool = true;

    fn read(value: Value, at: &str) -> Result<Option<T>, Vec<Violation>> {
        match value {
            Value::Null => Ok(None),
            value => T::read(value, at).map(Some),
        }
    }

    fn absent(_at: &str) -> Result<Option<T>, Vec<Violation>> {
        Ok(None)
    }

    fn shape() -> Shape {
        Shape::Optional(Box::new(T::shape()))
    }
}

impl Param for FailoverUpdate {
    fn read(value: Value, at: &str) -> Result<FailoverUpdate, Vec<Violation>> {
        let members = Map::read(value, at)?;
        let mut update = FailoverUpdate::default();
        let mut violations = Vec::new();
        for (key, value) in members {
            let at = format!("{at}.{key}");
            let read = match key.as_str() {
                "disabled" => read_bool(&value, &at).map(|on| update.disabled = Some(on)),
                "master" => read_bool(&value, &at).map(|on| update.master = Some(on)),
                "timeout" => read_timeout(&value, &at).map(|s| update.timeout = Some(s)),
                _ => Err(Violation::new(
                    &at,
                    "is not a setting; there are disabled, master and timeout",
                )),
            };
            violations.extend(read.err());
        }
        if violations.is_empty() {
            Ok(update)
        } else {
            Err(violations)
        }
    }

    fn shape() -> Shape {
        Shape::of::<FailoverUpdate>().without_null()
    }
}

fn read_bool(value: &Value, at: &str) -> Result<bool, Violation> {
    value.as_bool().ok_or_else(|| {
        Violation::new(
            at,
            format!("must be true or false, not {value}; leave the key out to change nothing"),
        )
    })
}

fn read_timeout(value: &Value, at: &str) -> Result<u32, Violation> {
    let seconds = value.as_u64().and_then(|s| u32::try_from(s).ok());
    match seconds {
        Some(seconds) if seconds <= TIMEOUT_MAX_S => Ok(seconds),
        _ => Err(Violation::new(
            at,
            format!("must be a whole number of seconds from 0 to {TIMEOUT_MAX_S}, not {value}"),
        )),
    }
}

/// Options of one connection (`core.set_options`). Unknown keys are ignored, as clients expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOptions {
    /// Calls of job methods are answered at once with the job's number.
    #[serde(default)]
    pub legacy_jobs: bool,
    /// The client may call private methods.
    #[serde(default)]
    pub private_methods: bool,
    /// The client wants Python exceptions; they are never sent.
    #[serde(default)]
    pub py_exceptions: bool,
}

/// A change of the options: what was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOptionsChange {
    /// See [`SessionOptions::legacy_jobs`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legacy_jobs: Option<bool>,
    /// See [`SessionOptions::private_methods`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_methods: Option<bool>,
    /// See [`SessionOptions::py_exceptions`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub py_exceptions: Option<bool>,
}

impl Param for SessionOptionsChange {
    fn read(value: Value, at: &str) -> Result<SessionOptionsChange, Vec<Violation>> {
        let members = Map::read(value, at)?;
        let mut change = SessionOptionsChange::default();
        let mut violations = Vec::new();
        for (key, value) in &members {
            let slot = match key.as_str() {
                "legacy_jobs" => &mut change.legacy_jobs,
                "private_methods" => &mut change.private_methods,
                "py_exceptions" => &mut change.py_exceptions,
                _ => continue,
            };
            match value.as_bool() {
                Some(on) => *slot = Some(on),
                None => violations.push(Violation::new(
                    &format!("{at}.{key}"),
                    "must be true or false",
                )),
            }
        }
        if violations.is_empty() {
            Ok(change)
        } else {
            Err(violations)
        }
    }

    fn shape() -> Shape {
        Shape::of::<SessionOptionsChange>().without_null()
    }
}
