//! AudioHook messages: what is read, what is refused by name, which form of audio is chosen.

use super::*;

#[test]
fn durations_are_read_and_written() {
    for (text, us) in [
        ("PT0S", Some(0)),
        ("PT12.34S", Some(12_340_000)),
        ("PT.5S", Some(500_000)),
        ("PT1.123456789S", Some(1_123_456)),
        ("PT007S", Some(7_000_000)),
        ("PT999999999S", Some(999_999_999_000_000)),
        ("PT1000000000S", None),
        ("PTS", None),
        ("PT1.S", None),
        ("PT.S", None),
        ("PT-1S", None),
        ("PT+1S", None),
        ("PT1e3S", None),
        ("PT1M", None),
        ("1S", None),
        ("", None),
    ] {
        assert_eq!(duration_us(text), us, "{text}");
    }
    for us in [0, 1, 125, 200_000, 12_340_000, 1_000_001] {
        assert_eq!(duration_us(&duration_text(us)), Some(us));
    }
    assert_eq!(duration_text(12_340_000), "PT12.34S");
}

#[test]
fn both_speakers_are_chosen_before_one_and_other_rates_never() {
    let stereo = Media::new("PCMU", &["external", "internal"]);
    let turned = Media::new("L16", &["internal", "external"]);
    let mono = Media::new("PCMU", &["internal"]);
    let mut fast = Media::new("L16", &["external", "internal"]);
    fast.rate = 16_000;
    let linear = Media::new("L16", &["external", "internal"]);
    let chosen = |offers: &[&Media]| {
        let offers: Vec<Media> = offers.iter().map(|&offer| offer.clone()).collect();
        choose(&offers).map(|(offer, _)| offer.clone())
    };
    assert_eq!(chosen(&[&mono, &turned, &fast, &linear, &stereo]), Some(linear.clone()));
    assert_eq!(chosen(&[&stereo, &linear]), Some(stereo));
    assert_eq!(chosen(&[&mono, &turned]), Some(turned));
    assert_eq!(chosen(&[&fast, &mono]), Some(mono));
    assert_eq!(chosen(&[&fast, &Media::new("OPUS", &["external"])]), None);
    assert_eq!(chosen(&[&Media::new("PCMU", &["external", "external"]), &Media::new("PCMU", &[])]), None);
}

#[test]
fn an_error_names_the_field_and_not_what_was_in_it() {
    let secret = "4111 1111 1111 1111";
    let envelope = |seq: &str, parameters: &str| {
        format!(
            r#"{{"version":"2","id":"x","type":"update","seq":{seq},"serverseq":0,"position":"PT0S","parameters":{parameters}}}"#
        )
    };
    let quoted = format!("\"{secret}\"");
    let bad_number = ClientEnvelope::read(&envelope(&quoted, "{}")).unwrap_err().to_string();
    assert!(!bad_number.contains("4111"), "{bad_number}");
    let parameters = format!(r#"{{"language":["{secret}"]}}"#);
    let bad_field = ClientEnvelope::read(&envelope("1", &parameters)).unwrap().says().unwrap_err();
    assert!(!bad_field.to_string().contains("4111"), "{bad_field}");
    let missing = ClientEnvelope::read(&envelope("1", "{}")).unwrap().says().unwrap_err().to_string();
    assert!(missing.contains("`language`"), "{missing}");
    assert!(ClientEnvelope::read(&envelope("1", "[]")).is_err());
    assert!(ClientEnvelope::read(&envelope("-1", "{}")).is_err());
}
