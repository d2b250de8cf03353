//! The JSON Schema of a raw type, as editors like it.
//! Not here: the types (`catalog/raw.rs`, `conf/raw.rs`).

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json};

/// The JSON Schema (draft-07) of a raw type, without references.
pub fn schema_of<T: JsonSchema>() -> Json {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    tidy(&mut schema);
    schema
}

/// Every raw field is an `Option`, from which schemars concludes that its default is null: that tells nobody
/// anything. The format of an integer is the program's business.
fn tidy(schema: &mut Json) {
    match schema {
        Json::Object(object) => {
            if object.get("default").is_some_and(Json::is_null) {
                object.shift_remove("default");
            }
            if object.get("format").is_some_and(Json::is_string) {
                object.shift_remove("format");
            }
            accept_variables(object);
            object.values_mut().for_each(tidy);
        }
        Json::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Where a number or a boolean is wanted, a variable may stand, which is text to an editor.
fn accept_variables(schema: &mut Map<String, Json>) {
    let Some(kinds) = schema.get_mut("type") else { return };
    if let Some(kind) = kinds.as_str() {
        *kinds = Json::from(vec![kind]);
    }
    let Some(list) = kinds.as_array_mut() else { return };
    let has = |list: &[Json], kind: &str| list.iter().any(|known| known == kind);
    if !has(list, "string") && ["integer", "number", "boolean"].iter().any(|kind| has(list, kind)) {
        list.push(Json::from("string"));
        schema.insert("pattern".to_owned(), Json::from("\\$\\{"));
    } else if let [only] = list.as_slice() {
        *kinds = only.clone();
    }
}
