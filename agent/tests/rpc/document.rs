//! `agent/docs/methods.md` is written from the table of methods and checked here.

use failover_api::events::EVENTS;
use failover_api::methods::{Access, METHODS, Method};
use failover_api::schema::Shape;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "\
<!-- Written by `UPDATE_DOCS=1 cargo test -p failoverd --test rpc document`; don't edit. -->
# Methods and events of the control API

JSON-RPC 2.0 over WebSocket, on the unix socket `/run/failoverd/failoverd.sock` at the path `/api/current`. Try them
with `midctl call METHOD [JSON…]`; `midctl methods METHOD` shows what stands here.

- Parameters go by position, in an array; those in [brackets] may be left out. Each message is one call: batches are
  refused.
- Everybody who can connect (root, the daemon's own user, members of the group `failoverd`) may call the methods marked
  *anyone* and *read*; those marked *write* are for root and the daemon's own user.
- Dates are `{\"$date\": milliseconds since 1970}`.
- Fields are only ever added.

Errors have one of these codes and no other:

| code | when | `data` |
|---|---|---|
| -32700 | no JSON, or a batch; `id` is null | – |
| -32600 | the envelope is wrong | – |
| -32601 | no such method | – |
| -32602 | an argument is wrong | `error`, `errname`, `reason`, `trace`, `extra`: a list of [attribute, message, errno] |
| -32603 | a fault of the daemon | – |
| -32000 | 20 calls of this connection are unanswered | – |
| -32001 | the method failed | `error`, `errname`, `reason`, `trace`, `extra`: null |

A connection is closed when a message has more than 65,536 bytes (code 1009), is binary (1003) or isn't UTF-8 (1007),
when events aren't taken in time (1008), and when the daemon stops (1001).

The client of TrueNAS, `midclt -u ws+unix:///run/failoverd/failoverd.sock`, works as it is. What differs from TrueNAS:

- `MASTER` means that this controller serves, not only that it has the virtual addresses.
- `failover.update`: an omitted key changes nothing; there, an omitted `master` makes the called controller the
  preferred one. An unknown key, or null, is refused.
- `failover.become_passive` hands over and answers null when the peer serves; there, the machine is reset and no answer
  comes.
- `failover.licensed` is true where this controller is provisioned as a member of a pair; there are no licences.
- `midctl call` prints results as JSON (`true`) and strings bare (`MASTER`); `midclt` prints `True`.
";

/// The sentence above each field and type of the sources, by `Type` and `Type.field`.
fn sentences() -> BTreeMap<String, String> {
    let sources = [
        include_str!("../../api/src/types.rs"),
        include_str!("../../api/src/fence.rs"),
        include_str!("../../api/src/params.rs"),
        include_str!("../../api/src/events.rs"),
    ];
    let mut sentences = BTreeMap::new();
    for source in sources {
        let mut of_type = String::new();
        let mut doc = String::new();
        let mut renamed = None;
        for line in source.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                doc.push_str(text);
                continue;
            }
            if let Some((_, rest)) = line.split_once("rename = \"") {
                renamed = rest.split('"').next().map(str::to_owned);
            }
            if line.starts_with("#[") {
                continue;
            }
            let rest = line.strip_prefix("pub ").unwrap_or(line);
            let declared = rest
                .strip_prefix("struct ")
                .or_else(|| rest.strip_prefix("enum "));
            if let Some(declared) = declared {
                of_type = declared
                    .split(|c: char| !c.is_alphanumeric())
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                sentences.insert(of_type.clone(), doc.trim().to_owned());
            } else if let Some((name, _)) = rest.split_once(':') {
                let name = renamed.take().unwrap_or_else(|| name.to_owned());
                sentences.insert(format!("{of_type}.{name}"), doc.trim().to_owned());
            } else if let Some(variant) = rest.strip_suffix(',') {
                let word = screaming(variant);
                sentences.insert(format!("{of_type}.{word}"), doc.trim().to_owned());
            }
            doc.clear();
            renamed = None;
        }
    }
    sentences
}

/// `NoPong` as it stands on the wire: `NO_PONG`.
fn screaming(variant: &str) -> String {
    let mut word = String::new();
    for letter in variant.chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.extend(letter.to_uppercase());
    }
    word
}

fn describe_method(text: &mut String, method: &Method) {
    let may = match method.access {
        Access::Open => "anyone",
        Access::Read => "read",
        Access::Write => "write",
    };
    writeln!(text, "\n### `{}` ({may})\n", method.signature()).unwrap();
    writeln!(text, "{}\n", method.text()).unwrap();
    for parameter in method.parameters {
        let shape = (parameter.shape)();
        writeln!(text, "- `{}`: {}", parameter.name, linked(&shape)).unwrap();
    }
    writeln!(text, "- result: {}", linked(&(method.result)())).unwrap();
}

/// The shape, with a link where it has a name.
fn linked(shape: &Shape) -> String {
    match shape {
        Shape::Optional(inner) => format!("{} or null", linked(inner)),
        Shape::List(inner) => format!("list of {}", linked(inner)),
        Shape::Word { name, .. } | Shape::Struct { name, .. } => {
            format!("[{name}](#{})", name.to_lowercase())
        }
        plain => plain.to_string(),
    }
}

fn describe_type(text: &mut String, shape: &Shape, sentences: &BTreeMap<String, String>) {
    let sentence = |key: String| {
        let sentence = sentences.get(&key).cloned().unwrap_or_default();
        assert_ne!(sentence, "", "{key} has no doc sentence");
        sentence
    };
    match shape {
        Shape::Word { name, words } => {
            writeln!(text, "\n### {name}\n\n{}\n", sentence(name.to_string())).unwrap();
            writeln!(text, "| word | meaning |\n|---|---|").unwrap();
            for word in *words {
                let key = format!("{name}.{}", word.to_uppercase());
                writeln!(text, "| `{word}` | {} |", sentence(key)).unwrap();
            }
        }
        Shape::Struct { name, fields } => {
            writeln!(text, "\n### {name}\n\n{}\n", sentence(name.to_string())).unwrap();
            writeln!(text, "| key | value | meaning |\n|---|---|---|").unwrap();
            for (field, shape) in fields {
                let meaning = sentence(format!("{name}.{field}"));
                writeln!(text, "| `{field}` | {} | {meaning} |", linked(shape)).unwrap();
            }
        }
        _ => {}
    }
}

fn document() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n## Methods\n");
    for method in METHODS {
        describe_method(&mut text, method);
    }
    text.push_str(
        "\n## Events\n\nSubscribe with `core.subscribe`; they come as `collection_update` without an `id`.\n\n\
         | event | msg | fields | when |\n|---|---|---|---|\n",
    );
    for event in EVENTS {
        let fields = linked(&(event.fields)());
        writeln!(
            text,
            "| `{}` | {} | {fields} | {} |",
            event.name, event.msg, event.doc
        )
        .unwrap();
    }
    text.push_str("\n## Types\n");
    let shapes: Vec<Shape> = METHODS
        .iter()
        .flat_map(|method| {
            let parameters = method
                .parameters
                .iter()
                .map(|parameter| (parameter.shape)());
            parameters.chain([(method.result)()])
        })
        .chain(EVENTS.iter().map(|event| (event.fields)()))
        .collect();
    let mut named = Vec::new();
    for shape in &shapes {
        shape.named(&mut named);
    }
    named.sort_by_key(|shape| shape.to_string());
    let sentences = sentences();
    for shape in named {
        describe_type(&mut text, shape, &sentences);
    }
    text
}

#[test]
fn document_of_the_methods_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/methods.md");
    let written = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, &written).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == kept,
        "agent/docs/methods.md is not what the table of methods says; UPDATE_DOCS=1 writes it anew"
    );
}

#[test]
fn methods_are_sorted_and_explained() {
    let names: Vec<&str> = METHODS.iter().map(|method| method.name).collect();
    assert!(names.is_sorted());
    for method in METHODS {
        assert!(method.summary().len() > 10, "{}", method.name);
        assert!(method.text().ends_with('.'), "{}", method.name);
    }
    assert!(EVENTS.iter().map(|event| event.name).is_sorted());
}
