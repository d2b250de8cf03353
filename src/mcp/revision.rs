//! The five published revisions of the protocol and the two eras they fall into.
//! Not here: how an era is told from a request (`headers`, and `proxy/exchange` which uses it).

/// A published revision, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revision {
    /// HTTP+SSE with two endpoints.
    V2024_11_05,
    /// The first Streamable HTTP.
    V2025_03_26,
    /// Batches removed, `MCP-Protocol-Version` added.
    V2025_06_18,
    /// The last revision with `initialize`.
    V2025_11_25,
    /// Stateless.
    V2026_07_28,
}

impl Revision {
    /// The last revision of the legacy era.
    pub const LATEST_LEGACY: Self = Self::V2025_11_25;

    /// The revision of that name, if it is a published one.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "2024-11-05" => Self::V2024_11_05,
            "2025-03-26" => Self::V2025_03_26,
            "2025-06-18" => Self::V2025_06_18,
            "2025-11-25" => Self::V2025_11_25,
            "2026-07-28" => Self::V2026_07_28,
            _ => return None,
        })
    }

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The era it belongs to.
    pub fn era(self) -> Era {
        if self >= Self::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }
}

/// The two ways of speaking MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// `initialize` and sessions: 2024-11-05 to 2025-11-25.
    Legacy,
    /// `_meta` on every request, no sessions: 2026-07-28.
    Modern,
}

impl Era {
    /// Its name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}
