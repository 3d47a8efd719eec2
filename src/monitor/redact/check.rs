//! What makes a number a card, an IBAN, a social security number or a telephone number.

/// Returns whether the digits pass the Luhn check and begin and end as payment cards do.
///
/// Source: ISO/IEC 7812-1, annex B.
pub(super) fn is_card(digits: &str) -> bool {
    (13..=19).contains(&digits.len()) && may_begin_card(digits) && passes_luhn(digits)
}

/// Returns whether a payment card may begin with these digits.
pub(super) fn may_begin_card(digits: &str) -> bool {
    let bytes = digits.as_bytes();
    let second = bytes.get(1).copied();
    match bytes.first() {
        Some(b'4' | b'6') => true,
        Some(b'5') => second.is_none_or(|digit| (b'0'..=b'8').contains(&digit)),
        Some(b'3') => second.is_none_or(|digit| matches!(digit, b'0' | b'4'..=b'8')),
        Some(b'2') => second.is_none_or(|digit| (b'2'..=b'7').contains(&digit)),
        _ => false,
    }
}

fn passes_luhn(digits: &str) -> bool {
    let mut sum = 0;
    for (place, digit) in digits.bytes().rev().enumerate() {
        let value = u32::from(digit - b'0') << (place % 2);
        sum += value / 10 + value % 10;
    }
    sum % 10 == 0
}

/// Returns the length of an IBAN of the country, `None` for a country without IBANs.
///
/// Source: SWIFT IBAN registry, release 99.
pub(super) fn iban_length(country: &str) -> Option<usize> {
    const LENGTHS: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 \
        CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 \
        GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 \
        KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 \
        MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 \
        RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 \
        UA29 VA22";
    LENGTHS
        .split(' ')
        .find_map(|entry| entry.split_at_checked(2).filter(|(code, _)| *code == country))?
        .1
        .parse()
        .ok()
}

/// Returns whether the upper-case letters and digits are an IBAN with right check digits.
///
/// Source: ISO 13616-1, ISO/IEC 7064 MOD 97-10.
pub(super) fn is_iban(text: &str) -> bool {
    let Some(country) = text.get(..2) else { return false };
    country.is_ascii() && iban_length(country) == Some(text.len()) && leaves_one_modulo_97(text)
}

fn leaves_one_modulo_97(text: &str) -> bool {
    let (head, tail) = text.split_at(4);
    let mut remainder = 0;
    for character in tail.chars().chain(head.chars()) {
        let Some(value) = character.to_digit(36) else { return false };
        remainder = if value < 10 { remainder * 10 + value } else { remainder * 100 + value } % 97;
    }
    remainder == 1
}

/// Returns whether nine digits may be a United States social security number.
///
/// The area is never 000, 666 or 9xx, the group never 00, the serial never 0000.
pub(super) fn is_ssn(digits: &str) -> bool {
    digits.len() == 9
        && !digits.starts_with("000")
        && !digits.starts_with("666")
        && !digits.starts_with('9')
        && &digits[3..5] != "00"
        && &digits[5..] != "0000"
}

/// Returns whether digits, typed in groups of these lengths, look like a whole telephone number
/// without any word that says so.
pub(super) fn is_phone(digits: &str, groups: &[usize], has_plus: bool) -> bool {
    let length = digits.len();
    if has_plus {
        return (8..=15).contains(&length);
    }
    // National numbers with a trunk zero, North American ones with area code, and local ones.
    (digits.starts_with("00") && (11..=16).contains(&length))
        || (digits.starts_with('0') && (10..=11).contains(&length))
        || matches!(groups, [3, 3, 4] | [1, 3, 3, 4])
        || (groups == [10] && is_north_american(digits))
        || (length == 10 && groups.len() > 4 && is_north_american(digits))
        || groups == [3, 4]
        || (length == 7 && digits.starts_with("555"))
}

fn is_north_american(digits: &str) -> bool {
    let bytes = digits.as_bytes();
    bytes[0] >= b'2' && bytes[3] >= b'2'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_need_luhn_and_prefix() {
        for card in ["4111111111111111", "378282246310005", "5555555555554444", "6011000990139424"] {
            assert!(is_card(card), "{card}");
        }
        for number in ["4111111111111112", "1111111111111117", "411111111111"] {
            assert!(!is_card(number), "{number}");
        }
    }

    #[test]
    fn ibans_need_country_length_and_check_digits() {
        for iban in ["DE89370400440532013000", "GB29NWBK60161331926819", "NO9386011117947"] {
            assert!(is_iban(iban), "{iban}");
        }
        for text in ["DE89370400440532013001", "ZZ89370400440532013000", "DE8937040044", "D", "Ü1"] {
            assert!(!is_iban(text), "{text}");
        }
    }

    #[test]
    fn social_security_numbers_have_no_empty_part() {
        assert!(is_ssn("078051120"));
        for digits in ["000121234", "666121234", "912121234", "078001120", "078050000", "07805112"] {
            assert!(!is_ssn(digits), "{digits}");
        }
    }
}
