//! `tollgate routes`: every route of the gateway and who may use it, from the tables that the gateway works with.
//! Not here: the tables (`proxy`, `control`).

use serde_json::json;

use super::{Done, Format, print, print_json};
use crate::control::{self, Needs};
use crate::proxy;

/// One route, wherever it is served.
struct Row {
    verb: &'static str,
    path: &'static str,
    access: &'static str,
    door: &'static str,
}

fn rows() -> Vec<Row> {
    let edge = proxy::ROUTES.iter().map(|route| Row {
        verb: route.verb,
        path: route.path,
        access: if route.needs_caller { "caller" } else { "public" },
        door: route.door,
    });
    let control = control::ROUTES.iter().map(|route| Row {
        verb: route.verb,
        path: route.path,
        access: match route.needs {
            Needs::Nothing => "public",
            Needs::Caller => "caller",
            Needs::EveryServer => "admin",
        },
        door: "control",
    });
    edge.chain(control).collect()
}

/// Prints the table.
pub(super) fn list(format: Format) -> Done {
    let rows = rows();
    match format {
        Format::Text => {
            let line = |row: &Row| format!("{:7} {:8} {:8} {}\n", row.verb, row.access, row.door, row.path);
            print(&rows.iter().map(line).collect::<String>())
        }
        Format::Json => {
            let object = |row: &Row| json!({"method": row.verb, "path": row.path, "access": row.access, "door": row.door});
            print_json(&rows.iter().map(object).collect())
        }
    }
}
