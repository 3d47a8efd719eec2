//! A context-free grammar as rules: the notation of llama.cpp's GBNF.
//!
//! ```text
//! root   ::= "{" pair ("," pair)* "}"      # comments to the end of the line
//! pair   ::= [a-z]+ ":" (number | root)
//! number ::= "-"? [0-9]{1,9}
//! ```
//!
//! Literals and classes have the escapes `\n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH`; `.` is
//! any character. A rule ends where the next one begins. A rule that begins with itself, as
//! `sum ::= sum "+" number | number`, is read as the repetition that it is.

use std::collections::HashMap;

use crate::engine::constraint::ConstraintError;
use crate::engine::constraint::rules::MAX_RULES;
use crate::engine::constraint::rules::Rules;
use crate::engine::constraint::rules::call;

/// The rule that is the whole text.
const ROOT: &str = "root";
/// Parentheses within parentheses.
const MAX_NESTING: usize = 32;

/// Reads a grammar.
///
/// # Errors
/// What is wrong with it, and in which line.
pub fn rules(text: &str) -> Result<Rules, ConstraintError> {
    let tokens = tokens(text)?;
    let mut numbers = HashMap::from([(ROOT.to_owned(), 0)]);
    let mut is_rooted = false;
    for pair in tokens.windows(2) {
        let [(line, Token::Name(name)), (_, Token::Is)] = pair else { continue };
        let fresh = numbers.len();
        let is_known = numbers.contains_key(name) && (name != ROOT || is_rooted);
        is_rooted |= name == ROOT;
        if is_known {
            return refuse(*line, format!("the rule {name:?} is there twice"));
        }
        if fresh > MAX_RULES {
            return refuse(*line, format!("there are more than {MAX_RULES} rules"));
        }
        numbers.entry(name.clone()).or_insert(fresh);
    }
    if !is_rooted {
        return refuse(1, format!("there is no rule {ROOT:?}"));
    }
    let mut patterns = vec![String::new(); numbers.len()];
    let mut reader = Reader { tokens: &tokens, at: 0, numbers: &numbers };
    while let Some(line) = reader.line() {
        let Some(Token::Name(name)) = reader.take() else {
            return refuse(line, "a rule begins with its name and ::=".to_owned());
        };
        if reader.take() != Some(&Token::Is) {
            return refuse(line, format!("{name:?} is not followed by ::="));
        }
        let rule = numbers[name];
        patterns[rule] = without_left_recursion(&call(rule), reader.alternatives(0)?);
    }
    Ok(Rules { patterns })
}

fn refuse<T>(line: usize, reason: String) -> Result<T, ConstraintError> {
    Err(ConstraintError::Grammar { line, reason })
}

/// Joins alternatives; those that begin with the rule itself repeat what follows (`A ::= A x | y`
/// is `y x*`).
fn without_left_recursion(own: &str, alternatives: Vec<Vec<String>>) -> String {
    let (recursive, others): (Vec<_>, Vec<_>) =
        alternatives.into_iter().partition(|items| items.first().is_some_and(|item| item == own));
    let first = joined(&others);
    if recursive.is_empty() {
        return first;
    }
    if others.is_empty() {
        // Only itself: no text.
        return "[a&&b]".to_owned();
    }
    let more: Vec<Vec<String>> = recursive.into_iter().map(|items| items[1..].to_vec()).collect();
    format!("{first}{}*", joined(&more))
}

fn joined(alternatives: &[Vec<String>]) -> String {
    let texts: Vec<String> = alternatives.iter().map(|items| items.concat()).collect();
    format!("(?:{})", texts.join("|"))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Is,
    /// A regular expression of a literal, a class or any character.
    Text(String),
    Open,
    Close,
    Or,
    /// A repetition as the regular expression writes it.
    Repeat(String),
}

/// Returns the tokens of a grammar with their lines.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ConstraintError> {
    let mut scanner = Scanner { rest: text.chars().collect(), at: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(character) = scanner.next() {
        let line = scanner.line;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let token = match character {
            '#' => {
                while scanner.peek().is_some_and(|next| next != '\n') {
                    scanner.next();
                }
                continue;
            }
            _ if character.is_whitespace() => continue,
            ':' => match (scanner.next(), scanner.next()) {
                (Some(':'), Some('=')) => Token::Is,
                _ => return refuse(line, "\":\" is not followed by \":=\"".to_owned()),
            },
            '"' => Token::Text(scanner.literal()?),
            '[' => Token::Text(scanner.class()?),
            '.' => Token::Text("(?s:.)".to_owned()),
            '(' => Token::Open,
            ')' => Token::Close,
            '|' => Token::Or,
            '*' | '+' | '?' => Token::Repeat(character.to_string()),
            '{' => Token::Repeat(scanner.bounds()?),
            _ if is_name(character) => {
                let mut name = character.to_string();
                while let Some(next) = scanner.peek().filter(|next| is_name(*next)) {
                    name.push(next);
                    scanner.next();
                }
                Token::Name(name)
            }
            other => return refuse(line, format!("{other:?} means nothing here")),
        };
        tokens.push((line, token));
    }
    Ok(tokens)
}

struct Scanner {
    rest: Vec<char>,
    at: usize,
    line: usize,
}

impl Scanner {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        self.line += usize::from(next == '\n');
        Some(next)
    }

    /// Reads a literal behind its first quote.
    fn literal(&mut self) -> Result<String, ConstraintError> {
        let line = self.line;
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(format!("(?:{})", regex_syntax::escape(&text))),
                Some('\\') => text.push(self.escaped()?),
                Some('\n') | None => return refuse(line, "a literal has no end".to_owned()),
                Some(other) => text.push(other),
            }
        }
    }

    /// Reads a class behind its bracket.
    fn class(&mut self) -> Result<String, ConstraintError> {
        let line = self.line;
        let is_negated = self.peek() == Some('^');
        if is_negated {
            self.next();
        }
        let mut ranges = String::new();
        loop {
            let start = match self.next() {
                Some(']') if ranges.is_empty() && is_negated => return Ok("(?s:.)".to_owned()),
                Some(']') if ranges.is_empty() => return refuse(line, "a class is empty".to_owned()),
                Some(']') => return Ok(format!("[{}{ranges}]", if is_negated { "^" } else { "" })),
                Some('\\') => self.escaped()?,
                Some('\n') | None => return refuse(line, "a class has no end".to_owned()),
                Some(other) => other,
            };
            let is_range = self.peek() == Some('-') && self.rest.get(self.at + 1).is_some_and(|c| *c != ']');
            let end = match is_range.then(|| (self.next(), self.next()).1).flatten() {
                None => start,
                Some('\\') => self.escaped()?,
                Some(end) => end,
            };
            if end < start {
                return refuse(line, format!("the range {start:?} to {end:?} is empty"));
            }
            ranges.push_str(&format!(r"\x{{{:X}}}-\x{{{:X}}}", u32::from(start), u32::from(end)));
        }
    }

    /// Reads what is behind a backslash.
    fn escaped(&mut self) -> Result<char, ConstraintError> {
        let line = self.line;
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(plain @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/' | '\'')) => return Ok(plain),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(other) => return refuse(line, format!("\\{other} is no escape")),
            None => return refuse(line, "the grammar ends in a backslash".to_owned()),
        };
        let text: String = (0..digits).filter_map(|_| self.next()).collect();
        match u32::from_str_radix(&text, 16).ok().and_then(char::from_u32) {
            Some(character) if text.len() == digits => Ok(character),
            _ => refuse(line, format!("{text:?} is no character of {digits} hexadecimal digits")),
        }
    }

    /// Reads bounds behind their brace.
    fn bounds(&mut self) -> Result<String, ConstraintError> {
        let line = self.line;
        let mut text = String::new();
        while let Some(next) = self.next().filter(|next| *next != '}') {
            text.push(next);
        }
        let number = |text: &str| text.trim().parse::<u16>().ok();
        let bounds = match text.split_once(',') {
            None => number(&text).map(|count| (count, Some(count))),
            Some((least, "")) => number(least).map(|least| (least, None)),
            Some((least, most)) => number(least).zip(number(most).map(Some)),
        };
        match bounds {
            Some((least, None)) => Ok(format!("{{{least},}}")),
            Some((least, Some(most))) if most >= least => Ok(format!("{{{least},{most}}}")),
            _ => refuse(line, format!("{{{text}}} is no repetition")),
        }
    }
}

struct Reader<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    numbers: &'a HashMap<String, usize>,
}

impl<'a> Reader<'a> {
    fn line(&self) -> Option<usize> {
        self.tokens.get(self.at).map(|(line, _)| *line)
    }

    fn take(&mut self) -> Option<&'a Token> {
        let (_, token) = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    fn peek(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.at + ahead).map(|(_, token)| token)
    }

    /// Reads alternatives up to a closing parenthesis or the next rule; each is a list of items.
    fn alternatives(&mut self, nesting: usize) -> Result<Vec<Vec<String>>, ConstraintError> {
        let mut alternatives = vec![Vec::new()];
        while let (Some(line), Some(token)) = (self.line(), self.peek(0)) {
            let is_next_rule = matches!(token, Token::Name(_)) && self.peek(1) == Some(&Token::Is);
            if *token == Token::Close || is_next_rule {
                break;
            }
            self.at += 1;
            let item = match token {
                Token::Or => {
                    alternatives.push(Vec::new());
                    continue;
                }
                Token::Text(pattern) => pattern.clone(),
                Token::Name(name) => match self.numbers.get(name) {
                    Some(rule) => call(*rule),
                    None => return refuse(line, format!("there is no rule {name:?}")),
                },
                Token::Open if nesting == MAX_NESTING => {
                    return refuse(line, format!("parentheses are nested deeper than {MAX_NESTING}"));
                }
                Token::Open => {
                    let inner = self.alternatives(nesting + 1)?;
                    if self.take() != Some(&Token::Close) {
                        return refuse(line, "a parenthesis is not closed".to_owned());
                    }
                    joined(&inner)
                }
                Token::Repeat(repeat) => return refuse(line, format!("{repeat} repeats nothing")),
                Token::Is | Token::Close => return refuse(line, "::= is not behind a name".to_owned()),
            };
            let item = match self.peek(0) {
                Some(Token::Repeat(repeat)) => {
                    self.at += 1;
                    format!("(?:{item}){repeat}")
                }
                _ => item,
            };
            alternatives.last_mut().expect("there is always one").push(item);
        }
        if nesting == 0 && self.peek(0) == Some(&Token::Close) {
            return refuse(
                self.line().unwrap_or(0),
                "a parenthesis is closed that was not opened".to_owned(),
            );
        }
        Ok(alternatives)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::constraint::regex::DEAD;
    use crate::engine::constraint::rules::Cut;

    fn cut(grammar: &str) -> Cut {
        rules(grammar).expect(grammar).automaton().expect(grammar)
    }

    /// Checks which texts a grammar lets through.
    fn check(grammar: &str, accepted: &[&str], refused: &[&str]) -> Option<usize> {
        let Cut { automaton, depth } = cut(grammar);
        let accepts = |text: &str| {
            let end = automaton.walk(0, text.as_bytes());
            end != DEAD && automaton.is_accepting[end as usize]
        };
        accepted.iter().for_each(|text| assert!(accepts(text), "{grammar} refuses {text:?}"));
        refused.iter().for_each(|text| assert!(!accepts(text), "{grammar} accepts {text:?}"));
        depth
    }

    #[test]
    fn the_notation_is_that_of_gbnf() {
        check(r#"root ::= "a\"\x41\u00e4\n" # "b""#, &["a\"Aä\n"], &["a", ""]);
        check("root ::= [a-c\\]^-]+ [^x]\n", &["a]-^y", "ca"], &["a", "d", "ax"]);
        check(
            "root ::= (\"a\" | \"b\"\n | word){2,3} .?\nword ::= [x]*",
            &["ab", "abxé", "", "xxb"],
            &["abab!?"],
        );
        check("  root::=a\na ::= \"1\" |\n \"2\"", &["1", "2"], &["12"]);
        check("root ::= \"x\"{2} \"y\"{1,}", &["xxy", "xxyy"], &["xy", "xx"]);
    }

    #[test]
    fn recursion_to_one_side_is_whole() {
        for (grammar, accepted, refused) in [
            (r#"root ::= "a" root | "b""#, "a".repeat(500) + "b", "ba"),
            (r#"root ::= root "," [0-9] | [0-9]"#, "1".to_owned() + &",2".repeat(500), ",1"),
            (
                "root ::= item rest\nrest ::= \",\" root |\nitem ::= \"x\"",
                "x".to_owned() + &",x".repeat(500),
                "x,",
            ),
        ] {
            assert_eq!(check(grammar, &[&accepted], &[refused]), None, "{grammar}");
        }
    }

    #[test]
    fn recursion_in_the_middle_is_cut_at_a_depth() {
        let nested = |depth: usize| "(".repeat(depth) + &")".repeat(depth);
        let grammar = r#"root ::= "(" root ")" | """#;
        let depth = check(grammar, &[&nested(0), &nested(64)], &["(", "())", ")("]).expect("is cut");
        assert_eq!(depth, 64);
        check(grammar, &[], &[&nested(66)]);
        let json = r#"
            root   ::= object | array | string | number | "true" | "false" | "null"
            object ::= "{" (string ":" root ("," string ":" root)*)? "}"
            array  ::= "[" (root ("," root)*)? "]"
            string ::= "\"" ([^"\\\x00-\x1f] | "\\" ["\\/bfnrt])* "\""
            number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)?
        "#;
        let depth =
            check(json, &[r#"{"a":[1,{"b":[-2.5,"\n"]}],"c":{}}"#, "null"], &["[1,]", "{1:2}", "[1", "]"]);
        assert!(depth.is_some_and(|depth| (4..64).contains(&depth)), "{depth:?}");
    }

    #[test]
    fn what_leads_nowhere_is_nothing_and_the_rest_goes_on() {
        check("root ::= \"a\" | loop\nloop ::= loop \"x\"", &["a"], &["x", ""]);
        check("root ::= \"a\" | ring\nring ::= gnir\ngnir ::= ring", &["a"], &[""]);
        let error = rules("root ::= \"x\" root").expect("is read").automaton().unwrap_err();
        assert_eq!(error, ConstraintError::Nothing);
    }

    #[test]
    fn errors_are_named_with_their_line() {
        let says = |grammar: &str, expected: &str| {
            let error = rules(grammar).unwrap_err().to_string();
            assert!(error.contains(expected), "{grammar}: {error} lacks {expected}");
        };
        says("rot ::= \"a\"", "no rule \"root\"");
        says("", "no rule \"root\"");
        says("root ::= \"a\"\n\n  | b", "line 3: there is no rule \"b\"");
        says("root ::= \"a\"\nroot ::= \"b\"", "line 2: the rule \"root\" is there twice");
        says("root ::= a\na ::= \"a\"\na ::= \"b\"", "line 3: the rule \"a\" is there twice");
        says("root ::= \"a", "line 1: a literal has no end");
        says("root ::= [a", "a class has no end");
        says("root ::= []", "a class is empty");
        says("root ::= [b-a]", "range");
        says("root ::= (\"a\"", "not closed");
        says("root ::= \"a\")", "not opened");
        says("root ::= * \"a\"", "* repeats nothing");
        says("root ::= \"a\"{3,1}", "{3,1} is no repetition");
        says(r#"root ::= "\q""#, "\\q is no escape");
        says(r#"root ::= "\ud800""#, "no character");
        says("root = \"a\"", "'='");
        says("\"a\" root ::= \"a\"", "a rule begins");
        says(&format!("root ::= {}", "(".repeat(100)), "nested deeper");
    }
}
