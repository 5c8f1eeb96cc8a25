//! Errors of the wire: seven codes, and the data that two of them must carry.
//!
//! Known clients take any other code, or missing data, for success; so a `Code` can be nothing else, and
//! `RpcError` can only be made whole.

use serde::{Serialize, Serializer};

/// `errno` values that this API answers with, by their numbers on Linux; those from 201 on are TrueNAS's own.
pub mod errno {
    /// Not permitted.
    pub const EPERM: i32 = 1;
    /// Not found.
    pub const ENOENT: i32 = 2;
    /// Input or output failed.
    pub const EIO: i32 = 5;
    /// Try again.
    pub const EAGAIN: i32 = 11;
    /// Not authorised.
    pub const EACCES: i32 = 13;
    /// The operation failed.
    pub const EFAULT: i32 = 14;
    /// Something else is under way.
    pub const EBUSY: i32 = 16;
    /// The argument is wrong.
    pub const EINVAL: i32 = 22;
    /// No answer in time.
    pub const ETIMEDOUT: i32 = 110;
    /// The peer can't take over.
    pub const EHAUNAVAILABLE: i32 = 210;
}

const NAMES: &[(i32, &str)] = &[
    (1, "EPERM"),
    (2, "ENOENT"),
    (5, "EIO"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (16, "EBUSY"),
    (17, "EEXIST"),
    (19, "ENODEV"),
    (22, "EINVAL"),
    (28, "ENOSPC"),
    (32, "EPIPE"),
    (34, "ERANGE"),
    (38, "ENOSYS"),
    (95, "EOPNOTSUPP"),
    (104, "ECONNRESET"),
    (107, "ENOTCONN"),
    (110, "ETIMEDOUT"),
    (111, "ECONNREFUSED"),
    (112, "EHOSTDOWN"),
    (113, "EHOSTUNREACH"),
    (114, "EALREADY"),
    (116, "ESTALE"),
    (125, "ECANCELED"),
    (201, "ENOMETHOD"),
    (202, "ESERVICESTARTFAILURE"),
    (203, "EALERTCHECKERUNAVAILABLE"),
    (204, "EREMOTENODEERROR"),
    (205, "EDATASETISLOCKED"),
    (206, "EINVALIDRRDTIMESTAMP"),
    (207, "ENOTAUTHENTICATED"),
    (208, "ESSLCERTVERIFICATIONERROR"),
    (209, "EREBOOTREQUIRED"),
    (210, "EHAUNAVAILABLE"),
];

/// Name of an errno, `EUNKNOWN` for one that this API never answers with.
pub fn errno_name(errno: i32) -> &'static str {
    NAMES
        .iter()
        .find(|(number, _)| *number == errno)
        .map_or("EUNKNOWN", |(_, name)| name)
}

/// The codes that clients know; there are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The text is no JSON, or a batch.
    Parse,
    /// The envelope is wrong.
    Request,
    /// There is no such method.
    Method,
    /// An argument is wrong.
    Params,
    /// The server failed in a way that it didn't foresee.
    Internal,
    /// Too many calls at once on this connection.
    TooManyCalls,
    /// The method failed.
    Call,
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> i32 {
        match self {
            Code::Parse => -32700,
            Code::Request => -32600,
            Code::Method => -32601,
            Code::Params => -32602,
            Code::Internal => -32603,
            Code::TooManyCalls => -32000,
            Code::Call => -32001,
        }
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(self.number())
    }
}

/// One thing wrong with the arguments: attribute (`None`: the call as a whole), sentence, errno.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation(pub Option<String>, pub String, pub i32);

impl Violation {
    /// The attribute has a wrong value.
    pub fn new(attribute: &str, text: impl Into<String>) -> Violation {
        Violation(Some(attribute.to_owned()), text.into(), errno::EINVAL)
    }
}

/// What two of the codes carry; clients need all five keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorData {
    /// errno.
    pub error: i32,
    /// Its name.
    pub errname: &'static str,
    /// Sentence, with `[ERRNAME] ` before it.
    pub reason: String,
    /// Never sent: a stack is of no use to a caller.
    pub trace: Option<()>,
    /// What is wrong with which argument; a list exactly for `Code::Params`.
    pub extra: Option<Vec<Violation>>,
}

/// The `error` member of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RpcError {
    code: Code,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<ErrorData>>,
}

impl RpcError {
    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Message, or the reason where there is one.
    pub fn reason(&self) -> &str {
        self.data
            .as_ref()
            .map_or(&self.message, |data| &data.reason)
    }

    fn plain(code: Code, message: impl Into<String>) -> RpcError {
        RpcError {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// The text is no JSON, or a batch.
    pub fn parse(message: impl Into<String>) -> RpcError {
        RpcError::plain(Code::Parse, message)
    }

    /// The envelope is wrong.
    pub fn request(message: impl Into<String>) -> RpcError {
        RpcError::plain(Code::Request, message)
    }

    /// There is no such method. Clients compare the text.
    pub fn no_method() -> RpcError {
        RpcError::plain(Code::Method, "Method does not exist")
    }

    /// Too many calls at once on this connection.
    pub fn too_many_calls(limit: usize) -> RpcError {
        RpcError::plain(
            Code::TooManyCalls,
            format!("Too many calls at once: at most {limit} may be unanswered on one connection"),
        )
    }

    /// The server failed in a way that it didn't foresee.
    pub fn internal(message: impl Into<String>) -> RpcError {
        RpcError::plain(Code::Internal, message)
    }

    /// The method failed: errno, and a sentence with the reason and the remedy.
    pub fn call(errno: i32, text: impl AsRef<str>) -> RpcError {
        let errname = errno_name(errno);
        RpcError {
            code: Code::Call,
            message: "Method call error".to_owned(),
            data: Some(Box::new(ErrorData {
                error: errno,
                errname,
                reason: format!("[{errname}] {}", text.as_ref()),
                trace: None,
                extra: None,
            })),
        }
    }

    /// The caller may read, but not this.
    pub fn not_authorized() -> RpcError {
        RpcError::call(errno::EACCES, "Not authorized")
    }

    /// Arguments are wrong; the list says which and why.
    pub fn params(violations: Vec<Violation>) -> RpcError {
        let errno = violations
            .first()
            .map_or(errno::EINVAL, |violation| violation.2);
        let reason = violations
            .iter()
            .map(|Violation(attribute, text, errno)| {
                let attribute = attribute.as_deref().unwrap_or("ALL");
                format!("[{}] {attribute}: {text}\n", errno_name(*errno))
            })
            .collect();
        RpcError {
            code: Code::Params,
            message: "Invalid params".to_owned(),
            data: Some(Box::new(ErrorData {
                error: errno,
                errname: errno_name(errno),
                reason,
                trace: None,
                extra: Some(violations),
            })),
        }
    }

    /// One argument is wrong.
    pub fn param(attribute: &str, text: impl Into<String>) -> RpcError {
        RpcError::params(vec![Violation::new(attribute, text)])
    }

    /// What the arguments name doesn't exist.
    pub fn not_found(text: impl Into<String>) -> RpcError {
        RpcError::params(vec![Violation(None, text.into(), errno::ENOENT)])
    }
}
