//! The closed set of methods that we name in metrics or treat in a way of their own.
//! Not here: what is done about them (`hub`, `bridge`).

/// A method of any revision; what we do not know is [`Method::Other`] and passes like the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// A method of no published revision.
    Other,
    /// An answer to a request of the server: no method at all.
    Response,
    /// The GET stream of the legacy era.
    Stream,
    /// The end of a legacy session by DELETE.
    EndSession,
    /// See [`Method::KNOWN`] for the names of these and all that follow.
    Initialize,
    /// Modern replacement of `initialize`.
    Discover,
    /// `ping`.
    Ping,
    /// `tools/list`.
    ToolsList,
    /// `tools/call`.
    ToolsCall,
    /// `prompts/list`.
    PromptsList,
    /// `prompts/get`.
    PromptsGet,
    /// `resources/list`.
    ResourcesList,
    /// `resources/templates/list`.
    ResourcesTemplatesList,
    /// `resources/read`.
    ResourcesRead,
    /// `resources/subscribe`.
    ResourcesSubscribe,
    /// `resources/unsubscribe`.
    ResourcesUnsubscribe,
    /// `completion/complete`.
    Complete,
    /// `logging/setLevel`.
    SetLevel,
    /// `subscriptions/listen`.
    Listen,
    /// `tasks/get`.
    TasksGet,
    /// `tasks/result`.
    TasksResult,
    /// `tasks/list`.
    TasksList,
    /// `tasks/update`.
    TasksUpdate,
    /// `tasks/cancel`.
    TasksCancel,
    /// `notifications/initialized`.
    Initialized,
    /// `notifications/cancelled`.
    Cancelled,
    /// `notifications/progress`.
    Progress,
    /// `notifications/roots/list_changed`.
    RootsListChanged,
}

impl Method {
    /// Every method with a name of its own, sorted by that name.
    pub const KNOWN: [(&'static str, Self); 24] = [
        ("completion/complete", Self::Complete),
        ("initialize", Self::Initialize),
        ("logging/setLevel", Self::SetLevel),
        ("notifications/cancelled", Self::Cancelled),
        ("notifications/initialized", Self::Initialized),
        ("notifications/progress", Self::Progress),
        ("notifications/roots/list_changed", Self::RootsListChanged),
        ("ping", Self::Ping),
        ("prompts/get", Self::PromptsGet),
        ("prompts/list", Self::PromptsList),
        ("resources/list", Self::ResourcesList),
        ("resources/read", Self::ResourcesRead),
        ("resources/subscribe", Self::ResourcesSubscribe),
        ("resources/templates/list", Self::ResourcesTemplatesList),
        ("resources/unsubscribe", Self::ResourcesUnsubscribe),
        ("server/discover", Self::Discover),
        ("subscriptions/listen", Self::Listen),
        ("tasks/cancel", Self::TasksCancel),
        ("tasks/get", Self::TasksGet),
        ("tasks/list", Self::TasksList),
        ("tasks/result", Self::TasksResult),
        ("tasks/update", Self::TasksUpdate),
        ("tools/call", Self::ToolsCall),
        ("tools/list", Self::ToolsList),
    ];

    /// How many different methods there are, for tables indexed by [`Method::index`].
    pub const COUNT: usize = Self::RootsListChanged as usize + 1;

    /// The method of that name.
    pub fn parse(name: &str) -> Self {
        let at = Self::KNOWN.binary_search_by_key(&name, |(known, _)| known);
        at.ok().and_then(|at| Self::KNOWN.get(at)).map_or(Self::Other, |(_, method)| *method)
    }

    /// A bounded label for metrics: the method's name, or one that starts with `_`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Other => "_other",
            Self::Response => "_response",
            Self::Stream => "_stream",
            Self::EndSession => "_end_session",
            named => {
                Self::KNOWN.iter().find(|(_, method)| *method == named).map_or("_other", |(name, _)| name)
            }
        }
    }

    /// Its name on the wire, if it has one of its own.
    pub fn name(self) -> Option<&'static str> {
        Self::KNOWN.iter().find(|(_, method)| *method == self).map(|(name, _)| *name)
    }

    /// Its place in a table of [`Method::COUNT`] entries.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Whether modern requests mirror a member of `params` in `Mcp-Name`, and which
    /// (2026-07-28/basic/transports/streamable-http; tasks: SEP-2663).
    pub fn mirrored_param(self) -> Option<&'static str> {
        match self {
            Self::ToolsCall | Self::PromptsGet => Some("name"),
            Self::ResourcesRead => Some("uri"),
            Self::TasksGet | Self::TasksUpdate | Self::TasksCancel => Some("taskId"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_round_trip() {
        assert!(Method::KNOWN.is_sorted_by_key(|(name, _)| *name));
        for (name, method) in Method::KNOWN {
            assert_eq!(Method::parse(name), method);
            assert_eq!(method.label(), name);
        }
        assert_eq!(Method::parse("vendor/thing"), Method::Other);
    }
}
