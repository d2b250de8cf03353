//! What a reload changed: by server, and whether in the rules.
//! Not here: what the change does to children and connections (`bridge`, `upstream`).

use std::collections::HashMap;
use std::fmt;

use super::Rule;
use super::model::{ServerId, Snapshot};

/// The difference between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Servers that are new.
    pub added: Vec<ServerId>,
    /// Servers that are gone.
    pub removed: Vec<ServerId>,
    /// Servers that differ in anything.
    pub modified: Vec<ServerId>,
    /// Servers that are as they were.
    pub unchanged: Vec<ServerId>,
    /// Whether the rules differ.
    pub rules: bool,
}

impl Changes {
    /// Whether both snapshots say the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.modified.is_empty() && !self.rules
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (added, modified, unchanged) = (self.added.len(), self.modified.len(), self.unchanged.len());
        write!(
            f,
            "Loaded {} servers (added: {added}, removed: {}, modified: {modified}, unchanged: {unchanged})",
            added + modified + unchanged,
            self.removed.len(),
        )?;
        f.write_str(if self.rules { ", rules changed" } else { "" })
    }
}

impl Snapshot {
    /// What changed from `old` to this snapshot. Disabling a server is a modification.
    pub fn changes_since(&self, old: &Snapshot) -> Changes {
        // A rule is the same wherever in the file it stands.
        let said = |snapshot: &Snapshot| {
            let rules = snapshot.rules.list.iter().cloned();
            rules.map(|rule| Rule { place: String::new(), ..rule }).collect::<Vec<_>>()
        };
        let mut changes = Changes { rules: said(self) != said(old), ..Changes::default() };
        let mut before: HashMap<_, _> = old.servers.iter().map(|server| (&server.id, server)).collect();
        for server in &self.servers {
            let list = match before.remove(&server.id) {
                None => &mut changes.added,
                Some(same) if same == server => &mut changes.unchanged,
                Some(_) => &mut changes.modified,
            };
            list.push(server.id.clone());
        }
        // In file order, not in that of the map.
        let gone = old.servers.iter().filter(|server| before.contains_key(&server.id));
        changes.removed = gone.map(|server| server.id.clone()).collect();
        changes
    }
}
