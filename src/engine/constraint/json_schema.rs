//! placeholder
pub fn pattern(_: &serde_json::Value) -> Result<String, super::ConstraintError> { Ok(String::new()) }
