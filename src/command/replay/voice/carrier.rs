//! One recording over one carrier's wire: opens the call, sends at the pace of speech, closes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio::time::sleep_until;
use tokio::time::timeout;

use crate::command::replay::socket::Heard;
use crate::command::replay::socket::Server;
use crate::command::replay::socket::Socket;
use crate::command::replay::voice::Carrier;
use crate::command::replay::voice::Tally;
use crate::command::replay::voice::VoiceArgs;
use crate::command::replay::voice::recording::RATE_HZ;
use crate::command::replay::voice::recording::Recording;
use crate::speech::audio;
use crate::telephony::audiohook;
use crate::telephony::audiohook::client::Client;
use crate::telephony::audiohook::client::EntitySaid;
use crate::telephony::audiohook::client::ServerSays;
use crate::telephony::audiohook::message::CloseReason;
use crate::telephony::audiohook::message::Media;
use crate::telephony::audiohook::message::Open;
use crate::telephony::audiohook::message::Participant;
use crate::telephony::audiohook::signature;
use crate::telephony::audiosocket;
use crate::telephony::twilio;
use crate::telephony::vonage;

/// The length of a frame, in milliseconds: AudioHook's clients send longer ones.
const FRAME_MS: u64 = 20;
const AUDIOHOOK_FRAME_MS: u64 = 200;
/// How often an AudioHook client pings, and how long it waits for answers.
const PING_EVERY: Duration = Duration::from_secs(5);
const OPEN_WITHIN: Duration = Duration::from_secs(5);
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long a signature lives, in seconds.
const SIGNED_FOR_S: u64 = 30;
/// The organization that every replayed AudioHook session belongs to.
const ORGANIZATION: &str = "d7934305-0972-4844-938e-9060eef73d05";

/// One call to send.
pub(super) struct Session {
    pub server: Server,
    /// The server's URL.
    pub address: String,
    pub key: String,
    pub call: String,
    pub agent: String,
    pub knowledge: Vec<String>,
    pub recording: Arc<Recording>,
    pub length_ms: u64,
    pub speed: f64,
    pub voice: VoiceArgs,
    pub tally: Arc<Tally>,
}

impl Session {
    /// Sends all of it.
    pub async fn play(&self, carrier: Carrier) -> anyhow::Result<()> {
        match carrier {
            Carrier::Twilio => self.twilio().await?,
            Carrier::Audiohook => self.audiohook().await?,
            Carrier::Vonage => {
                let legs = (0..self.recording.channels.len()).map(|channel| self.vonage(channel));
                futures_util::future::try_join_all(legs).await?;
            }
            Carrier::Audiosocket => {
                let legs = (0..self.recording.channels.len()).map(|channel| self.audiosocket(channel));
                futures_util::future::try_join_all(legs).await?;
            }
        }
        self.tally.closed();
        Ok(())
    }

    /// Returns who is heard in a channel.
    fn speaker(&self, channel: usize) -> &'static str {
        if (channel == 0) == self.voice.agent_first { "agent" } else { "customer" }
    }

    /// Returns when the frame at this position is due.
    fn due(&self, started: Instant, at_ms: u64) -> Instant {
        started + Duration::from_secs_f64(at_ms as f64 / 1_000.0 / self.speed)
    }

    /// Returns the position of a time, in samples.
    fn at(ms: u64) -> u64 {
        ms * u64::from(RATE_HZ) / 1_000
    }

    /// Waits until the frame of a channel at this position has been spoken, and returns it as 16-bit samples.
    async fn next_linear(&self, channel: usize, started: Instant, at_ms: u64) -> Vec<u8> {
        let due = self.due(started, at_ms + FRAME_MS);
        sleep_until(due).await;
        self.tally.sent(FRAME_MS, due.elapsed());
        self.recording.linear(channel, Self::at(at_ms), Self::at(FRAME_MS) as usize)
    }

    async fn twilio(&self) -> anyhow::Result<()> {
        let path = "/v1/carriers/twilio";
        let mut headers = Vec::new();
        match &self.voice.secret {
            Some(token) => {
                let url = format!("wss://{}{path}", self.server.authority());
                headers.push(("X-Twilio-Signature", twilio::signature::sign(token, &url)));
            }
            None => headers.push(("Authorization", format!("Bearer {}", self.key))),
        }
        let mut socket = self.server.connect_with(path, &headers).await?;
        let stream = format!("MZ{}", self.call);
        let tracks: Vec<&str> = (0..self.recording.channels.len()).map(|c| self.track(c)).collect();
        let knowledge = self.knowledge.join(",");
        let mut parameters = vec![("agent", self.agent.as_str())];
        if !knowledge.is_empty() {
            parameters.push(("knowledge", &knowledge));
        }
        socket.send_text(twilio::connected()).await?;
        socket.send_text(twilio::start(&self.call, &stream, &tracks, &parameters)).await?;
        self.tally.opened();
        let (mut sequence, started) = (2, Instant::now());
        for (chunk, at_ms) in (0..self.length_ms).step_by(FRAME_MS as usize).enumerate() {
            let due = self.due(started, at_ms + FRAME_MS);
            sleep_until(due).await;
            for (channel, track) in tracks.iter().enumerate() {
                let samples = self.recording.samples(channel, Self::at(at_ms), Self::at(FRAME_MS) as usize);
                let bytes = audio::to_mulaw(&samples);
                let chunk = chunk as u64 + 1;
                socket.send_text(twilio::media(sequence, &stream, track, chunk, at_ms, &bytes)).await?;
                sequence += 1;
            }
            self.tally.sent(FRAME_MS, due.elapsed());
        }
        socket.send_text(twilio::stop(sequence, &self.call, &stream)).await?;
        self.until_closed(socket).await
    }

    fn track(&self, channel: usize) -> &'static str {
        if self.speaker(channel) == "agent" { "outbound" } else { "inbound" }
    }

    async fn vonage(&self, channel: usize) -> anyhow::Result<()> {
        let mut socket = self.server.connect("/v1/carriers/vonage", &self.key).await?;
        let knowledge = self.knowledge.join(",");
        let mut headers =
            vec![("call", self.call.as_str()), ("agent", &self.agent), ("speaker", self.speaker(channel))];
        if !knowledge.is_empty() {
            headers.push(("knowledge", &knowledge));
        }
        socket.send_text(vonage::connected(RATE_HZ, &headers)).await?;
        self.tally.opened();
        let started = Instant::now();
        for at_ms in (0..self.length_ms).step_by(FRAME_MS as usize) {
            socket.send_binary(self.next_linear(channel, started, at_ms).await).await?;
        }
        // Vonage has no word for the end: the leg hangs up.
        socket.close().await;
        Ok(())
    }

    async fn audiosocket(&self, channel: usize) -> anyhow::Result<()> {
        let announcement = json!({
            "call": self.call, "agent": self.agent, "knowledge": self.knowledge,
            "speaker": self.speaker(channel),
        });
        let url = format!("{}/v1/carriers/audiosocket/calls", self.address.trim_end_matches('/'));
        let key = format!("Bearer {}", self.key);
        let announcing = tokio::task::spawn_blocking(move || {
            let request =
                ureq::post(&url).header("Authorization", &key).header("Content-Type", "application/json");
            anyhow::Ok(request.send(announcement.to_string())?.body_mut().read_to_string()?)
        });
        let answer: Value = serde_json::from_str(&announcing.await??)?;
        let id = answer["uuid"].as_str().and_then(audiosocket::parse_uuid);
        let id = id.context("the server answers without a UUID")?;
        let address = &self.voice.audiosocket;
        let connecting = TcpStream::connect(address.as_str()).await;
        let mut stream = connecting.with_context(|| format!("cannot connect to AudioSocket at {address}"))?;
        stream.set_nodelay(true)?;
        stream.write_all(&audiosocket::uuid(id)).await?;
        self.tally.opened();
        let started = Instant::now();
        for at_ms in (0..self.length_ms).step_by(FRAME_MS as usize) {
            let bytes = self.next_linear(channel, started, at_ms).await;
            stream.write_all(&audiosocket::audio(RATE_HZ, &bytes)).await?;
        }
        stream.write_all(&audiosocket::hangup()).await?;
        // The server hangs up too, when what was said last is on disk.
        let mut rest = Vec::new();
        timeout(CLOSE_WITHIN, stream.read_to_end(&mut rest))
            .await
            .context("the server does not hang up")??;
        Ok(())
    }

    async fn audiohook(&self) -> anyhow::Result<()> {
        let session = audiohook::Session {
            id: drawn_uuid(),
            organization: ORGANIZATION.to_owned(),
            correlation: drawn_uuid(),
        };
        let mut socket = self.server.connect_with(AUDIOHOOK_PATH, &self.audiohook_headers(&session)?).await?;
        let mut client = Client::new(session);
        let open = client.open(self.audiohook_open());
        socket.send_text(open).await?;
        let says =
            timeout(OPEN_WITHIN, next(&mut socket, &mut client)).await.context("`open` has no answer")??;
        anyhow::ensure!(matches!(says, ServerSays::Opened { .. }), "`open` was answered by {says:?}");
        self.tally.opened();
        let started = Instant::now();
        let (mut at_ms, mut ping_due) = (0, started + Duration::from_secs(1));
        let mut pinged: Option<(u64, Instant)> = None;
        let mut round_trip = None;
        let samples = Self::at(AUDIOHOOK_FRAME_MS) as usize;
        while at_ms < self.length_ms {
            let due = self.due(started, at_ms + AUDIOHOOK_FRAME_MS);
            tokio::select! {
                says = next(&mut socket, &mut client) => match says? {
                    ServerSays::Pong(number) => {
                        let (asked, since) = pinged.take().context("a pong without a ping")?;
                        anyhow::ensure!(number == asked, "ping {asked} was answered as {number}");
                        self.tally.round_trip(since.elapsed());
                        round_trip = Some(since.elapsed().as_micros() as u64);
                    }
                    says => self.hear(&says)?,
                },
                () = sleep_until(ping_due) => {
                    anyhow::ensure!(pinged.is_none(), "no pong before the next ping was due");
                    ping_due += PING_EVERY;
                    let ping = client.ping(round_trip);
                    pinged = Some((client.sequence(), Instant::now()));
                    socket.send_text(ping).await?;
                }
                () = sleep_until(due) => {
                    let bytes = self.audiohook_frame(at_ms, samples);
                    client.audio_sent(bytes.len());
                    socket.send_binary(bytes).await?;
                    self.tally.sent(AUDIOHOOK_FRAME_MS, due.elapsed());
                    at_ms += AUDIOHOOK_FRAME_MS;
                }
            }
        }
        let close = client.close(CloseReason::End);
        socket.send_text(close).await?;
        let closing = async {
            loop {
                match next(&mut socket, &mut client).await? {
                    ServerSays::Closed => return anyhow::Ok(()),
                    ServerSays::Pong(_) => {}
                    says => self.hear(&says)?,
                }
            }
        };
        timeout(CLOSE_WITHIN, closing).await.context("`close` has no answer")??;
        socket.close().await;
        Ok(())
    }

    /// Returns a frame with the customer's channel first.
    fn audiohook_frame(&self, at_ms: u64, samples: usize) -> Vec<u8> {
        let bytes = self.recording.mulaw(Self::at(at_ms), samples);
        if self.voice.agent_first && self.recording.channels.len() == 2 {
            return bytes.chunks_exact(2).flat_map(|pair| [pair[1], pair[0]]).collect();
        }
        bytes
    }

    fn audiohook_open(&self) -> Open {
        let channels: &[&str] = match self.recording.channels.len() {
            2 => &["external", "internal"],
            _ => &[if self.voice.agent_first { "internal" } else { "external" }],
        };
        let mut config = Map::new();
        config.insert("agent".to_owned(), json!(self.agent));
        if !self.knowledge.is_empty() {
            config.insert("knowledge".to_owned(), json!(self.knowledge));
        }
        Open {
            conversation_id: drawn_uuid(),
            participant: Participant { id: drawn_uuid(), ..Participant::default() },
            media: vec![Media::new("PCMU", channels)],
            custom_config: Some(config),
            ..Open::default()
        }
    }

    fn audiohook_headers(&self, session: &audiohook::Session) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut headers = vec![
            ("Audiohook-Organization-Id", session.organization.clone()),
            ("Audiohook-Session-Id", session.id.clone()),
            ("Audiohook-Correlation-Id", session.correlation.clone()),
            ("X-API-KEY", self.key.clone()),
        ];
        let Some(secret) = &self.voice.secret else { return Ok(headers) };
        let secret = STANDARD.decode(secret).context("--secret is not base64")?;
        let named: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let authority = self.server.authority();
        let request = signature::Request { target: AUDIOHOOK_PATH, authority, headers: &named };
        let created = u64::try_from(chrono::Utc::now().timestamp())?;
        let nonce = STANDARD.encode(rand::random::<[u8; 32]>());
        let key = signature::SigningKey {
            key_id: &self.key,
            secret: &secret,
            nonce: &nonce,
            created,
            expires: created + SIGNED_FOR_S,
        };
        let signed = signature::sign(&request, &key)?;
        headers.push(("Signature-Input", signed.signature_input));
        headers.push(("Signature", signed.signature));
        Ok(headers)
    }

    fn hear(&self, says: &ServerSays) -> anyhow::Result<()> {
        match says {
            ServerSays::Event(entities) => {
                for entity in entities {
                    if matches!(entity, EntitySaid::Transcript(said) if said.is_final) {
                        self.tally.transcript();
                    }
                }
                Ok(())
            }
            ServerSays::Disconnect { reason, info } => {
                anyhow::bail!("the server disconnects: {reason} {}", info.as_deref().unwrap_or_default())
            }
            ServerSays::Reconnect { .. } => anyhow::bail!("the server goes down"),
            ServerSays::Updated | ServerSays::Pause | ServerSays::Resume => Ok(()),
            says => anyhow::bail!("the server says what it may not now: {says:?}"),
        }
    }

    /// Waits until the server closes in good order.
    async fn until_closed(&self, mut socket: Socket) -> anyhow::Result<()> {
        let closing = async {
            while let Some(heard) = socket.hear().await? {
                anyhow::ensure!(!matches!(heard, Heard::Text(_)), "the server says what Twilio cannot hear");
            }
            anyhow::Ok(())
        };
        timeout(CLOSE_WITHIN, closing).await.context("the server does not close")?
    }
}

const AUDIOHOOK_PATH: &str = "/v1/carriers/audiohook";

/// Returns the next thing that the server says. May be dropped while it waits: nothing is lost.
async fn next(socket: &mut Socket, client: &mut Client) -> anyhow::Result<ServerSays> {
    match socket.hear().await? {
        Some(Heard::Text(text)) => Ok(client.read(&text)?),
        Some(Heard::Binary(_)) => anyhow::bail!("the server sends audio, which a monitor may not"),
        None => anyhow::bail!("the server closed before the session was over"),
    }
}

/// Draws a UUID, as text.
fn drawn_uuid() -> String {
    audiosocket::uuid_text(&audiosocket::drawn_uuid())
}
