//! What an `open` message says about the call, and what the integration's administrator wrote for it.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Session;
use super::message;
use super::message::Open;
use crate::event::Speaker;
use crate::telephony::Opening;
use crate::telephony::WireError;

/// The longest name that is passed on, in bytes.
const NAME_MAX_BYTES: usize = 200;
/// The most knowledge bases that `customConfig` may name.
const BASES_MAX: usize = 32;

/// Returns the call that a message opens, for a connection of one speaker or, without one, of both.
pub(super) fn opening(
    session: &Session,
    open: Open,
    config: CustomConfig,
    speaker: Option<Speaker>,
) -> Opening {
    let party = &open.participant;
    let names = [&party.ani_name, &party.ani];
    let customer = names.into_iter().map(|name| cut(name.trim())).find(|name| !name.is_empty());
    let mut metadata = json!({
        "organization": open.organization_id,
        "session": cut(&session.id),
        "correlation": cut(&session.correlation),
        "participant": party.id,
        "dnis": cut(&party.dnis),
    });
    if let Some(sessions) = open.continued_sessions.filter(|sessions| !sessions.is_empty()) {
        metadata["continued_sessions"] = sessions
            .iter()
            .map(|one| json!({"id": one.id, "serverseq": one.serverseq, "clientseq": one.clientseq}))
            .collect();
    }
    Opening {
        call: open.conversation_id,
        agent: config.agent,
        customer: customer.map(str::to_owned),
        language: open.language,
        knowledge: config.knowledge,
        is_chat: false,
        speaker,
        metadata,
    }
}

/// What the integration's administrator wrote into `customConfig`; other fields are somebody else's.
#[derive(Debug, Default)]
pub(super) struct CustomConfig {
    agent: Option<String>,
    knowledge: Vec<String>,
    pub partials: bool,
    pub agent_assist: bool,
}

impl CustomConfig {
    /// A wrong form is refused: a call that quietly lacks what was configured would be found out too late.
    pub fn read(config: Option<&Map<String, Value>>) -> Result<CustomConfig, WireError> {
        let field = |name: &str| config.and_then(|config| config.get(name)).filter(|value| !value.is_null());
        let switch = |name: &str| match field(name) {
            None => Ok(false),
            Some(Value::Bool(is_on)) => Ok(*is_on),
            Some(_) => Err(message::malformed(&format!("customConfig.{name} must be true or false"))),
        };
        let agent = match field("agent") {
            None => None,
            Some(Value::String(agent)) if is_name(agent) => Some(agent.clone()),
            Some(_) => return Err(message::malformed("customConfig.agent must be a name")),
        };
        let knowledge = match field("knowledge") {
            None => Some(Vec::new()),
            Some(Value::Array(bases)) if bases.len() <= BASES_MAX => bases
                .iter()
                .map(|base| base.as_str().filter(|base| is_name(base)).map(str::to_owned))
                .collect(),
            Some(_) => None,
        };
        let knowledge = knowledge.ok_or_else(|| {
            message::malformed(&format!("customConfig.knowledge must be a list of at most {BASES_MAX} names"))
        })?;
        Ok(CustomConfig {
            agent,
            knowledge,
            partials: switch("partials")?,
            agent_assist: switch("agentassist")?,
        })
    }
}

fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= NAME_MAX_BYTES
}

/// Returns as much of a text as a name may have.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_MAX_BYTES)]
}
