//! Languages as AudioHook wants them: with a region, which Whisper's have none of.

/// Each language with the regions whose speech it is, by ISO 639-1 code; others are not offered.
const REGIONS: [(&str, &[&str]); 41] = [
    ("ar", &["ar-AE", "ar-SA"]),
    ("bg", &["bg-BG"]),
    ("ca", &["ca-ES"]),
    ("cs", &["cs-CZ"]),
    ("da", &["da-DK"]),
    ("de", &["de-AT", "de-CH", "de-DE"]),
    ("el", &["el-GR"]),
    ("en", &["en-AU", "en-CA", "en-GB", "en-IE", "en-IN", "en-NZ", "en-US", "en-ZA"]),
    ("es", &["es-AR", "es-ES", "es-MX", "es-US"]),
    ("et", &["et-EE"]),
    ("eu", &["eu-ES"]),
    ("fi", &["fi-FI"]),
    ("fr", &["fr-BE", "fr-CA", "fr-CH", "fr-FR"]),
    ("gl", &["gl-ES"]),
    ("he", &["he-IL"]),
    ("hi", &["hi-IN"]),
    ("hr", &["hr-HR"]),
    ("hu", &["hu-HU"]),
    ("id", &["id-ID"]),
    ("it", &["it-IT"]),
    ("ja", &["ja-JP"]),
    ("ko", &["ko-KR"]),
    ("lt", &["lt-LT"]),
    ("lv", &["lv-LV"]),
    ("ms", &["ms-MY"]),
    ("nl", &["nl-BE", "nl-NL"]),
    ("no", &["nb-NO"]),
    ("pl", &["pl-PL"]),
    ("pt", &["pt-BR", "pt-PT"]),
    ("ro", &["ro-RO"]),
    ("ru", &["ru-RU"]),
    ("sk", &["sk-SK"]),
    ("sl", &["sl-SI"]),
    ("sr", &["sr-RS"]),
    ("sv", &["sv-SE"]),
    ("ta", &["ta-IN"]),
    ("th", &["th-TH"]),
    ("tr", &["tr-TR"]),
    ("uk", &["uk-UA"]),
    ("vi", &["vi-VN"]),
    ("zh", &["zh-CN", "zh-TW"]),
];

/// Returns the tags that stand for languages; one that has a region already stands for itself.
pub(super) fn with_regions(languages: &[String]) -> Vec<&str> {
    let mut tags = Vec::new();
    for language in languages {
        if language.contains('-') {
            tags.push(language.as_str());
        } else if let Ok(at) = REGIONS.binary_search_by_key(&language.as_str(), |(code, _)| code) {
            tags.extend_from_slice(REGIONS[at].1);
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_has_a_language_and_a_region() {
        assert!(REGIONS.is_sorted_by_key(|(code, _)| code), "they are searched by halves");
        for tag in REGIONS.iter().flat_map(|(_, tags)| *tags) {
            let (language, region) = tag.split_once('-').unwrap();
            assert!(language.len() == 2 && language.chars().all(|c| c.is_ascii_lowercase()), "{tag}");
            assert!(region.len() == 2 && region.chars().all(|c| c.is_ascii_uppercase()), "{tag}");
        }
    }

    #[test]
    fn a_language_without_a_region_becomes_those_of_its_regions() {
        let languages = ["nl", "de-LI", "xx", "no"].map(str::to_owned);
        assert_eq!(with_regions(&languages), ["nl-BE", "nl-NL", "de-LI", "nb-NO"]);
    }
}
