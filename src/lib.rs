//! Tollgate: the edge gateway for fleets of MCP servers.
//! Not here: any code. This is the map; what is inside a room stands at the head of its own file.
//!
//! One process, three services, each with a runtime of its own. The *proxy* is Pingora and the only thing that
//! listens to the world. The *bridge* supervises the children of local servers and offers each on a private unix
//! socket, so that to everything else a stdio server is an HTTP server. It may also be a process of its own
//! (`tollgate bridge`), whose children outlive the gateway. The *sidecar* runs the control plane, the
//! catalog's watch and the health checks.
//!
//! # Reading order
//!
//! Follow one `tools/call`, which comes in at the [`listener`]; its five hops are marked in the doc comments.
//! 1. [`proxy`]: Pingora's phases; the door that a path leads to.
//! 2. `proxy/admit`: host, origin, credential, bucket.
//! 3. `proxy/exchange`: a bounded body becomes a message ([`mcp`]), its era is told, its session unsealed ([`session`]).
//! 4. `hub/relay`: what the caller may use ([`auth`]) becomes a route.
//! 5. [`upstream`]: an endpoint is picked, bytes go out, the answer streams back.
//!
//! Then [`catalog`] (what is behind the gateway, from [`document`]s with positions), [`bridge`] (children),
//! [`sandbox`] (what they may use),
//! [`control`] (the native API and reloads), [`egress`] (what the gateway asks on its own account), [`telemetry`] (what
//! is shown), and [`app`], which joins all of it.
//!
//! # Rooms and arrows
//!
//! `room.rs` is a room's front door, `room/` is private. A room may use those on the right; a test reads this table.
//!
//! ```text arrows
//! main      -> command
//! command   -> app auth catalog conf control document egress hub mcp proxy sample sandbox telemetry
//! app       -> auth bridge catalog conf control document failpoint hub limit listener proxy sample session telemetry upstream
//! proxy     -> auth catalog conf failpoint hub limit listener mcp reply telemetry upstream
//! control   -> auth bridge catalog conf document failpoint hub limit telemetry upstream
//! hub       -> auth catalog conf mcp reply session telemetry upstream
//! upstream  -> auth bridge catalog conf egress mcp telemetry
//! bridge    -> catalog conf failpoint mcp sandbox
//! sample    -> mcp
//! session   -> conf failpoint mcp
//! auth      -> catalog conf document egress
//! limit     -> conf
//! listener  -> conf telemetry
//! telemetry -> conf mcp
//! catalog   -> conf document sandbox
//! conf      -> document
//! document  ->
//! egress    -> conf
//! failpoint ->
//! mcp       ->
//! reply     ->
//! sandbox   ->
//! ```
//!
//! # Invariants
//!
//! * Only `listener`, `proxy`, `app` and `limit` (its counters) know Pingora, and only `control` knows axum.
//!   [`mcp`] does no I/O.
//! * Only `proxy` writes to a client; what is decided below is a value ([`reply`], or an error of the room).
//! * `Admitted` is made by `proxy/admit` alone and [`auth::Allowed`] by [`auth::allow`] alone; [`upstream::Fleet::call`]
//!   takes nothing else. So whoever reaches an upstream was authenticated, limited and allowed: the types say so.
//! * A request sees one [`upstream::View`] from its first phase to its last; a reload is one swap.
//! * A client's credential never reaches an upstream: `proxy/headers` lists what passes, and it is not on the list.
//! * After the first byte of a call has left, it is never sent again.
//! * Every queue, table, body, line and wait has a bound with a name and a reason, most of them in [`conf::Limits`].
//!
//! # What is spawned
//!
//! Everything else runs inside a request's own future or inside a service of Pingora's.
//!
//! ```text spawns
//! src/app.rs — a thread for the access log, and one for an audit log in a file — `AccessLog::close`
//! src/app/upgrade.rs — the process that takes over from this one — it outlives us, unless it is given up
//! src/auth/key_source.rs — a blocking look at a file with an issuer's keys — itself; awaited at once
//! src/bridge/serve.rs — a task for each connection of the bridge's socket — its client, or the end of `serve`
//! src/bridge/slot.rs — a task for each child — the child's end; `Bridge::stop_all` asks for it
//! src/bridge/supervisor.rs — a task for each child that is kept warm — the same, and it goes on as the child's task
//! src/bridge/spawn.rs — a child, in a process group of its own — `Process::end`
//! src/bridge/spawn.rs — a blocking search for descendants that left the group — itself; awaited at once
//! src/command/stdio/own.rs — a thread for the client of a gateway of its own — joined when that has ended
//! src/catalog/watch.rs — a blocking read of the catalog — itself; awaited at once
//! src/hub/give_up.rs — word to a server that a call is given up — itself; two seconds
//! src/listener/accept.rs — a task for each connection of a client — its client, a deadline, or the end of the service
//! src/proxy/tail.rs — a task for each stream that is held open to listen — its client, its server, or the drain
//! src/sample/http.rs — a task for each connection of the sample servers — its client, or `stopping`
//! src/sandbox.rs — no new process: the launcher becomes a server's program by exec — the program
//! src/upstream/legacy_sse/session.rs — a task for each session with a server of 2024-11-05 — its stream, `Session::end`, or disuse
//! src/upstream/health.rs — a round of health checks for each server that is due — itself; dropped with the watch
//! ```

pub mod app;
pub mod auth;
pub mod bridge;
pub mod catalog;
pub mod command;
pub mod conf;
pub mod control;
pub mod document;
pub mod egress;
pub mod failpoint;
pub mod hub;
pub mod limit;
pub mod listener;
pub mod mcp;
pub mod proxy;
pub mod reply;
pub mod sample;
pub mod sandbox;
pub mod session;
pub mod telemetry;
pub mod upstream;
