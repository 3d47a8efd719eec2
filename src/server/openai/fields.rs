//! The body of a request, read field by field, so that every refusal names the field.
//!
//! A field that is `null` counts as missing, as OpenAI's clients mean it. What nobody has read in the
//! end is unknown, and refused: a misspelt option must not be ignored.

use std::ops::RangeInclusive;

use actix_web::FromRequest;
use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::web::BytesMut;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde_json::Map;
use serde_json::Value;

use crate::server::error::ApiError;
use crate::server::error::JSON_MAX_BYTES;
use crate::server::openai::error::OpenAiError;
use crate::store::identity::Identity;

/// The fields of a JSON object that have not been read yet.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// What stands before the names in errors, as `diffusion.`.
    path: String,
}

impl Fields {
    /// Takes a value that must be an object; `name` is its own name in errors.
    pub fn of(value: Value, name: &str) -> Result<Fields, OpenAiError> {
        match value {
            Value::Object(map) => {
                let path = if name.is_empty() { String::new() } else { format!("{name}.") };
                Ok(Fields { map, path })
            }
            _ => Err(OpenAiError::invalid(name, "invalid_type", format!("{name} must be an object"))),
        }
    }

    /// Returns the name of a field as errors call it.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// Refuses a field with `must` behind its name.
    pub fn refuse(&self, name: &str, code: &'static str, must: &str) -> OpenAiError {
        let name = self.name(name);
        OpenAiError::invalid(&name, code, format!("{name} {must}"))
    }

    /// Takes a field, whatever it is.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, OpenAiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(name, "invalid_type", "must be a string")),
        }
    }

    /// Takes a boolean; `false` when missing.
    pub fn flag(&mut self, name: &str) -> Result<bool, OpenAiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.refuse(name, "invalid_type", "must be true or false")),
        }
    }

    /// Takes a number within a range.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, OpenAiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| self.refuse(name, "invalid_type", "must be a number"))?;
        if !range.contains(&number) {
            let must = format!("must be from {} to {}, not {number}", range.start(), range.end());
            return Err(self.refuse(name, "invalid_value", &must));
        }
        Ok(Some(number))
    }

    /// Takes a whole number within a range.
    pub fn whole(&mut self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, OpenAiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = value.as_i64().or_else(|| value.as_f64().filter(|v| v.fract() == 0.0).map(|v| v as i64));
        let Some(whole) = whole else {
            return Err(self.refuse(name, "invalid_type", "must be a whole number"));
        };
        match usize::try_from(whole) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let must = format!("must be from {} to {}, not {whole}", range.start(), range.end());
                Err(self.refuse(name, "invalid_value", &must))
            }
        }
    }

    /// Takes a list.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, OpenAiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.refuse(name, "invalid_type", "must be a list")),
        }
    }

    /// Takes an object.
    pub fn object(&mut self, name: &str) -> Result<Option<Fields>, OpenAiError> {
        let full_name = self.name(name);
        self.take(name).map(|value| Fields::of(value, &full_name)).transpose()
    }

    /// Takes a field that this server does not have: a value that changes nothing is fine.
    pub fn neutral(&mut self, name: &str, is_neutral: fn(&Value) -> bool) -> Result<(), OpenAiError> {
        match self.take(name) {
            Some(value) if !is_neutral(&value) => {
                Err(self.refuse(name, "unsupported_parameter", "is not supported by this server"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left.
    pub fn finish(self) -> Result<(), OpenAiError> {
        match self.map.keys().next() {
            Some(name) => Err(self.refuse(name, "unknown_parameter", "is not a parameter of this request")),
            None => Ok(()),
        }
    }
}

/// The body of a request by somebody who is known; everybody with a key or a session may use the model.
#[derive(Debug)]
pub struct Asked(pub Fields);

impl FromRequest for Asked {
    type Error = OpenAiError;
    type Future = LocalBoxFuture<'static, Result<Asked, OpenAiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let mut payload = payload.take();
        Box::pin(async move {
            // Nothing is read from somebody who is not known.
            Identity::from_request(&request, &mut Payload::None).await?;
            let mut bytes = BytesMut::new();
            while let Some(chunk) = payload.next().await {
                let chunk = chunk.map_err(|error| ApiError::invalid("body", error))?;
                if bytes.len() + chunk.len() > JSON_MAX_BYTES {
                    return Err(ApiError::TooLarge(format!("the body is over {JSON_MAX_BYTES} bytes")).into());
                }
                bytes.extend_from_slice(&chunk);
            }
            let value: Value = serde_json::from_slice(&bytes).map_err(|error| {
                OpenAiError::invalid("body", "invalid_json", format!("the body is not JSON: {error}"))
            })?;
            if !value.is_object() {
                return Err(OpenAiError::invalid("body", "invalid_type", "the body must be an object"));
            }
            Ok(Asked(Fields::of(value, "")?))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields() -> Fields {
        let value = json!({"a": 1.5, "b": "x", "c": null, "d": 3.0, "e": {"f": -1}, "g": 0});
        Fields::of(value, "").expect("an object")
    }

    fn check<T: std::fmt::Debug>(result: Result<T, OpenAiError>, param: &str, code: &str) {
        let body = result.expect_err("is refused").body();
        assert_eq!(
            (body["error"]["param"].as_str(), body["error"]["code"].as_str()),
            (Some(param), Some(code))
        );
        assert!(
            body["error"]["message"].as_str().is_some_and(|message| message.starts_with(param)),
            "{body}"
        );
    }

    #[test]
    fn refusals_name_the_field() {
        check(fields().text("a"), "a", "invalid_type");
        check(fields().number("a", 0.0..=1.0), "a", "invalid_value");
        check(fields().whole("a", 0..=9), "a", "invalid_type");
        check(fields().flag("b"), "b", "invalid_type");
        check(fields().list("b"), "b", "invalid_type");
        check(fields().object("b"), "b", "invalid_type");
        check(fields().neutral("b", |value| *value == 1), "b", "unsupported_parameter");
        let mut inner = fields().object("e").expect("is fine").expect("is there");
        check(inner.whole("f", 0..=9), "e.f", "invalid_value");
        check(fields().finish(), "a", "unknown_parameter");
    }

    #[test]
    fn null_is_missing_and_whole_numbers_may_be_written_with_a_point() {
        assert_eq!(fields().text("c").expect("is fine"), None);
        assert_eq!(fields().whole("d", 0..=9).expect("is fine"), Some(3));
        fields().neutral("g", |value| *value == 0).expect("is fine");
    }
}
