//! `config show`: prints the configuration.

use serde_json::{Map, Value, json};

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::output::{self, OutputFormat};

/// Prints every value with its origin. The configuration is valid at this point.
pub(crate) fn show(config: &Config) -> Result<(), Failure> {
    if config.format == OutputFormat::Json {
        let all: Map<String, Value> = config
            .shown
            .iter()
            .map(|(name, value, origin)| {
                (
                    name.clone(),
                    json!({"value": value, "origin": origin.to_string()}),
                )
            })
            .collect();

        return output::json(&Value::Object(all));
    }

    let rows: Vec<Vec<Value>> = config
        .shown
        .iter()
        .map(|(name, value, origin)| {
            let value = if value.is_empty() { "-" } else { value };
            vec![
                name.as_str().into(),
                value.into(),
                origin.to_string().into(),
            ]
        })
        .collect();

    output::rows(OutputFormat::Text, &["NAME", "VALUE", "ORIGIN"], &rows)
}
