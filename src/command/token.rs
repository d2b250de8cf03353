//! `tollgate token new`: a JSON Web Token for an operator, signed with an issuer's shared secret.
//! Not here: what is in a token (`auth`); API keys, which live longer and can be taken back one by one (`key`).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use super::{Done, Failure, Files, check, print};
use crate::auth::{self, Minted};
use crate::conf::{Algorithm, Claims, Grant, Issuer, IssuerKeys, Secret};

/// RFC 7518 section 3.2, for HS256.
const SECRET_BYTES_MIN: usize = 32;

#[derive(Debug, Subcommand)]
pub(super) enum TokenVerb {
    /// Make a token and print it.
    ///
    /// The secret is that of an issuer in the configuration, or a file's. It is never given on the command line, where
    /// every process of the machine could read it.
    New(Box<NewArgs>),
}

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    #[command(flatten)]
    files: Files,
    /// Whose token: the `issuer` in the configuration, which may be left out if only one has a secret.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// A file with the secret (HS256), instead of the configuration.
    #[arg(long, value_name = "FILE", requires = "audience")]
    secret_file: Option<PathBuf>,
    /// Who it is for, in logs, limits and rules.
    #[arg(long)]
    subject: String,
    /// Where it is good: the address of a door, or of the gateway [default: the issuer's first audience].
    #[arg(long, value_name = "URL")]
    audience: Option<String>,
    /// Scopes, separated by commas [default: what the configuration grants the issuer's tokens].
    #[arg(long, value_delimiter = ',')]
    scopes: Option<Vec<String>>,
    /// Ids of servers, separated by commas, of those that the issuer's tokens may use [default: all of them].
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    servers: Option<Vec<String>>,
    /// Groups, separated by commas [default: what the configuration grants the issuer's tokens].
    #[arg(long, value_delimiter = ',')]
    groups: Option<Vec<String>>,
    /// How long it is good, such as `30m` or `12h`.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

/// Does what the verb says.
pub(super) fn run(verb: TokenVerb) -> Done {
    let TokenVerb::New(args) = verb;
    let NewArgs { files, issuer, secret_file, subject, audience, scopes, servers, groups, ttl } = *args;
    let issuer = match secret_file {
        Some(file) => from_file(issuer, &file)?,
        None => from_configuration(files, issuer.as_deref())?,
    };
    let minted = Minted { subject, audience, scopes, servers, groups, ttl };
    let token = auth::mint(&issuer, &minted, SystemTime::now()).map_err(|error| format!("error: {error}"))?;
    print(&(token + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn from_file(issuer: Option<String>, file: &PathBuf) -> Result<Issuer, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("error: secret file {}: {error}", file.display()))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!(
            "error: secret file {}: HS256 needs {SECRET_BYTES_MIN} bytes or more (`openssl rand -base64 48`)",
            file.display()
        ));
    }
    Ok(Issuer {
        issuer,
        audiences: Vec::new(),
        audience_required: true,
        algorithms: vec![Algorithm::Hs256],
        keys: IssuerKeys::Secret(Secret::new(secret)),
        claims: Claims::default(),
        grant: Grant::default(),
        leeway: Duration::ZERO,
    })
}

fn from_configuration(files: Files, name: Option<&str>) -> Result<Issuer, Failure> {
    let loaded = files.load().map_err(|mistakes| check::report(&mistakes))?;
    let has_secret = |issuer: &Issuer| matches!(issuer.keys, IssuerKeys::Secret(_));
    let fits = |issuer: &Issuer| match name {
        Some(name) => issuer.issuer.as_deref() == Some(name),
        None => has_secret(issuer),
    };
    let mut found: Vec<Issuer> = loaded.conf.access.auth.issuers.into_iter().filter(fits).collect();
    match (found.pop(), found.is_empty(), name) {
        (Some(issuer), true, _) => Ok(issuer),
        (None, _, Some(name)) => Err(format!("error: the configuration has no issuer {name:?}")),
        (None, _, None) => Err("error: no issuer of the configuration has a shared secret".into()),
        (Some(_), false, _) => {
            Err("error: several issuers have a shared secret: say which with --issuer".into())
        }
    }
}
