//! `GET /v1/carriers/{carrier}`: calls as carriers send them, and the TCP port of AudioSocket.
//!
//! | carrier | wire |
//! |---|---|
//! | `twilio`, `signalwire`, `telnyx`, `plivo`, `exotel` | Media Streams and what is like it |
//! | `audiohook` | Genesys AudioHook v2 |
//! | `vonage` | Vonage Voice |
//! | `asterisk` | Asterisk's chan_websocket |
//! | `audiofork` | FreeSWITCH's mod_audio_fork, jambonz |
//! | `lca` | Live Call Analytics |
//! | `contact-lens`, `deepgram`, `assemblyai` | segments that others recognised |
//!
//! Where a carrier does not say it, the URL's query does: `call`, `agent`, `customer`, `language`,
//! `knowledge` (with commas), `speaker`, `rate`, `channels`.

pub mod access;
pub mod audiosocket;
mod driver;
pub mod legs;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header::SEC_WEBSOCKET_PROTOCOL;
use actix_web::web;
use actix_web::web::get;
use actix_web::web::post;
use serde::Deserialize;

use crate::assist::Calls;
use crate::assist::counters::Counters;
use crate::assist::counters::count;
use crate::assist::line::Defaults;
use crate::assist::line::Line;
use crate::assist::line::Speech;
use crate::event::Speaker;
use crate::server::auth;
use crate::server::carriers::access::Nonces;
use crate::server::carriers::driver::Connection;
use crate::server::carriers::driver::Driver;
use crate::server::carriers::legs::Legs;
use crate::server::error::ApiError;
use crate::server::only;
use crate::server::socket::Socket;
use crate::speech::whisper::Recogniser;
use crate::store::Store;
use crate::store::identity::Identity;
use crate::telephony::AudioFormat;
use crate::telephony::Channels;
use crate::telephony::Encoding;
use crate::telephony::Opening;
use crate::telephony::Wire;
use crate::telephony::assemblyai::AssemblyAi;
use crate::telephony::audio_fork::AudioFork;
use crate::telephony::audiohook::AudioHook;
use crate::telephony::chan_websocket::ChanWebsocket;
use crate::telephony::contact_lens::ContactLens;
use crate::telephony::deepgram::Deepgram;
use crate::telephony::lca::Lca;
use crate::telephony::twilio::Dialect;
use crate::telephony::twilio::Twilio;
use crate::telephony::vonage::Vonage;

/// The rates that an audio fork may have, in samples a second.
const FORK_RATES_HZ: [u32; 8] = [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000];

/// How carriers are let in, and what is assumed where they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The agent's user name of calls whose carrier names none.
    pub agent: Option<String>,
    /// The knowledge bases of calls whose carrier names none; empty for all.
    pub knowledge: Vec<String>,
    /// Twilio's signatures.
    pub twilio: access::TwilioConfig,
    /// AudioHook's integrations.
    pub audiohook: access::AudioHookConfig,
    /// Asterisk's AudioSocket.
    pub audiosocket: audiosocket::Config,
}

/// What the carriers' connections share.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    /// The calls that a second speaker may join.
    pub legs: Legs,
    /// The AudioSocket calls that were announced.
    pub announced: audiosocket::Announced,
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(only("/v1/carriers/audiosocket/calls", post().to(audiosocket::announce)))
        .service(only("/v1/carriers/{carrier}", get().to(connect)));
}

/// Returns the values of the URL's query.
fn query(request: &HttpRequest) -> HashMap<String, String> {
    web::Query::<HashMap<String, String>>::from_query(request.query_string())
        .map(web::Query::into_inner)
        .unwrap_or_default()
}

/// Who a connection belongs to, and its wire.
struct Admitted {
    tenant: String,
    identity: Option<Identity>,
    wire: Box<dyn Wire>,
    /// Whether the wire has words for what the call says.
    wants_news: bool,
}

/// Answers the handshake of a carrier and serves its connection.
#[allow(clippy::too_many_arguments)]
async fn connect(
    request: HttpRequest,
    payload: web::Payload,
    carrier: web::Path<String>,
    calls: web::Data<Calls>,
    store: web::Data<Store>,
    auth: web::Data<auth::Config>,
    config: web::Data<Config>,
    nonces: web::Data<Nonces>,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, actix_web::Error> {
    if *calls.draining().borrow() {
        return Err(ApiError::Unavailable("the server is stopping".to_owned()).into());
    }
    let admitted = admit(&request, &carrier, &store, &auth, &config, &nonces, &calls.parts().speech).await?;
    let (mut response, socket) = Socket::open(&request, payload, store, admitted.identity).await?;
    // Some carriers want the sub-protocol that they ask for; all of them speak only one.
    if let Some(asked) = request.headers().get(SEC_WEBSOCKET_PROTOCOL)
        && let Some(first) = asked.to_str().ok().and_then(|asked| asked.split(',').next())
        && let Ok(value) = first.trim().parse()
    {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    let line = line(&calls, &config, &admitted.tenant, admitted.wants_news);
    let (connection, legs) = (Connection::Web(Box::new(socket)), shared.legs.clone());
    let driver = Driver::new(connection, admitted.wire, line, admitted.tenant, legs, opening(&request));
    let draining = calls.draining();
    actix_web::rt::spawn(counted(calls.get_ref().clone(), driver.serve(draining, None)));
    Ok(response)
}

/// Returns a line with the configuration's defaults.
fn line(calls: &Calls, config: &Config, tenant: &str, wants_news: bool) -> Line {
    let defaults = Defaults {
        tenant: tenant.to_owned(),
        agent: config.agent.clone(),
        knowledge: config.knowledge.clone(),
    };
    Line::new(calls.clone(), defaults, wants_news)
}

/// Counts a connection while it is served.
async fn counted(calls: Calls, serving: impl Future<Output = ()>) {
    let counters = &calls.parts().counters;
    count(&counters.lines_opened);
    counters.lines.fetch_add(1, Relaxed);
    let _open = OpenLine(Arc::clone(counters));
    serving.await;
}

/// Counts a connection out, however it ends.
struct OpenLine(Arc<Counters>);

impl Drop for OpenLine {
    fn drop(&mut self) {
        self.0.lines.fetch_sub(1, Relaxed);
    }
}

/// Lets a connection in, and makes its wire.
async fn admit(
    request: &HttpRequest,
    carrier: &str,
    store: &Store,
    auth: &auth::Config,
    config: &Config,
    nonces: &Nonces,
    speech: &Speech,
) -> Result<Admitted, ApiError> {
    let signed = |wire: Box<dyn Wire>, wants_news| Admitted {
        tenant: auth.tenant.clone(),
        identity: None,
        wire,
        wants_news,
    };
    if carrier == "audiohook" {
        let session = access::audiohook(request, &config.audiohook, auth, nonces).await?;
        let languages = speech.recogniser.iter().flat_map(Recogniser::languages).map(str::to_owned);
        return Ok(signed(Box::new(AudioHook::new(session).with_languages(languages.collect())), true));
    }
    let has_signature = request.headers().contains_key("x-twilio-signature");
    if carrier == "twilio" && (has_signature && config.twilio.is_signed() || config.twilio.unsigned) {
        access::twilio(request, &config.twilio, auth).await?;
        return Ok(signed(Box::new(Twilio::new(Dialect::Twilio)), false));
    }
    let identity = access::by_key(request, store).await?;
    let values = query(request);
    let speaker = values.get("speaker").map(|speaker| speaker_of(speaker)).transpose()?;
    let one = speaker.unwrap_or(Speaker::Customer);
    let wire: Box<dyn Wire> = match carrier {
        "vonage" => Box::new(Vonage::new(one)),
        "asterisk" => Box::new(ChanWebsocket::new(one)),
        "audiofork" => Box::new(AudioFork::new(fork_format(&values, one)?, values.get("call").cloned())),
        "lca" => Box::new(Lca::new()),
        "contact-lens" => Box::new(ContactLens::new(opening(request))),
        "deepgram" => Box::new(Deepgram::new(opening(request), channels(&values, one)?)),
        "assemblyai" => Box::new(AssemblyAi::new(opening(request), one)),
        other => match other.parse::<Dialect>() {
            Ok(dialect) => Box::new(Twilio::new(dialect)),
            Err(_) => return Err(ApiError::NotFound(format!("carrier {other}"))),
        },
    };
    let wants_news = carrier == "audiofork";
    Ok(Admitted { tenant: identity.tenant.clone(), identity: Some(identity), wire, wants_news })
}

/// Returns what the URL's query says of a call.
fn opening(request: &HttpRequest) -> Opening {
    let mut values = query(request);
    let knowledge = values.remove("knowledge").unwrap_or_default();
    Opening {
        call: values.remove("call").unwrap_or_default(),
        agent: values.remove("agent"),
        customer: values.remove("customer"),
        language: values.remove("language"),
        knowledge: knowledge.split(',').filter(|base| !base.is_empty()).map(str::to_owned).collect(),
        ..Opening::default()
    }
}

fn speaker_of(text: &str) -> Result<Speaker, ApiError> {
    match text {
        "customer" => Ok(Speaker::Customer),
        "agent" => Ok(Speaker::Agent),
        other => Err(ApiError::invalid("speaker", format!("{other:?} is neither customer nor agent"))),
    }
}

/// Returns who is heard in which channel: the customer first.
fn channels(values: &HashMap<String, String>, one: Speaker) -> Result<Channels, ApiError> {
    let other = if one == Speaker::Customer { Speaker::Agent } else { Speaker::Customer };
    match values.get("channels").map_or("1", String::as_str) {
        "1" => Ok(Channels::One(one)),
        "2" => Ok(Channels::Two(one, other)),
        many => Err(ApiError::invalid("channels", format!("{many:?} is neither 1 nor 2"))),
    }
}

fn fork_format(values: &HashMap<String, String>, one: Speaker) -> Result<AudioFormat, ApiError> {
    let rate = values.get("rate").map_or("8000", String::as_str);
    let rate_hz = rate.parse().ok().filter(|rate| FORK_RATES_HZ.contains(rate));
    let rate_hz =
        rate_hz.ok_or_else(|| ApiError::invalid("rate", format!("{rate:?} is none of {FORK_RATES_HZ:?}")))?;
    Ok(AudioFormat { encoding: Encoding::Linear16, rate_hz, channels: channels(values, one)? })
}
