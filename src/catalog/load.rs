//! A catalog file, or a text, into a snapshot.
//! Not here: what is checked (`check`), when a file is read again (`watch`).

use std::io::{self, Read};
use std::path::Path;

use super::check;
use super::model::Snapshot;
use super::raw::RawCatalog;
use crate::document::{Code, Document, Lookup, Mistake, Mistakes};

/// A catalog file, in bytes: ten thousand servers fit several times.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads, expands and checks the catalog at `path`. `lookup` answers `${NAME}`, and `PATH` for commands.
///
/// # Errors
/// Every mistake of the file, each with its position.
pub fn load(path: &Path, generation: u64, lookup: Lookup<'_>) -> Result<Snapshot, Mistakes> {
    let name = path.display().to_string();
    let text = read(path).map_err(|error| {
        let code =
            if error.kind() == io::ErrorKind::FileTooLarge { Code::TooLarge } else { Code::Unreadable };
        Mistakes::one(Mistake::whole(name.as_str(), code, format!("cannot read the catalog: {error}")))
    })?;
    // The parent of a bare file name is the empty path, which is no directory.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let base_dir = parent.unwrap_or(Path::new("."));
    parse(&text, &name, base_dir, generation, lookup)
}

/// Expands and checks a catalog that was read already. `file_name` is what mistakes call it; relative commands
/// and directories are relative to `base_dir`.
///
/// # Errors
/// As [`load`].
pub fn parse(
    text: &str,
    file_name: &str,
    base_dir: &Path,
    generation: u64,
    lookup: Lookup<'_>,
) -> Result<Snapshot, Mistakes> {
    let mut document = Document::parse(file_name, text);
    if document.root.is_null() && document.report.is_empty() {
        let mistake =
            Mistake::whole(file_name, Code::Missing, "the catalog is empty: expected `servers: []` at least");
        return Err(Mistakes::one(mistake));
    }
    document.expand(lookup);
    let raw: RawCatalog = document.decode();
    // A child may change its own directory; what we hand to it must not depend on that.
    let base_dir = std::path::absolute(base_dir).unwrap_or_else(|_| base_dir.to_path_buf());
    let mut report = document.report;
    if raw.servers.is_none() && raw.mcp_servers.is_none() && report.is_empty() {
        let start = document.root.span;
        report.add(start, Code::Missing, "a catalog needs `servers` or `mcpServers`");
    }
    let (servers, rules) = check::check(raw, &base_dir, lookup, &mut report);
    let warnings = report.finish()?;
    let mut snapshot = Snapshot::new(generation, servers, rules);
    snapshot.warnings = warnings;
    Ok(snapshot)
}

/// Reads a text file of bounded size.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let bytes = read_bytes(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8 in line {line}"))
    })
}

/// Reads a file of bounded size.
pub(super) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Asked first, because opening a pipe waits for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 16 MiB"));
    }
    Ok(bytes)
}
