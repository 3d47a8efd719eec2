//! The websocket of Vonage's Voice API.
//!
//! One text `websocket:connected` with the form of the audio and the headers of whoever set up the
//! leg, then binary messages of linear samples; key presses and notices are texts. One leg is one
//! socket, so a call with both voices has two. Source: developer.vonage.com, "WebSockets in the
//! Vonage Voice API".

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::event::Speaker;
use crate::telephony::AudioFormat;
use crate::telephony::Channels;
use crate::telephony::Encoding;
use crate::telephony::Frame;
use crate::telephony::Happening;
use crate::telephony::Heard;
use crate::telephony::Message;
use crate::telephony::News;
use crate::telephony::Opening;
use crate::telephony::Wire;
use crate::telephony::WireError;
use crate::telephony::mistakes::Mistakes;
use crate::telephony::parameters::Parameters;

/// The longest id of a call, in bytes.
const ID_MAX_BYTES: usize = 256;
/// The headers that may name the call, the first that is there counts.
const CALL_HEADERS: [&str; 5] = ["call", "conversation_uuid", "conversation_id", "conversation", "uuid"];
/// What `websocket:connected` says besides the headers.
const OWN_FIELDS: [&str; 3] = ["event", "content-type", "speaker"];

/// One leg. Keeps its format and at most one byte: half a sample.
#[derive(Debug)]
pub struct Vonage {
    speaker: Speaker,
    /// The form of the leg's audio, once it is connected.
    format: Option<AudioFormat>,
    half_sample: Option<u8>,
    mistakes: Mistakes,
}

impl Vonage {
    /// Returns a leg of `speaker`, unless its headers name the other, that is not connected.
    pub fn new(speaker: Speaker) -> Vonage {
        Vonage { speaker, format: None, half_sample: None, mistakes: Mistakes::default() }
    }

    fn read(&mut self, text: &str) -> Result<Heard, WireError> {
        Message::Text(text).check_size()?;
        let Ok(fields) = serde_json::from_str::<Map<String, Value>>(text) else {
            return Err(WireError::Malformed("not an object of JSON".to_owned()));
        };
        let Some(event) = fields.get("event").and_then(Value::as_str) else {
            return Err(WireError::Malformed("the field event is missing".to_owned()));
        };
        match (event.strip_prefix("websocket:").unwrap_or(event), self.format) {
            ("connected", None) => self.connect(&fields),
            ("connected", Some(_)) => Err(WireError::OutOfPlace("connected".to_owned())),
            // The key stands in one of two places; neither is read.
            ("dtmf", Some(_)) => Ok(Happening::Key.into()),
            ("dtmf", None) => Err(WireError::TooEarly("a key")),
            ("cleared" | "notify", Some(_)) => Ok(Heard::default()),
            ("cleared" | "notify", None) => Err(WireError::TooEarly("a notice")),
            _ => {
                let shown: String = event.chars().take(40).collect();
                Err(WireError::Malformed(format!("unknown event {shown:?}")))
            }
        }
    }

    fn connect(&mut self, fields: &Map<String, Value>) -> Result<Heard, WireError> {
        let speaker = match fields.get("speaker").map(|speaker| speaker.as_str().unwrap_or_default().trim()) {
            None => self.speaker,
            Some("customer") => Speaker::Customer,
            Some("agent") => Speaker::Agent,
            Some(_) => return Err(WireError::Malformed("speaker must be customer or agent".to_owned())),
        };
        let content_type = fields.get("content-type").and_then(Value::as_str).unwrap_or_default();
        let Some(rate_hz) = rate_hz(content_type) else {
            let shown: String = content_type.chars().take(40).collect();
            return Err(WireError::UnknownAudio(format!("content-type {shown:?}")));
        };
        let (name, call) = call(fields)?;
        let mut parameters = Parameters::default();
        for (header, value) in fields {
            if !OWN_FIELDS.contains(&header.as_str()) && header != name {
                parameters.add(header, value);
            }
        }
        let mut metadata = Map::new();
        metadata.insert("carrier".to_owned(), json!("vonage"));
        if !parameters.rest.is_empty() {
            metadata.insert("parameters".to_owned(), Value::Object(parameters.rest));
        }
        self.format =
            Some(AudioFormat { encoding: Encoding::Linear16, rate_hz, channels: Channels::One(speaker) });
        let opening = Opening {
            call: call.to_owned(),
            agent: parameters.agent,
            customer: parameters.customer,
            language: parameters.language,
            knowledge: parameters.knowledge,
            speaker: Some(speaker),
            metadata: Value::Object(metadata),
            ..Opening::default()
        };
        Ok(Happening::Opened(opening).into())
    }

    fn listen(&mut self, received: &[u8]) -> Result<Heard, WireError> {
        let Some(format) = self.format else { return Err(WireError::TooEarly("audio")) };
        // At most 24,000 samples of two bytes.
        let limit = format.rate_hz as usize * format.frame_bytes();
        if received.len() > limit {
            return Err(WireError::TooLarge { bytes: received.len(), limit });
        }
        let mut bytes = Vec::with_capacity(received.len() + 1);
        bytes.extend(self.half_sample.take());
        bytes.extend_from_slice(received);
        if !bytes.len().is_multiple_of(format.frame_bytes()) {
            self.half_sample = bytes.pop();
        }
        if bytes.is_empty() {
            return Ok(Heard::default());
        }
        Ok(Happening::Audio { format, bytes }.into())
    }
}

impl Wire for Vonage {
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(bytes) => self.listen(bytes),
        };
        self.mistakes.note(&heard);
        heard
    }

    fn hangs_up_by_closing(&self) -> bool {
        true
    }

    /// Returns nothing: what can be sent is audio to play, and notices that come back.
    fn tell(&mut self, _news: News<'_>) -> Vec<Frame> {
        Vec::new()
    }

    /// Returns the end of the connection when there is no use in hearing on; nothing else, for there are no
    /// words for mistakes.
    fn refusal(&mut self, error: &WireError) -> Vec<Frame> {
        self.mistakes.refusal(error, false)
    }
}

/// Returns the header that names the call and the name; both empty where none does.
fn call(fields: &Map<String, Value>) -> Result<(&'static str, &str), WireError> {
    for header in CALL_HEADERS {
        match fields.get(header).and_then(Value::as_str).map(str::trim) {
            None | Some("") => {}
            Some(call) if call.len() > ID_MAX_BYTES => {
                let bytes = call.len();
                return Err(WireError::Malformed(format!(
                    "{header} has {bytes} bytes, {ID_MAX_BYTES} are allowed"
                )));
            }
            Some(call) => return Ok((header, call)),
        }
    }
    Ok(("", ""))
}

/// Returns the samples in a second of `audio/l16;rate=16000`; none where the form is not taken.
fn rate_hz(content_type: &str) -> Option<u32> {
    let (kind, rate) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("audio/l16") {
        return None;
    }
    match rate.trim().strip_prefix("rate=")?.trim() {
        "8000" => Some(8000),
        "16000" => Some(16_000),
        "24000" => Some(24_000),
        _ => None,
    }
}

/// Returns the first message of a leg with these headers, as Vonage sends it.
pub fn connected(rate_hz: u32, headers: &[(&str, &str)]) -> String {
    let mut fields = Map::new();
    fields.insert("event".to_owned(), json!("websocket:connected"));
    fields.insert("content-type".to_owned(), json!(format!("audio/l16;rate={rate_hz}")));
    for (name, value) in headers {
        fields.insert((*name).to_owned(), json!(value));
    }
    Value::Object(fields).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telephony::MESSAGE_MAX_BYTES;
    use crate::telephony::mistakes::BAD_IN_A_ROW_MAX;

    fn begun(rate_hz: u32) -> Vonage {
        let mut leg = Vonage::new(Speaker::Customer);
        leg.hear(Message::Text(&connected(rate_hz, &[("call", "c-1")]))).unwrap();
        leg
    }

    fn audio(heard: Result<Heard, WireError>) -> Vec<u8> {
        let mut all = Vec::new();
        for happening in heard.unwrap().happenings {
            if let Happening::Audio { bytes, .. } = happening {
                all.extend(bytes);
            }
        }
        all
    }

    fn code(leg: &mut Vonage, message: Message<'_>) -> &'static str {
        leg.hear(message).unwrap_err().code()
    }

    #[test]
    fn a_leg_connects_with_its_headers() {
        let mut leg = Vonage::new(Speaker::Customer);
        let headers = [
            ("uuid", "u-1"),
            ("conversation_uuid", "CON-1"),
            ("agent", "ann"),
            ("customer", "bob"),
            ("language", "de"),
            ("knowledge", "a,b"),
            ("speaker", "agent"),
            ("queue", "7"),
            ("jwt", "s3cret"),
        ];
        let heard = leg.hear(Message::Text(&connected(16_000, &headers))).unwrap();
        let expected = Opening {
            is_chat: false,
            call: "CON-1".to_owned(),
            agent: Some("ann".to_owned()),
            customer: Some("bob".to_owned()),
            language: Some("de".to_owned()),
            knowledge: vec!["a".to_owned(), "b".to_owned()],
            speaker: Some(Speaker::Agent),
            metadata: json!({"carrier": "vonage", "parameters": {"uuid": "u-1", "queue": "7"}}),
        };
        assert_eq!(heard, Happening::Opened(expected).into());
        let heard = leg.hear(Message::Binary(&[1; 640])).unwrap();
        let channels = Channels::One(Speaker::Agent);
        let format = AudioFormat { encoding: Encoding::Linear16, rate_hz: 16_000, channels };
        assert_eq!(heard, Happening::Audio { format, bytes: vec![1; 640] }.into());
    }

    #[test]
    fn keys_and_notices_tell_nothing() {
        let mut leg = begun(8000);
        for text in [
            r#"{"event":"websocket:dtmf","digit":"5","duration":260}"#,
            r#"{"event":"websocket:dtmf","dtmf":{"digit":"5"}}"#,
        ] {
            assert_eq!(leg.hear(Message::Text(text)), Ok(Happening::Key.into()));
        }
        for text in [r#"{"event":"websocket:cleared"}"#, r#"{"event":"websocket:notify","payload":{"a":1}}"#]
        {
            assert_eq!(leg.hear(Message::Text(text)), Ok(Heard::default()));
        }
        for news in [News::Opened, News::Refused("no"), News::Draining, News::Finished] {
            assert_eq!(leg.tell(news), []);
        }
    }

    #[test]
    fn half_a_sample_waits_for_the_other_half() {
        let mut leg = begun(8000);
        assert_eq!(audio(leg.hear(Message::Binary(&[1, 2, 3]))), [1, 2]);
        assert_eq!(audio(leg.hear(Message::Binary(&[]))), b"");
        assert_eq!(audio(leg.hear(Message::Binary(&[4]))), [3, 4]);
        assert_eq!(audio(leg.hear(Message::Binary(&[5]))), b"");
        assert_eq!(audio(leg.hear(Message::Binary(&[6, 7, 8]))), [5, 6, 7, 8]);
    }

    #[test]
    fn every_bad_message_is_named() {
        let mut leg = Vonage::new(Speaker::Customer);
        assert_eq!(code(&mut leg, Message::Binary(&[0; 320])), "too_early");
        assert_eq!(code(&mut leg, Message::Text(r#"{"event":"websocket:dtmf"}"#)), "too_early");
        assert_eq!(code(&mut leg, Message::Text(&connected(44_100, &[]))), "unknown_audio");
        assert_eq!(code(&mut leg, Message::Text(r#"{"event":"websocket:connected"}"#)), "unknown_audio");
        assert_eq!(code(&mut leg, Message::Text(&connected(8000, &[("speaker", "dog")]))), "malformed");
        let error = leg.hear(Message::Text("hello")).unwrap_err();
        assert_eq!(leg.refusal(&error), [Frame::Close(1003, "malformed".to_owned())]);
        let spaced = r#"{"event":"websocket:connected","content-type":"Audio/L16; rate=24000"}"#;
        let heard = leg.hear(Message::Text(spaced)).unwrap();
        assert!(matches!(&heard.happenings[..], [Happening::Opened(opening)] if opening.call.is_empty()));
        assert_eq!(code(&mut leg, Message::Text(spaced)), "out_of_place");
        assert_eq!(code(&mut leg, Message::Text(r#"{"event":"websocket:dance"}"#)), "malformed");
        assert_eq!(code(&mut leg, Message::Text(r#"["event"]"#)), "malformed");
        assert_eq!(code(&mut leg, Message::Binary(&[0; 48_001])), "message_too_large");
        assert_eq!(code(&mut leg, Message::Text(&" ".repeat(MESSAGE_MAX_BYTES + 1))), "message_too_large");
        assert_eq!(leg.refusal(&error), []);
        assert_eq!(audio(leg.hear(Message::Binary(&[0; 48_000]))).len(), 48_000);
        for _ in 0..BAD_IN_A_ROW_MAX {
            code(&mut leg, Message::Text("{"));
        }
        assert!(matches!(leg.refusal(&error)[..], [Frame::Close(1008, _)]));
    }

    proptest! {
        #[test]
        fn no_messages_break_the_leg(
            before in prop::collection::vec(".{0,80}", 0..10),
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..20),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut leg = Vonage::new(Speaker::Customer);
            for text in &before {
                prop_assert!(leg.hear(Message::Text(text)).is_err());
            }
            let valid = connected(8000, &[("call", "c-1"), ("agent", "ann")]);
            let mut mutated = valid.clone().into_bytes();
            let at = at.index(mutated.len());
            mutated[at] = byte;
            let is_connected = leg.hear(Message::Text(&String::from_utf8_lossy(&mutated))).is_ok();
            prop_assert_eq!(leg.hear(Message::Text(&valid)).is_ok(), !is_connected);
            let mut heard = Vec::new();
            for piece in &pieces {
                let bytes = audio(leg.hear(Message::Binary(piece)));
                prop_assert!(bytes.len().is_multiple_of(2));
                heard.extend(bytes);
                let refused = leg.hear(Message::Text("{"));
                prop_assert!(refused.is_err());
            }
            heard.extend(leg.half_sample);
            prop_assert_eq!(heard, pieces.concat());
        }
    }
}
