//! YAML events into a tree of nodes, bounded in depth and size.
//! Not here: what scalars mean (`decode`), variables (`expand`).
//!
//! We read serde-saphyr's event stream and not its serde front end, because serde tells values their position
//! but not keys, and turns `1.10` into a number before anybody says that text is wanted.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Tag};

use super::{Code, DEPTH_MAX, NODES_MAX, Node, Report, Scalar, Span, Value};

/// Reads the one document of a text. `None`, with a mistake reported, if it is not YAML; a null node if it is empty.
pub(super) fn parse(source: u32, text: &str, report: &mut Report) -> Option<Node> {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH_MAX;
    options.block_nesting_limit = DEPTH_MAX;
    let mut builder =
        Builder { source, report, open: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None };
    let mut documents = 0;
    for next in Parser::new_from_str_with_options(text, options) {
        match next {
            Ok((Event::DocumentStart(..), span)) => {
                documents += 1;
                if documents > 1 {
                    let at = builder.span(&span);
                    builder.report.add(at, Code::Syntax, "a second document: one file holds one document");
                    return None;
                }
            }
            Ok((event, span)) => builder.event(event, &span)?,
            Err(error) => {
                let at = clamp(error.marker().byte_offset().unwrap_or(0));
                let message = format!("not valid YAML: {}", error.info());
                builder.report.add(Span { source, start: at, end: at }, Code::Syntax, message);
                return None;
            }
        }
    }
    Some(builder.root.unwrap_or_else(|| Node::null(Span { source, start: 0, end: 0 })))
}

fn clamp(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A collection whose end was not met yet.
struct Open {
    node: Node,
    key: Option<Node>,
    anchor: usize,
}

struct Anchor {
    node: Node,
    count: usize,
    depth: usize,
}

struct Builder<'a> {
    source: u32,
    report: &'a mut Report,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchor>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    fn span(&self, span: &granit_parser::Span) -> Span {
        let start = clamp(span.start.byte_offset().unwrap_or(0));
        let end = clamp(span.end.byte_offset().unwrap_or(0));
        Span { source: self.source, start, end: end.max(start) }
    }

    /// Takes one event; `None` when there is no point in going on, which was reported.
    fn event(&mut self, event: Event<'_>, span: &granit_parser::Span) -> Option<()> {
        let at = self.span(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = self.tag(at, tag.as_deref());
                let plain = style == ScalarStyle::Plain && !is_text;
                let scalar = Scalar { text: text.into_owned(), plain, expanded: false, is_broken: false };
                self.close(Node { id: 0, span: at, value: Value::Scalar(scalar) }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.enter(Value::List(Vec::new()), at, anchor, tag.as_deref())
            }
            Event::MappingStart(_, anchor, tag) => {
                self.enter(Value::Map(Vec::new()), at, anchor, tag.as_deref())
            }
            Event::SequenceEnd => self.leave(at),
            Event::MappingEnd => {
                self.merge();
                self.leave(at)
            }
            Event::Alias(id) => self.alias(at, id),
            _ => Some(()),
        }
    }

    /// Refuses tags of foreign schemas; tells whether the tag says that a scalar is text.
    fn tag(&mut self, at: Span, tag: Option<&Tag>) -> bool {
        let Some(tag) = tag else { return false };
        if !tag.is_yaml_core_schema() {
            self.report.add(at, Code::Syntax, "tags have no meaning here");
        }
        tag.is_yaml_core_schema_tag("str")
    }

    fn enter(&mut self, value: Value, span: Span, anchor: usize, tag: Option<&Tag>) -> Option<()> {
        self.tag(span, tag);
        if self.open.len() >= DEPTH_MAX {
            self.report.add(span, Code::TooLarge, format!("nested deeper than {DEPTH_MAX} levels"));
            return None;
        }
        self.open.push(Open { node: Node { id: 0, span, value }, key: None, anchor });
        Some(())
    }

    fn leave(&mut self, end_at: Span) -> Option<()> {
        let mut open = self.open.pop()?;
        // A block's end event stands at the next token, so the last child tells where it really ends.
        let closed = matches!(self.report.text(end_at), Some("]" | "}"));
        if closed {
            open.node.span.end = end_at.end;
        }
        let last = match &open.node.value {
            Value::List(items) => items.last(),
            Value::Map(entries) => entries.last().map(|(_, value)| value),
            Value::Scalar(_) => None,
        };
        let end =
            last.filter(|last| last.span.source == open.node.span.source).map_or(0, |last| last.span.end);
        open.node.span.end = open.node.span.end.max(end);
        self.close(open.node, open.anchor)
    }

    fn alias(&mut self, at: Span, id: usize) -> Option<()> {
        let Some(anchor) = self.anchors.get(&id) else {
            self.report.add(at, Code::Syntax, "an alias inside of what it stands for");
            return None;
        };
        if self.open.len() + anchor.depth > DEPTH_MAX {
            self.report.add(at, Code::TooLarge, format!("nested deeper than {DEPTH_MAX} levels"));
            return None;
        }
        let (node, count) = (anchor.node.clone(), anchor.count);
        self.count(at, count)?;
        self.close(node, 0)
    }

    fn count(&mut self, at: Span, nodes: usize) -> Option<()> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            self.report.add(at, Code::TooLarge, format!("more than {NODES_MAX} values, aliases included"));
            return None;
        }
        Some(())
    }

    /// A node is complete: it becomes an item, a key, a value or the root.
    fn close(&mut self, node: Node, anchor: usize) -> Option<()> {
        self.count(node.span, 1)?;
        if anchor != 0 {
            let (count, depth) = measure(&node);
            self.count(node.span, count)?;
            self.anchors.insert(anchor, Anchor { node: node.clone(), count, depth });
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match open.key.take() {
                None if node.text().is_none() => {
                    self.report.add(node.span, Code::Syntax, "a key must be plain text");
                    return None;
                }
                None => open.key = Some(node),
                Some(key) => entries.push((key, node)),
            },
            Value::Scalar(_) => {}
        }
        Some(())
    }

    /// A mapping is complete: `<<` is merged and duplicate keys are refused.
    fn merge(&mut self) {
        let Some(open) = self.open.last_mut() else { return };
        let Value::Map(entries) = &mut open.node.value else { return };
        let is_merge =
            |key: &Node| matches!(&key.value, Value::Scalar(scalar) if scalar.plain && scalar.text == "<<");
        let (merged, mut own): (Vec<_>, Vec<_>) =
            std::mem::take(entries).into_iter().partition(|(key, _)| is_merge(key));
        let mut lines: HashMap<String, Span> = HashMap::new();
        own.retain(|(key, _)| {
            let text = key.text().unwrap_or_default();
            let Some(first) = lines.get(text) else {
                lines.insert(text.to_owned(), key.span);
                return true;
            };
            let message = format!("duplicate key `{text}`, first given in line {}", self.report.line(*first));
            self.report.add(key.span, Code::DuplicateKey, message);
            false
        });
        for (key, value) in merged {
            let sources = match value.value {
                Value::List(items) => items,
                Value::Map(_) | Value::Scalar(_) => vec![value],
            };
            for source in sources {
                let Value::Map(inherited) = source.value else {
                    self.report.add(key.span, Code::Syntax, "`<<` merges mappings only");
                    continue;
                };
                for (name, value) in inherited {
                    let text = name.text().unwrap_or_default();
                    if !lines.contains_key(text) {
                        lines.insert(text.to_owned(), name.span);
                        own.push((name, value));
                    }
                }
            }
        }
        *entries = own;
    }
}

/// How many nodes, and how deep.
fn measure(node: &Node) -> (usize, usize) {
    let add =
        |(count, depth): (usize, usize), inner: (usize, usize)| (count + inner.0, depth.max(inner.1 + 1));
    match &node.value {
        Value::Scalar(_) => (1, 0),
        Value::List(items) => items.iter().map(measure).fold((1, 1), add),
        Value::Map(entries) => {
            entries.iter().map(|(_, value)| measure(value)).fold((1 + entries.len(), 1), add)
        }
    }
}
