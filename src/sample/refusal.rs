//! Why a message is refused, and the status and JSON-RPC code that this gets in each era.
//! Not here: a tool's own failure, which is a result (`tool`).

use http::StatusCode;
use serde_json::json;
use serde_json::value::RawValue;

use crate::mcp::{Code, Era, HeaderFault, Id, MalformedKind, RpcError};

/// 2025-11-25/server/resources, "Error Handling".
const RESOURCE_NOT_FOUND: Code = Code(-32002);
/// 2026-07-28/basic/versioning.
const UNSUPPORTED_REVISION: Code = Code(-32022);

/// Why a message is refused. All of it is the client's fault, but [`Refusal::Busy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Malformed(MalformedKind),
    #[error("{0}")]
    Header(HeaderFault),
    #[error("revision `{requested}` is not spoken here")]
    Revision { requested: String, supported: &'static [&'static str] },
    #[error("unknown method `{0}`")]
    Method(String),
    #[error("{0}")]
    Params(String),
    #[error("no resource `{0}`")]
    Resource(String),
    #[error("header `Mcp-Session-Id` is missing: start with `initialize`")]
    NoSession,
    #[error("session not found")]
    UnknownSession,
    #[error("too many calls are running")]
    Busy,
}

impl Refusal {
    /// The status that goes with it over HTTP.
    pub(super) fn status(&self, era: Era) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Header(_) | Self::Revision { .. } | Self::NoSession => {
                StatusCode::BAD_REQUEST
            }
            Self::Method(_) if era == Era::Modern => StatusCode::NOT_FOUND,
            Self::UnknownSession => StatusCode::NOT_FOUND,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Method(_) | Self::Params(_) | Self::Resource(_) => StatusCode::OK,
        }
    }

    fn code(&self, era: Era) -> Code {
        match self {
            Self::Malformed(MalformedKind::NotJson(_)) => Code::PARSE,
            Self::Malformed(_) | Self::NoSession => Code::INVALID_REQUEST,
            Self::Header(HeaderFault::Mismatch(_)) => Code::HEADER_MISMATCH,
            Self::Header(HeaderFault::MissingMeta(_)) | Self::Params(_) => Code::INVALID_PARAMS,
            Self::Revision { .. } => UNSUPPORTED_REVISION,
            Self::Method(_) => Code::METHOD_NOT_FOUND,
            Self::Resource(_) if era == Era::Modern => Code::INVALID_PARAMS,
            Self::Resource(_) => RESOURCE_NOT_FOUND,
            Self::UnknownSession => Code::NOT_FOUND,
            Self::Busy => Code::UNAVAILABLE,
        }
    }

    /// The JSON-RPC error that answers the request of that id (`null` where it is not known).
    pub(super) fn to_message(&self, id: Option<&RawValue>, era: Era) -> Vec<u8> {
        let data = match self {
            Self::Revision { requested, supported } => {
                Some(json!({"supported": supported, "requested": requested}))
            }
            Self::Resource(uri) => Some(json!({"uri": uri})),
            _ => None,
        };
        let id = id.and_then(|raw| Id::from_json(raw.get()));
        RpcError { code: self.code(era), message: self.to_string(), data }.to_message(id.as_ref()).to_vec()
    }
}
