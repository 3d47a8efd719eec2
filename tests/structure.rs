//! Enforced structure on a model with random weights, which wants to write anything but what it must.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use serde_json::json;

use chatdlm::engine::config::ModelConfig;
use chatdlm::engine::constraint::Constraint;
use chatdlm::engine::constraint::ConstraintError;
use chatdlm::engine::constraint::tokens::Automaton;
use chatdlm::engine::model::cpu::Cpu;
use chatdlm::engine::model::linear::Quant;
use chatdlm::engine::model::transformer::Model;
use chatdlm::engine::runner::Runner;
use chatdlm::engine::sampler::Rule;
use chatdlm::engine::sequence::Form;
use chatdlm::engine::sequence::Generate;
use chatdlm::engine::sequence::Sequence;
use chatdlm::engine::tokenizer::Tokenizer;
use chatdlm::engine::weights::Weights;

/// Families of both kinds of attention, with shifted logits and without.
const FAMILIES: [&str; 3] = ["llada2_moe", "llada", "dream"];
const CASES: usize = 1000;
const CANVAS: usize = 32;

const RULES: [Rule; 6] = [
    Rule::Threshold { threshold: 0.3, steps: 3 },
    Rule::ThresholdEdit { threshold: 0.05, editing_threshold: 0.05, max_post_steps: 2 },
    Rule::LowConfidence { steps: 2 },
    Rule::Factor { factor: 2.0 },
    Rule::EntropyBound { bound: 20.0 },
    Rule::Sequential { steps: 3 },
];

fn pick<'a, T>(random: &mut StdRng, some: &'a [T]) -> &'a T {
    &some[random.random_range(0..some.len())]
}

/// Returns a random schema whose shortest values are short.
fn schema(random: &mut StdRng, depth: usize) -> Value {
    match random.random_range(0..if depth == 0 { 7 } else { 10 }) {
        0 => json!({"type": "integer"}),
        1 => json!({"type": *pick(random, &["number", "boolean", "null"])}),
        2 => json!({"type": ["string", "null"], "maxLength": random.random_range(0..4)}),
        3 => {
            json!({"type": "string", "minLength": random.random_range(0..3), "maxLength": random.random_range(3..6)})
        }
        4 => {
            json!({"type": "string", "pattern": *pick(random, &["^[a-c]{1,3}$", "x", r#"^("|\\|é)\d?$"#, r"^\w+-?$"])})
        }
        5 => json!({"enum": [*pick(random, &["a", "ä\"", "\n", ""]), random.random_range(-9..99), null]}),
        6 => json!({"anyOf": [{"const": true}, {"type": "integer"}]}),
        7 => {
            let least = random.random_range(0..2);
            json!({"type": "array", "items": schema(random, depth - 1), "minItems": least, "maxItems": least + 2})
        }
        _ => {
            let mut properties = serde_json::Map::new();
            let mut required = Vec::new();
            for name in ["a", "b", "q\""].into_iter().take(random.random_range(1..4)) {
                properties.insert(name.to_owned(), schema(random, depth - 1));
                if random.random_bool(0.4) {
                    required.push(name);
                }
            }
            json!({"type": "object", "properties": properties, "required": required})
        }
    }
}

/// Returns whether a value keeps to a schema: written anew, by the words of the standard.
fn is_valid(value: &Value, schema: &Value) -> bool {
    if let Some(branches) = schema["anyOf"].as_array() {
        return branches.iter().any(|branch| is_valid(value, branch));
    }
    if let Some(only) = schema.get("const") {
        return value == only;
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    let is_of = |kind: &Value| match kind.as_str().unwrap() {
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    let is_typed = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(is_of),
        kind => is_of(kind),
    };
    let is_within = |count: usize, least: &str, most: &str| {
        schema[least].as_u64().is_none_or(|least| count as u64 >= least)
            && schema[most].as_u64().is_none_or(|most| count as u64 <= most)
    };
    is_typed
        && match value {
            Value::String(text) => {
                let matches = |pattern: &str| regex::Regex::new(pattern).unwrap().is_match(text);
                is_within(text.chars().count(), "minLength", "maxLength")
                    && schema["pattern"].as_str().is_none_or(matches)
            }
            Value::Array(items) => {
                is_within(items.len(), "minItems", "maxItems")
                    && items.iter().all(|item| is_valid(item, &schema["items"]))
            }
            Value::Object(members) => {
                let required = schema["required"].as_array().unwrap();
                required.iter().all(|name| members.contains_key(name.as_str().unwrap()))
                    && members.iter().all(|(name, member)| is_valid(member, &schema["properties"][name]))
            }
            _ => true,
        }
}

/// Returns a random regular expression.
fn expression(random: &mut StdRng, depth: usize) -> String {
    if depth == 0 {
        let leaves = ["a", "b", "the", "ä", "[0-9]", "[^a]", "€?", "(?i)x", r"\.", "", " "];
        return (*pick(random, &leaves)).to_owned();
    }
    let (a, b) = (expression(random, depth - 1), expression(random, depth - 1));
    match random.random_range(0..5) {
        0 => format!("(?:{a}|{b})"),
        1 => format!("(?:{a})*{b}"),
        2 => format!("(?:{a}){{1,3}}"),
        3 => format!("{a}(?:{b})?"),
        _ => format!("(?:{a}{b})+"),
    }
}

struct Tiny {
    runner: Runner,
    form: Form,
    vocabulary: usize,
}

fn tiny(family: &str) -> Tiny {
    let folder = Path::new("tests/fixtures").join(family);
    let config = ModelConfig::read(&folder).unwrap();
    let weights = Weights::open(&folder).unwrap();
    let form = Form { block: 8, ..Form::of(&config) };
    let vocabulary = config.vocab_size;
    let model = Model::load(config, &weights, Quant::F32, |_, _| {}).unwrap();
    Tiny { runner: Runner::new(Box::new(Cpu::new(model)), 1 << 24), form, vocabulary }
}

/// Fills a canvas and returns its text.
fn write(
    tiny: &mut Tiny,
    tokenizer: &Tokenizer,
    structure: &Arc<Automaton>,
    canvas: &[Option<u32>],
    rule: Rule,
    prompt: &[u32],
) -> Result<String, ConstraintError> {
    let generate = Generate {
        rule,
        banned: vec![tiny.form.mask],
        banned_at: vec![],
        stops_at_end: true,
        sampling: None,
        min_passes: 0,
        ..Generate::default()
    };
    let mut sequence = Sequence::generate(prompt, canvas, tiny.form, generate);
    sequence.enforce(structure, tiny.vocabulary)?;
    let mut slot = tiny.runner.slot(sequence, vec![]).expect("there is room");
    while !slot.sequence.is_done {
        tiny.runner.step(&mut [(&mut slot, 1000)]);
    }
    tiny.runner.release(&slot);
    let written = slot.sequence.canvas();
    let end = written.iter().position(|id| *id == tiny.form.end_of_text).unwrap_or(written.len());
    let bytes = written[..end].iter().flat_map(|id| tokenizer.bytes(*id).expect("only text")).collect();
    Ok(String::from_utf8(bytes).expect("whole characters"))
}

#[test]
fn a_thousand_random_structures_hold_with_random_weights() {
    let mut tinies = FAMILIES.map(tiny);
    // The controls of the models are the last three ids.
    let least = tinies.iter().map(|tiny| tiny.vocabulary).min().unwrap() - 3;
    let texts = [r#"{"a":true,"b":null,"q\"":[1,2]} the quick brown fox ä € xx.x -7.5e3"#];
    let tokenizer = Tokenizer::train(texts.into_iter(), least, &["<|mask|>", "<|end|>", "<|pad|>"]).unwrap();
    let mut random = StdRng::seed_from_u64(17);
    let (mut written, mut refused) = (0, 0);
    for case in 0..CASES {
        let (constraint, schema) = if case % 3 > 0 {
            let schema = schema(&mut random, 2);
            (Constraint::JsonSchema(schema.clone()), Some(schema))
        } else {
            (Constraint::Regex(expression(&mut random, 3)), None)
        };
        let tiny = pick_mut(&mut random, &mut tinies);
        let prompt: Vec<u32> =
            (0..random.random_range(1..12)).map(|_| random.random_range(10..200)).collect();
        let canvas = vec![None; CANVAS];
        let rule = *pick(&mut random, &RULES);
        let Ok(structure) = constraint.compile(&tokenizer) else { panic!("{constraint:?}") };
        let text = match write(tiny, &tokenizer, &structure, &canvas, rule, &prompt) {
            Ok(text) => text,
            Err(ConstraintError::TooShort { needed, tokens }) => {
                assert!(needed > tokens && tokens == CANVAS);
                refused += 1;
                continue;
            }
            Err(error) => panic!("{constraint:?}: {error}"),
        };
        written += 1;
        match (schema, &constraint) {
            (Some(schema), _) => {
                let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
                assert!(is_valid(&value, &schema), "{text} {schema}");
            }
            (None, Constraint::Regex(pattern)) => {
                let whole = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
                assert!(whole.is_match(&text), "{text:?} {pattern}");
            }
            _ => unreachable!("schemas and expressions only"),
        }
    }
    assert!(written > CASES * 9 / 10, "{written} written, {refused} refused");
}

fn pick_mut<'a, T>(random: &mut StdRng, some: &'a mut [T]) -> &'a mut T {
    let i = random.random_range(0..some.len());
    &mut some[i]
}

/// A part of a grammar's alternative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Symbol {
    Text(&'static str),
    Rule(usize),
}

/// Rules, each a list of alternatives; the first is the whole text.
type Grammar = Vec<Vec<Vec<Symbol>>>;

fn grammar(random: &mut StdRng, texts: &[&'static str]) -> Grammar {
    let rules = random.random_range(1..5);
    let symbol = |random: &mut StdRng| match random.random_bool(0.45) {
        true => Symbol::Rule(random.random_range(0..rules)),
        false => Symbol::Text(texts[random.random_range(0..texts.len())]),
    };
    let alternative = |random: &mut StdRng| (0..random.random_range(0..4)).map(|_| symbol(random)).collect();
    let rule = |random: &mut StdRng| (0..random.random_range(1..4)).map(|_| alternative(random)).collect();
    (0..rules).map(|_| rule(random)).collect()
}

/// Writes a grammar as programs send it.
fn spelled(grammar: &Grammar) -> String {
    let name = |rule: usize| if rule == 0 { "root".to_owned() } else { format!("rule-{rule}") };
    let symbol = |symbol: &Symbol| match symbol {
        Symbol::Text(text) => format!("{text:?}"),
        Symbol::Rule(rule) => name(*rule),
    };
    let alternative = |symbols: &Vec<Symbol>| symbols.iter().map(symbol).collect::<Vec<_>>().join(" ");
    let rule = |(rule, alternatives): (usize, &Vec<Vec<Symbol>>)| {
        let alternatives: Vec<String> = alternatives.iter().map(alternative).collect();
        format!("{} ::= {}\n", name(rule), alternatives.join(" | "))
    };
    grammar.iter().enumerate().map(rule).collect()
}

/// Returns whether a text is of a grammar: Earley (1970), over bytes, with every state in one list.
fn is_of(grammar: &Grammar, text: &str) -> bool {
    let text = text.as_bytes();
    // Rules that may be empty are stepped over when they are predicted (Aycock and Horspool 2002).
    let mut empty = BTreeSet::new();
    loop {
        let is_empty = |symbol: &Symbol| match symbol {
            Symbol::Text(text) => text.is_empty(),
            Symbol::Rule(rule) => empty.contains(rule),
        };
        let found = |rule: &usize| grammar[*rule].iter().any(|symbols| symbols.iter().all(is_empty));
        let more: BTreeSet<usize> = (0..grammar.len()).filter(found).collect();
        if more == empty {
            break;
        }
        empty = more;
    }
    // Rule, alternative, symbols that are done, where it began.
    let mut sets: Vec<Vec<(usize, usize, usize, usize)>> = vec![Vec::new(); text.len() + 1];
    sets[0] = (0..grammar[0].len()).map(|alternative| (0, alternative, 0, 0)).collect();
    for at in 0..=text.len() {
        let mut next = 0;
        while let Some(&(rule, alternative, done, from)) = sets[at].get(next) {
            next += 1;
            let mut found = Vec::new();
            match grammar[rule][alternative].get(done) {
                Some(Symbol::Text(word)) if text[at..].starts_with(word.as_bytes()) => {
                    found.push((at + word.len(), (rule, alternative, done + 1, from)));
                }
                Some(Symbol::Text(_)) => {}
                Some(Symbol::Rule(called)) => {
                    found.extend((0..grammar[*called].len()).map(|i| (at, (*called, i, 0, at))));
                    if empty.contains(called) {
                        found.push((at, (rule, alternative, done + 1, from)));
                    }
                }
                None => {
                    let waits = |(r, a, d, _): &(usize, usize, usize, usize)| {
                        grammar[*r][*a].get(*d) == Some(&Symbol::Rule(rule))
                    };
                    let waiting = sets[from].iter().filter(|state| waits(state));
                    found.extend(waiting.map(|(r, a, d, f)| (at, (*r, *a, d + 1, *f))));
                }
            }
            for (at, state) in found {
                if !sets[at].contains(&state) {
                    sets[at].push(state);
                }
            }
        }
    }
    let is_whole = |(rule, alternative, done, from): &(usize, usize, usize, usize)| {
        *rule == 0 && *from == 0 && *done == grammar[0][*alternative].len()
    };
    sets[text.len()].iter().any(is_whole)
}

#[test]
fn a_grammar_lets_through_what_it_derives_and_nothing_else() {
    let mut random = StdRng::seed_from_u64(5);
    let texts: Vec<String> = (0..5)
        .flat_map(|len| {
            (0..1usize << len).map(move |bits| (0..len).map(|i| ["a", "b"][bits >> i & 1]).collect())
        })
        .collect();
    let (mut whole, mut cut) = (0, 0);
    for _ in 0..200 {
        let grammar = grammar(&mut random, &["a", "b", "", "ab"]);
        let rules = Constraint::Grammar(spelled(&grammar)).rules().unwrap();
        let found = match rules.automaton() {
            Ok(found) => found,
            Err(ConstraintError::Nothing) => {
                assert!(texts.iter().all(|text| !is_of(&grammar, text)), "{}", spelled(&grammar));
                continue;
            }
            Err(error) => panic!("{error}: {}", spelled(&grammar)),
        };
        *(if found.depth.is_none() { &mut whole } else { &mut cut }) += 1;
        for text in &texts {
            let end = found.automaton.walk(0, text.as_bytes());
            let is_accepted = end != u32::MAX && found.automaton.is_accepting[end as usize];
            let is_derived = is_of(&grammar, text);
            assert!(is_derived || !is_accepted, "{text:?} is not of {}", spelled(&grammar));
            // A shortest derivation repeats no rule over the same stretch of text.
            let is_deep_enough = found.depth.is_none_or(|depth| depth >= grammar.len() * (text.len() + 1));
            assert!(is_accepted || !is_derived || !is_deep_enough, "{text:?} is of {}", spelled(&grammar));
        }
    }
    assert!(whole > 25 && cut > 25, "{whole} whole, {cut} cut");
}

#[test]
fn random_grammars_hold_with_random_weights() {
    let mut tinies = FAMILIES.map(tiny);
    let least = tinies.iter().map(|tiny| tiny.vocabulary).min().unwrap() - 3;
    let texts = ["(a, b) the quick brown fox [ä €] xx.x"];
    let tokenizer = Tokenizer::train(texts.into_iter(), least, &["<|mask|>", "<|end|>", "<|pad|>"]).unwrap();
    let mut random = StdRng::seed_from_u64(23);
    let (mut written, mut lengths) = (0, 0);
    for _ in 0..150 {
        let grammar = grammar(&mut random, &["a", "(", ")", "the", "ä", ", ", "", "\"\\"]);
        let structure = match Constraint::Grammar(spelled(&grammar)).compile(&tokenizer) {
            Ok(structure) => structure,
            Err(ConstraintError::Nothing) => continue,
            Err(error) => panic!("{error}: {}", spelled(&grammar)),
        };
        let tiny = pick_mut(&mut random, &mut tinies);
        let prompt: Vec<u32> =
            (0..random.random_range(1..12)).map(|_| random.random_range(10..200)).collect();
        let rule = *pick(&mut random, &RULES);
        match write(tiny, &tokenizer, &structure, &[None; CANVAS], rule, &prompt) {
            Ok(text) => {
                assert!(is_of(&grammar, &text), "{text:?} is not of {}", spelled(&grammar));
                written += 1;
                lengths += text.len();
            }
            Err(ConstraintError::TooShort { needed, tokens }) => assert!(needed > tokens),
            Err(error) => panic!("{error}: {}", spelled(&grammar)),
        }
    }
    assert!(written > 75 && lengths > 5 * written, "{written} written, {lengths} bytes");
}
