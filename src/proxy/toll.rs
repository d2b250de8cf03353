//! What a request pays on its way in: tokens from buckets, and places among the calls in flight.
//! Not here: the buckets themselves (`limit`); how a refusal looks (`rejection`).
//!
//! Order: the flood guard and a look into the address's bucket come before authentication; a look into the caller's
//! before the body is read; all layers are taken from at once when it is known what is called. Whoever is refused in
//! between for another reason than a limit pays what was looked at so far: a wrong key costs the address a token, a
//! call that is not allowed costs address and caller one each. Whoever is refused by a limit pays nothing.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::rejection::{Bound, Limited, Rejection};
use crate::auth::Caller;
use crate::catalog::Server;
use crate::conf::{Access, Bounds, Rate};
use crate::limit::{
    Address, Buckets, Decision, Draw, Flood, Gate, Layer, Permit, Place, Places, Pressure, Scale, Weight,
};
use crate::telemetry::Meters;

/// The limits of the process. They outlive every reload; how much is allowed comes with each request.
pub(super) struct Tolls {
    buckets: Arc<Buckets>,
    flood: Flood,
    places: Places,
    load: Load,
    bounds: Bounds,
    /// Streams of one caller at once.
    streams_max: u32,
    meters: Arc<Meters>,
}

/// What the process bears, counted by whoever adds to it. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Load {
    /// Calls and streams.
    pub gate: Gate,
    /// Bodies of requests.
    pub scale: Scale,
    /// Memory.
    pub pressure: Pressure,
}

/// Orchestrators and load balancers ask a few times in a second; whoever asks more often than this is none.
const PROBES: Rate = Rate { requests: 50, per: Duration::from_secs(1), burst: 100 };

/// What one request owes, and what it was told.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What the tightest bucket said last, for every answer.
    pub(super) decision: Option<Decision>,
    /// What was looked at and is not yet taken.
    owed: SmallVec<[Draw; 4]>,
}

/// Places that a call holds until it is dropped, with the client or with the last byte of the answer.
#[derive(Debug)]
pub(super) struct Held {
    _in_all: Permit,
    /// The caller's place, taken before a body is read, so that nobody holds many with bodies that never come.
    _own: Option<Place>,
    /// The same of the bound that every caller has.
    _bound: Option<Place>,
    places: SmallVec<[Place; 4]>,
    weights: SmallVec<[Weight; 1]>,
}

/// What a request is about, as far as limits go.
pub(super) struct Use<'r> {
    pub(super) caller: &'r Caller,
    pub(super) server: &'r Server,
    /// The tool that is called, by the name its server knows.
    pub(super) tool: Option<&'r str>,
    /// Whether it counts among the calls at once. A stream that a client holds open to listen counts among the streams:
    /// with `in_flight: 1` such a client could never call, and a few of them would take everybody's places.
    pub(super) is_call: bool,
}

/// Whose bucket or places, within a layer: a caller (0 is all together), a server, a tool.
type Whose<'w> = (u128, &'w str, &'w str);

impl Tolls {
    pub(super) fn new(
        buckets: Arc<Buckets>,
        load: Load,
        (bounds, streams_max): (Bounds, u32),
        meters: Arc<Meters>,
    ) -> Self {
        Self { buckets, flood: Flood::new(), places: Places::new(), load, bounds, streams_max, meters }
    }

    /// A request from `address` has come: it is looked at only if its address is not flooding us and has a token.
    pub(super) fn arrive(
        &self,
        access: &Access,
        address: Option<Address>,
        tally: &mut Tally,
    ) -> Result<(), Rejection> {
        let Some(address) = address else { return Ok(()) };
        if access.flood.is_some_and(|max| self.flood.is_flooded(address, max)) {
            return Err(self.refuse(tally, Limited::Flood));
        }
        if let Some(rate) = access.address_limit {
            let key = self.buckets.key(Layer::Address, &address);
            self.look(tally, Draw { key, rate, cost: 1, layer: Layer::Address })?;
        }
        Ok(())
    }

    /// A probe from `address` has come. It owes nothing to anybody's limits, but each is answered over a connection to
    /// the control plane: no address may ask for them without end.
    pub(super) fn probe(&self, address: Address, tally: &mut Tally) -> Result<(), Rejection> {
        let key = self.buckets.key(Layer::Address, &(address, "probes"));
        let draw = Draw { key, rate: PROBES, cost: 1, layer: Layer::Address };
        match self.buckets.take(&[draw]) {
            // Nothing is said of it in what is answered.
            Ok(_) => Ok(()),
            Err(decision) => Err(self.refuse(tally, Limited::Tokens(decision))),
        }
    }

    /// The caller is known: a look into its bucket, and a place among all calls.
    pub(super) fn enter(
        &self,
        access: &Access,
        caller: &Caller,
        is_call: bool,
        tally: &mut Tally,
    ) -> Result<Held, Rejection> {
        if self.load.pressure.sheds_calls() {
            self.meters.life().shed("call");
            return Err(self.refuse(tally, Limited::Bound(Bound::Memory)));
        }
        // The caller's own limit, as a whole, or everybody's.
        let limit = caller.limit.or(access.limit).unwrap_or_default();
        if let Some(rate) = limit.rate {
            let key = self.buckets.key(Layer::Caller, &caller.id);
            self.look(tally, Draw { key, rate, cost: 1, layer: Layer::Caller })?;
        }
        let whose = (caller.id, "", "");
        let own = match limit.in_flight.filter(|_| is_call) {
            None => None,
            Some(max) => match self.places.enter(Layer::Caller, &whose, max) {
                None => return Err(self.refuse(tally, Limited::InFlight(Layer::Caller))),
                place => place,
            },
        };
        let Some(in_all) = self.load.gate.enter() else { return Err(self.refuse(tally, Limited::Busy)) };
        let whose = (caller.id, "", "bound");
        let bound = self.places.enter(Layer::Caller, &whose, self.bounds.in_flight_per_caller);
        if bound.is_none() {
            return Err(self.refuse(tally, Limited::Bound(Bound::InFlightPerCaller)));
        }
        let (places, weights) = (SmallVec::new(), SmallVec::new());
        Ok(Held { _in_all: in_all, _own: own, _bound: bound, places, weights })
    }

    /// So many more bytes of a body are held, of a request to that server if it is known by now.
    pub(super) fn weigh(
        &self,
        bytes: usize,
        (caller, server): (&Caller, Option<&str>),
        held: &mut Held,
    ) -> Result<(), Rejection> {
        let Bounds { request_bytes, request_bytes_per_caller, request_bytes_per_server, .. } = self.bounds;
        let mut whose: SmallVec<[_; 2]> = SmallVec::new();
        whose.push((Layer::Caller, (caller.id, ""), request_bytes_per_caller));
        whose.extend(server.map(|server| (Layer::Server, (0, server), request_bytes_per_server)));
        let put = self.load.scale.put(bytes, request_bytes, &whose);
        let weight = put.map_err(|at| {
            let bound = match at {
                None => Bound::RequestBytes,
                Some(0) => Bound::RequestBytesPerCaller,
                Some(_) => Bound::RequestBytesPerServer,
            };
            self.refuse(&mut Tally::default(), Limited::Bound(bound))
        })?;
        held.weights.push(weight);
        Ok(())
    }

    /// It is known what is called, and it is allowed: takes from all layers, or from none.
    pub(super) fn pay(&self, of: &Use<'_>, held: &mut Held, tally: &mut Tally) -> Result<(), Rejection> {
        let throttle = &of.server.throttle;
        let tool = of.tool.and_then(|name| throttle.tools.iter().find(|(known, _)| known == name));
        let cost = tool.map_or(1, |(_, tool)| tool.cost.max(1));
        for draw in tally.owed.iter_mut().filter(|draw| draw.layer != Layer::Address) {
            draw.cost = cost;
        }
        let mut places: SmallVec<[Place; 4]> = SmallVec::new();
        let mut place = |layer, whose: &Whose<'_>, max: Option<u32>| match max.filter(|_| of.is_call) {
            None => Ok(()),
            Some(max) => self.places.enter(layer, whose, max).map(|place| places.push(place)).ok_or(layer),
        };
        let mut full = None;
        let server = throttle.limit.map(|shared| (Layer::Server, shared, ""));
        let tool = tool.and_then(|(name, tool)| Some((Layer::Tool, tool.limit?, name.as_str())));
        for (layer, shared, tool) in [server, tool].into_iter().flatten() {
            let caller = if shared.each_caller { of.caller.id } else { 0 };
            let whose = (caller, of.server.id.as_str(), tool);
            if let Some(rate) = shared.limit.rate {
                tally.owed.push(Draw { key: self.buckets.key(layer, &whose), rate, cost, layer });
            }
            full = full.or_else(|| place(layer, &whose, shared.limit.in_flight).err());
        }
        if let Some(layer) = full {
            return Err(self.refuse(tally, Limited::InFlight(layer)));
        }
        places.push(self.place_at(of).map_err(|limited| self.refuse(tally, limited))?);
        if !of.is_call {
            let stream = self.places.enter(Layer::Caller, &(of.caller.id, "stream", ""), self.streams_max);
            let Some(stream) = stream else {
                return Err(self.refuse(tally, Limited::Streams(Bound::StreamsPerCaller)));
            };
            let Some(in_all) = self.load.gate.listen() else {
                return Err(self.refuse(tally, Limited::Streams(Bound::Streams)));
            };
            places.push(stream);
            (held._in_all, held._own, held._bound) = (in_all, None, None);
        }
        self.settle(tally)?;
        held.places = places;
        Ok(())
    }

    /// A place among the calls, or the streams, that one server may have.
    fn place_at(&self, of: &Use<'_>) -> Result<Place, Limited> {
        let id = of.server.id.as_str();
        let (what, max, full) = if of.is_call {
            ("bound", self.bounds.in_flight_per_server, Limited::Bound(Bound::InFlightPerServer))
        } else {
            ("stream", self.bounds.streams_per_server, Limited::Streams(Bound::StreamsPerServer))
        };
        self.places.enter(Layer::Server, &(0_u128, id, what), max).ok_or(full)
    }

    /// Takes what was looked at so far.
    pub(super) fn settle(&self, tally: &mut Tally) -> Result<(), Rejection> {
        match self.buckets.take(&tally.owed) {
            Ok(decision) => {
                tally.decision = decision.or(tally.decision);
                tally.owed.clear();
                Ok(())
            }
            Err(decision) => Err(self.refuse(tally, Limited::Tokens(decision))),
        }
    }

    /// A look into one more bucket, which is owed from now on.
    fn look(&self, tally: &mut Tally, draw: Draw) -> Result<(), Rejection> {
        match self.buckets.look(&[draw]) {
            Ok(decision) => {
                tally.decision = decision;
                tally.owed.push(draw);
                Ok(())
            }
            Err(decision) => Err(self.refuse(tally, Limited::Tokens(decision))),
        }
    }

    /// Nothing is owed by whom a limit refuses.
    pub(super) fn refuse(&self, tally: &mut Tally, limited: Limited) -> Rejection {
        tally.owed.clear();
        if let Limited::Tokens(decision) = &limited {
            tally.decision = Some(*decision);
        }
        self.meters.rate_limited(limited.scope());
        Rejection::Limited(limited)
    }
}
