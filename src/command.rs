//! The command line: its verbs and flags, and what each verb does with the rooms.
//! Not here: what settings mean and which wins (`conf`); the gateway itself (`app`).
//!
//! Data goes to standard output, talk to standard error. Exit codes: 0 ok, 1 a failed start or a mistake in a file,
//! 2 wrong usage, 3 what `explain` denies.

mod check;
mod explain;
mod healthcheck;
mod key;
mod launch;
mod plan;
mod routes;
mod samples;
mod stdio;
mod token;
mod upgrade;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::conf::{self, Flags, Loaded, Sources};
use crate::document::{Mistake, Mistakes};
use crate::{app, catalog};

/// The edge gateway for fleets of MCP servers.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, about, arg_required_else_help = true)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway. Without any file it serves built-in sample servers on 127.0.0.1:4444.
    Run {
        #[command(flatten)]
        files: Files,
        /// The socket of a `tollgate bridge`, which then runs the local servers [default: none, they run here].
        #[arg(long, value_name = "SOCKET")]
        bridge: Option<PathBuf>,
    },
    /// Run the local servers of a catalog without the gateway, so that they outlive it; `run --bridge SOCKET` uses them.
    Bridge {
        /// Where it listens [default: `bridge` of the configuration, else `bridge.sock` in the state directory].
        #[arg(long, value_name = "SOCKET")]
        socket: Option<PathBuf>,
        #[command(flatten)]
        files: Files,
    },
    /// Check the configuration and the catalog, and tell every mistake with its place.
    Validate {
        #[command(flatten)]
        files: Files,
        /// How mistakes are told.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// Fail on warnings, too.
        #[arg(long)]
        strict: bool,
    },
    /// Tell whether a caller may do something, which rule says so and which limits it meets; exit 3 if it may not.
    Explain {
        #[command(flatten)]
        question: Box<explain::Question>,
        #[command(flatten)]
        files: Files,
        /// How the answer is told.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Tell what a changed catalog would give and take from whom.
    Plan {
        /// The changed catalog.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        #[command(flatten)]
        files: Files,
        /// How the plan is told.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Print a JSON Schema (draft-07) for editors.
    Schema {
        /// Of which file.
        #[arg(value_enum)]
        of: SchemaOf,
    },
    /// The configuration.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Print every route of the gateway and who may use it: anybody (`public`), a caller, or one who may use every
    /// server (`admin`).
    Routes {
        /// How they are told.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// API keys.
    Key {
        #[command(subcommand)]
        verb: key::KeyVerb,
    },
    /// JSON Web Tokens of issuers with a shared secret.
    Token {
        #[command(subcommand)]
        verb: token::TokenVerb,
    },
    /// Let a new binary take over from a running gateway without turning anybody away; exit 0 once it has.
    Upgrade {
        /// The gateway's process id [default: the one that became ready last on the state directory].
        #[arg(long, value_name = "PID")]
        pid: Option<u32>,
        #[command(flatten)]
        files: Files,
    },
    /// Ask a running gateway whether it is ready; exit 0 if so.
    Healthcheck(Files),
    /// Be one server behind a gateway, on standard input and output, for clients that know nothing else.
    Stdio(stdio::Stdio),
    /// Run a built-in MCP server, for trying things out and for tests.
    Sample {
        /// How it speaks.
        #[arg(value_enum)]
        transport: samples::Transport,
        /// Where the HTTP kinds listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: std::net::SocketAddr,
    },
    /// Become a server's program with no more than a profile gives; the gateway starts itself with it.
    #[command(hide = true)]
    Launch(launch::Order),
    /// Print a completion script.
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Print every setting in force and where it comes from; secrets are not shown.
    Show {
        #[command(flatten)]
        files: Files,
        /// How settings are told.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

/// Flags that name files and override settings. The environment is read in `conf`, where every setting shows.
#[derive(Debug, Args)]
struct Files {
    /// The configuration [default: ./tollgate.yaml, ./conf/tollgate.yaml, then the usual places].
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The catalog of servers [default: ./catalog.yaml, then the usual places].
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:4444]. Port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where the session key and the bridge's sockets live.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,tollgate::bridge=debug`.
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// The log's form: auto, text or json.
    #[arg(long, value_name = "FORM")]
    log_format: Option<String>,
}

/// How something is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SchemaOf {
    /// `catalog.yaml`.
    Catalog,
    /// `tollgate.yaml`.
    Config,
}

impl Files {
    fn load(self) -> Result<Loaded, Mistakes> {
        conf::load(self.sources())
    }

    fn sources(self) -> Sources {
        let flags = Flags {
            listen: self.listen,
            catalog: self.catalog,
            state_dir: self.state_dir,
            bridge: None,
            log_level: self.log_level,
            log_format: self.log_format,
        };
        Sources { file: self.config, env: conf::environment(), flags }
    }
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let done = match Command::parse().verb {
        Verb::Run { files, bridge } => run(files, bridge),
        Verb::Bridge { socket, files } => bridge(files, socket),
        Verb::Validate { files, format, strict } => check::validate(files, format, strict),
        Verb::Explain { question, files, format } => explain::explain(files, &question, format),
        Verb::Plan { to, files, format } => plan::plan(files, &to, format),
        Verb::Schema { of } => print_json(&match of {
            SchemaOf::Catalog => catalog::schema(),
            SchemaOf::Config => conf::schema(),
        }),
        Verb::Config { verb: ConfigVerb::Show { files, format } } => show(files, format),
        Verb::Routes { format } => routes::list(format),
        Verb::Key { verb } => key::run(verb),
        Verb::Token { verb } => token::run(verb),
        Verb::Upgrade { pid, files } => upgrade::ask(pid, files),
        Verb::Stdio(asked) => stdio::run(asked),
        Verb::Healthcheck(files) => healthcheck::ask(files),
        Verb::Launch(order) => return launch::launch(&order),
        Verb::Sample { transport, listen } => samples::serve(transport, listen),
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Command::command(), "tollgate", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|failure| {
        tell(&failure);
        ExitCode::FAILURE
    })
}

/// Why a verb failed, in words for standard error.
type Failure = String;
type Done = Result<ExitCode, Failure>;

fn run(files: Files, bridge: Option<PathBuf>) -> Done {
    let mut sources = files.sources();
    sources.flags.bridge = bridge;
    let mut inherited = app::Inheritance::take(&sources.env);
    let run = || {
        let loaded = conf::load(sources.clone()).map_err(|mistakes| wrong(&mistakes))?;
        ended(app::run(loaded, sources, &mut inherited))
    };
    run().map_err(|(brief, told): (String, Failure)| {
        inherited.failed(&brief);
        told
    })
}

fn bridge(files: Files, socket: Option<PathBuf>) -> Done {
    if files.listen.is_some() {
        return Err("error: a bridge listens on no address: use `--socket`".to_owned());
    }
    let sources = files.sources();
    let loaded = conf::load(sources.clone()).map_err(|mistakes| check::report(&mistakes))?;
    ended(app::bridge(loaded, sources, socket)).map_err(|(_, told)| told)
}

/// Mistakes in one line, and in full.
fn wrong(mistakes: &Mistakes) -> (String, Failure) {
    let first = mistakes.first().map(Mistake::one_line).unwrap_or_default();
    (first, check::report(mistakes))
}

/// How a service ended: why it failed in one line, and in full.
fn ended(result: Result<(), app::StartError>) -> Result<ExitCode, (String, Failure)> {
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(app::StartError::Catalog(mistakes)) => Err(wrong(&mistakes)),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            Err((error.to_string(), format!("error: {error}{}", cause.unwrap_or_default())))
        }
    }
}

fn show(files: Files, format: Format) -> Done {
    let loaded = files.load().map_err(|mistakes| check::report(&mistakes))?;
    match format {
        Format::Text => print(&loaded.effective.to_string()),
        Format::Json => {
            print_json(&serde_json::to_value(&loaded.effective).map_err(|error| error.to_string())?)
        }
    }
}

fn print_json(value: &serde_json::Value) -> Done {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    print(&(text + "\n"))
}

/// Prints data. A reader that has seen enough is no failure.
fn print(text: &str) -> Done {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Says something on standard error, in one piece: the process that is taken over from writes there, too.
fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}
