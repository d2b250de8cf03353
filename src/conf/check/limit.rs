//! Checks limits: those of callers, and the bounds of the gateway itself.
//! Not here: the defaults (`raw/limit.rs`); how limits are kept (`limit`).

use super::Checker;
use crate::conf::raw::{RawLimit, RawLimits, RawRate};
use crate::conf::{Bounds, Limit, Limits, Rate};
use crate::document::{At, Code, Period, Size, Span, nearest};

impl Checker<'_> {
    /// A token bucket.
    pub(super) fn rate(&mut self, raw: &At<RawRate>) -> Option<Rate> {
        self.bucket(raw.span, raw.requests.as_ref(), raw.per.as_ref(), raw.burst.as_ref())
    }

    /// A token bucket, a bound of what is under way, or both.
    pub(super) fn limit(&mut self, raw: &At<RawLimit>) -> Option<Limit> {
        let has_rate = raw.requests.is_some() || raw.per.is_some() || raw.burst.is_some();
        let rate = if has_rate {
            Some(self.bucket(raw.span, raw.requests.as_ref(), raw.per.as_ref(), raw.burst.as_ref())?)
        } else {
            None
        };
        if !has_rate && raw.in_flight.is_none() {
            self.missing(raw.span, "a limit needs `requests` and `per`, or `in_flight`");
            return None;
        }
        let in_flight = raw.in_flight.as_ref().map(|count| self.count(Some(count)));
        Some(Limit { rate, in_flight })
    }

    /// The limit that a credential has itself, or by the name of a class.
    pub(super) fn own_limit(
        &mut self,
        limit: Option<&At<RawLimit>>,
        class: Option<&At<String>>,
    ) -> Option<Limit> {
        let Some(class) = class else { return limit.and_then(|limit| self.limit(limit)) };
        if limit.is_some() {
            self.report.add(class.span, Code::Conflict, "`limit` stands there, too: keep one of them");
        }
        if let Some(known) = self.classes.get(&class.value).copied() {
            self.classes_used.insert(class.value.clone());
            return Some(known);
        }
        let message = "no limit of that name in `limit_classes`";
        match nearest(&class.value, self.classes.keys().map(String::as_str)) {
            Some(near) => {
                let advice = format!("did you mean `{near}`?");
                self.report.advise(class.span, Code::NotFound, message, advice);
            }
            None => self.report.add(class.span, Code::NotFound, message),
        }
        None
    }

    fn bucket(
        &mut self,
        span: Span,
        requests: Option<&At<u32>>,
        per: Option<&At<Period>>,
        burst: Option<&At<u32>>,
    ) -> Option<Rate> {
        if requests.is_none() {
            self.missing(span, "a limit needs `requests`");
        }
        if per.is_none() {
            self.missing(span, "a limit needs `per`, such as `1m`");
        }
        let counts = [self.count(requests), self.count(burst)];
        let period = self.positive(per);
        let (requests, per) = (requests?, per?);
        let rate = Rate {
            requests: requests.value,
            per: period,
            burst: burst.map_or(requests.value, |burst| burst.value),
        };
        let is_whole = counts[0] > 0 && (burst.is_none() || counts[1] > 0) && !period.is_zero();
        if let Some(wrong) = rate.out_of_bounds().filter(|_| is_whole) {
            self.report.add(per.span, Code::InvalidValue, wrong);
        }
        Some(rate)
    }

    pub(super) fn limits(&mut self, raw: &RawLimits) -> Limits {
        if let (Some(each), Some(all)) = (&raw.connections_per_address, &raw.connections)
            && each.value > all.value
            && !self.is_default(each.span)
        {
            let message = "more than all `connections` together: it has no effect";
            self.report.warn(each.span, Code::NoEffect, message);
        }
        Limits {
            body_bytes_max: self.size(raw.body.as_ref()),
            header_bytes_max: self.size(raw.headers.as_ref()),
            header_count_max: self.count(raw.header_count.as_ref()),
            uri_bytes_max: self.size(raw.uri.as_ref()),
            json_depth_max: self.depth(raw.json_depth.as_ref()),
            body_timeout: self.positive(raw.body_timeout.as_ref()),
            body_bytes_per_second_min: self.size(raw.body_rate.as_ref()),
            header_timeout: self.positive(raw.header_timeout.as_ref()),
            connections_max: self.count(raw.connections.as_ref()),
            connections_per_address_max: self.count(raw.connections_per_address.as_ref()),
            requests_per_connection_max: self.count(raw.requests_per_connection.as_ref()),
            h2_streams_max: self.count(raw.h2_streams.as_ref()),
            tokens_max: self.count(raw.tokens.as_ref()),
            keepalive: self.positive(raw.keepalive.as_ref()),
            write_timeout: self.positive(raw.write_timeout.as_ref()),
            comment_every: self.positive(raw.comment_every.as_ref()),
            in_flight_max: self.count(raw.in_flight.as_ref()),
            streams_max: self.count(raw.streams.as_ref()),
            streams_per_caller_max: self.count(raw.streams_per_caller.as_ref()),
            buckets_max: self.count(raw.buckets.as_ref()),
            line_bytes_max: self.size(raw.line.as_ref()),
            children_max: self.count(raw.children.as_ref()),
            child_pending_max: self.count(raw.child_pending.as_ref()),
            child_queue_max: self.count(raw.child_queue.as_ref()),
            stderr_bytes_max: self.size(raw.stderr.as_ref()),
            idle_connections_max: self.count(raw.idle_connections.as_ref()),
            answer_bytes_max: self.size(raw.answer.as_ref()),
            tool_labels_max: self.count(raw.tool_labels.as_ref()),
        }
    }

    /// What one process, caller or server may have at once.
    pub(super) fn bounds(&mut self, raw: &RawLimits) -> Bounds {
        Bounds {
            in_flight_per_caller: self.count(raw.in_flight_per_caller.as_ref()),
            in_flight_per_server: self.count(raw.in_flight_per_server.as_ref()),
            streams_per_server: self.count(raw.streams_per_server.as_ref()),
            sessions: self.count(raw.sessions.as_ref()),
            sessions_per_caller: self.count(raw.sessions_per_caller.as_ref()),
            sessions_per_server: self.count(raw.sessions_per_server.as_ref()),
            request_bytes: self.size(raw.request_bytes.as_ref()),
            request_bytes_per_caller: self.size(raw.request_bytes_per_caller.as_ref()),
            request_bytes_per_server: self.size(raw.request_bytes_per_server.as_ref()),
            memory: raw.memory.as_ref().map(|memory| self.size(Some(memory))),
        }
    }

    fn size(&mut self, raw: Option<&At<Size>>) -> usize {
        self.at_least_one(raw.map(|size| (size.0, size.span)))
    }

    fn count<N: Copy + Default + PartialEq>(&mut self, raw: Option<&At<N>>) -> N {
        self.at_least_one(raw.map(|count| (count.value, count.span)))
    }

    pub(super) fn at_least_one<N: Copy + Default + PartialEq>(&mut self, raw: Option<(N, Span)>) -> N {
        let Some((value, span)) = raw else { return N::default() };
        if value == N::default() {
            self.report.add(span, Code::InvalidValue, "must be at least 1");
        }
        value
    }

    fn depth(&mut self, raw: Option<&At<usize>>) -> usize {
        // serde_json refuses more than 128 by itself.
        if let Some(deep) = raw.filter(|depth| depth.value > 128) {
            self.report.add(deep.span, Code::InvalidValue, "must be at most 128");
        }
        self.count(raw)
    }
}
