//! `launch`: the gateway's own way to start a server's program in a sandbox.
//! Not here: what the profile takes away (`sandbox`); who starts it (`bridge`).

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::sandbox;

/// What is launched, and how.
#[derive(Debug, Args)]
pub(super) struct Order {
    /// The process that starts it, and with which it ends.
    #[arg(long)]
    parent: u32,
    /// What the program may use, as the gateway writes it.
    #[arg(long)]
    profile: String,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// Becomes the program, or says why not.
pub(super) fn launch(order: &Order) -> ExitCode {
    if let Some((program, args)) = order.program.split_first() {
        let error = sandbox::launch(&order.profile, order.parent, Path::new(program), args);
        sandbox::say(&error.to_string());
    }
    ExitCode::from(sandbox::EXIT_CODE)
}
