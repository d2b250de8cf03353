//! The program's own log: human on a terminal, JSON lines otherwise, always on standard error.
//! Not here: the access log (`access`).

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::conf::{LogConf, LogFormat};

/// Installs the log for the process. A level that is no filter falls back to `info`: `conf` has checked it.
pub fn init(conf: &LogConf) {
    // Pingora logs every client that leaves as an error; our access log says it better.
    let directives = format!("{},pingora_core=warn,pingora_proxy=off,hyper_util=warn", conf.level);
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let json = match conf.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call finds a log in place, which is what a test that runs two gateways wants.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_target(false).try_init()
    };
}
