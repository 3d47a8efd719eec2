//! `/healthz`, `/readyz` and `/metrics`: for those who run the server.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use actix_web::HttpResponse;
use actix_web::web;
use serde_json::json;

use crate::assist::Calls;
use crate::assist::counters::BOUNDS_MS;
use crate::assist::counters::Histogram;
use crate::completion::Completer;
use crate::server::auth::Supervisor;
use crate::speech::whisper::Load;
use crate::store::identity::Identity;

/// Says that the process is up.
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "up"}))
}

/// Says whether calls can be served: the database must answer and every base that has a version
/// must be searchable. Without a model drafts and emotions are off and the rest goes on, so that
/// is shown and does not make it unready.
pub(super) async fn readyz(calls: web::Data<Calls>) -> HttpResponse {
    let parts = calls.parts();
    let is_stopping = *calls.stopping().borrow();
    let active = parts.store.active_versions().await;
    if let Err(error) = &active {
        tracing::error!(%error, "database does not answer");
    }
    let is_searchable = active.as_ref().is_ok_and(|versions| {
        versions.iter().all(|version| parts.knowledge.active(&version.tenant, &version.base).is_some())
    });
    let is_ready = is_searchable && !is_stopping;
    let body = json!({
        "status": if is_ready { "ready" } else { "not_ready" },
        "database": active.is_ok(),
        "index": is_searchable,
        "model": has_model(&calls),
        // In this process there is no other bus than its own.
        "bus": !is_stopping,
        "stopping": is_stopping,
    });
    if is_ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// Says whether the engine is there and its thread lives.
pub(super) fn has_model(calls: &Calls) -> bool {
    calls.parts().engine.as_ref().is_some_and(|engine| !engine.load().has_stopped.load(Relaxed))
}

/// What supervisors see of the server at a glance.
pub(super) async fn node(_: Supervisor, calls: web::Data<Calls>) -> HttpResponse {
    let parts = calls.parts();
    let engine = parts.engine.as_ref().map(|engine| {
        let load = engine.load();
        json!({"waiting": load.waiting.load(Relaxed), "running": load.running.load(Relaxed)})
    });
    HttpResponse::Ok().json(json!({
        "live_calls": calls.live(),
        "lag_p95_ms": parts.counters.acknowledged.quantile_ms(0.95),
        "model": has_model(&calls),
        "engine": engine,
        "ready": !*calls.stopping().borrow(),
    }))
}

/// Returns the counters in the text format of Prometheus.
pub(super) async fn metrics(
    _known: Identity,
    calls: web::Data<Calls>,
    completer: web::Data<Option<Completer>>,
) -> HttpResponse {
    let parts = calls.parts();
    let counters = &parts.counters;
    let mut text = String::new();
    gauge(&mut text, "calls_live", "Calls that have an actor.", calls.live());
    gauge(&mut text, "appends_waiting", "Appends that wait for the disk.", parts.store.appends_waiting());
    if let Some(completer) = completer.as_ref() {
        completions(&mut text, completer);
    }
    if let Some(engine) = &parts.engine {
        let load = engine.load();
        gauge(&mut text, "engine_waiting", "Requests that wait for the model.", load.waiting.load(Relaxed));
        gauge(&mut text, "engine_running", "Sequences that the model runs.", load.running.load(Relaxed));
        gauge(&mut text, "adapters", "Tuned forms of the model in memory.", load.adapters.load(Relaxed));
        let help = "Memory that they take beside the model.";
        gauge(&mut text, "adapter_bytes", help, load.adapter_bytes.load(Relaxed));
        gauge(&mut text, "engine_up", "Whether the model answers.", usize::from(has_model(&calls)));
        total(&mut text, "engine_steps_total", "Forward passes.", &load.steps);
        total(&mut text, "engine_rows_total", "Rows computed, prompts included.", &load.rows);
        let help = "Tokens of prompts.";
        total(&mut text, "engine_prompt_tokens_total", help, &load.prompt_tokens);
        let help = "Tokens of prompts that were in the cache.";
        total(&mut text, "engine_reused_tokens_total", help, &load.reused_tokens);
        total(&mut text, "engine_tokens_total", "Tokens unmasked.", &load.tokens);
    }
    gauge(&mut text, "lines", "Carriers' connections that are open.", counters.lines.load(Relaxed));
    if let Some(recogniser) = &parts.speech.recogniser {
        speech(&mut text, &recogniser.load_now());
    }
    let totals: [(&str, &str, &AtomicU64); 13] = [
        ("calls_opened_total", "Calls opened.", &counters.calls_opened),
        ("calls_closed_total", "Calls closed by their sender.", &counters.calls_closed),
        ("calls_interrupted_total", "Calls whose sender did not come back.", &counters.calls_interrupted),
        ("lines_opened_total", "Carriers' connections since the start.", &counters.lines_opened),
        ("wire_errors_total", "Messages of carriers that broke their rules.", &counters.wire_errors),
        ("segments_total", "Final segments logged.", &counters.segments),
        ("segments_repeated_total", "Segments repeated, changing nothing.", &counters.segments_repeated),
        ("refused_total", "Messages refused by name.", &counters.refused),
        ("cards_total", "Cards pushed.", &counters.cards),
        ("emotions_total", "Emotions read.", &counters.emotions),
        ("drafts_done_total", "Drafts finished.", &counters.drafts_done),
        ("drafts_failed_total", "Drafts that failed.", &counters.drafts_failed),
        ("drafts_dropped_total", "Drafts dropped for a newer question.", &counters.drafts_dropped),
    ];
    for (name, help, counter) in totals {
        total(&mut text, name, help, counter);
    }
    let help = "From a final segment's arrival to its acknowledgement.";
    histogram(&mut text, "ack_seconds", help, &counters.acknowledged);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text)
}

fn speech(text: &mut String, load: &Load) {
    gauge(text, "speech_turns_waiting", "Turns that wait for their words.", load.waiting);
    gauge(text, "speech_seconds_waiting", "Seconds of speech that wait.", load.waiting_s as usize);
    gauge(text, "speech_lag_seconds", "How long the oldest turn has waited.", load.oldest.as_secs() as usize);
    let totals = [
        ("speech_turns_total", "Turns recognised.", load.done),
        ("speech_partials_shed_total", "Partial texts not made, for want of time.", load.shed),
        ("speech_turns_refused_total", "Turns not recognised: too much waited.", load.refused),
    ];
    for (name, help, total) in totals {
        head(text, name, help, "counter");
        line(text, format_args!("chatdlm_{name} {total}"));
    }
}

fn completions(text: &mut String, completer: &Completer) {
    gauge(text, "completions_running", "Texts being written for other programs.", completer.running());
    let totals = [
        ("completions_done_total", "Texts written for other programs.", completer.done()),
        (
            "completions_cancelled_total",
            "Texts dropped because nobody waited any more.",
            completer.cancelled(),
        ),
    ];
    for (name, help, total) in totals {
        head(text, name, help, "counter");
        line(text, format_args!("chatdlm_{name} {total}"));
    }
}

fn gauge(text: &mut String, name: &str, help: &str, value: usize) {
    head(text, name, help, "gauge");
    line(text, format_args!("chatdlm_{name} {value}"));
}

fn total(text: &mut String, name: &str, help: &str, counter: &AtomicU64) {
    head(text, name, help, "counter");
    line(text, format_args!("chatdlm_{name} {}", counter.load(Relaxed)));
}

fn histogram(text: &mut String, name: &str, help: &str, histogram: &Histogram) {
    head(text, name, help, "histogram");
    let mut sum = 0;
    for (index, bucket) in histogram.buckets.iter().enumerate() {
        sum += bucket.load(Relaxed);
        match BOUNDS_MS.get(index) {
            Some(&ms) => {
                line(text, format_args!("chatdlm_{name}_bucket{{le=\"{}\"}} {sum}", ms as f64 / 1000.0));
            }
            None => line(text, format_args!("chatdlm_{name}_bucket{{le=\"+Inf\"}} {sum}")),
        }
    }
    let seconds = histogram.sum_us.load(Relaxed) as f64 / 1e6;
    line(text, format_args!("chatdlm_{name}_sum {seconds}"));
    line(text, format_args!("chatdlm_{name}_count {sum}"));
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    line(text, format_args!("# HELP chatdlm_{name} {help}"));
    line(text, format_args!("# TYPE chatdlm_{name} {kind}"));
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{arguments}");
}
