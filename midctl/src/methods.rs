//! `midctl methods`: the table of methods, as the API declares it.

use crate::render::{show, table};
use crate::terminal::Terminal;
use failover_api::methods::{Access, METHODS, Method};
use failover_api::schema::Shape;

/// All of them, a line each.
pub fn list(terminal: Terminal) -> String {
    let mut methods = table(terminal);
    methods.set_header(["METHOD", "MAY", "WHAT IT DOES"]);
    for method in METHODS {
        methods.add_row([method.name, may(method.access), &method.summary()]);
    }
    show(&mut methods)
}

fn may(access: Access) -> &'static str {
    match access {
        Access::Open => "anyone",
        Access::Read => "read",
        Access::Write => "write",
    }
}

/// One of them, with the fields of its parameters and result.
pub fn explain(method: &Method, terminal: Terminal) -> String {
    let result = (method.result)();
    let parameters: Vec<(&str, Shape)> = method
        .parameters
        .iter()
        .map(|parameter| (parameter.name, (parameter.shape)()))
        .collect();
    let mut doc = table(terminal);
    doc.add_row([method.text()]);
    let mut text = format!(
        "{} -> {result}\n\n{}\nMay be called by: {}\n",
        method.signature(),
        show(&mut doc),
        match method.access {
            Access::Open => "everybody who can connect",
            Access::Read => "everybody who may read",
            Access::Write => "everybody who may write: root and the daemon's own user",
        }
    );
    for (name, shape) in &parameters {
        text.push_str(&format!("\n{name}: {shape}\n"));
    }
    let mut named = Vec::new();
    for (_, shape) in &parameters {
        shape.named(&mut named);
    }
    result.named(&mut named);
    for shape in named {
        text.push_str(&fields(shape));
    }
    text
}

fn fields(shape: &Shape) -> String {
    match shape {
        Shape::Word { name, words } => format!("\n{name}: one of {}\n", words.join(", ")),
        Shape::Struct { name, fields } => {
            let mut text = format!("\n{name}:\n");
            for (field, shape) in fields {
                text.push_str(&format!("  {field}: {shape}\n"));
            }
            text
        }
        _ => String::new(),
    }
}
