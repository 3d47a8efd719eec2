//! Article to passages: pieces of 60 to 120 words that answer one question each.
//!
//! A passage is plain text: headings are lines that end with a colon, list items and table rows are
//! lines, markup is gone. [`sentences`] says which stretches may be quoted.

use std::ops::Range;

use pulldown_cmark::Event;
use pulldown_cmark::HeadingLevel;
use pulldown_cmark::Options;
use pulldown_cmark::Parser;
use pulldown_cmark::Tag;
use pulldown_cmark::TagEnd;

use crate::knowledge::article::Article;
use crate::knowledge::article::Format;

/// A passage shorter than this takes in the next section too.
const FEW_WORDS: usize = 60;
/// A passage never grows beyond this, but for one endless sentence.
const MOST_WORDS: usize = 120;

/// An indexed piece of an article.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The headings above and within it, outermost first.
    pub heading: String,
    /// Plain text for showing.
    pub text: String,
}

/// A paragraph, list item or table row, or a heading, as plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Block {
    Heading(HeadingLevel, String),
    Text(String),
}

/// Splits `article` into passages; an article without text has none.
pub fn passages(article: &Article) -> Vec<Passage> {
    let blocks = match article.format {
        Format::Markdown => markdown_blocks(&article.body),
        Format::Text => text_blocks(&article.body),
    };
    let mut packer = Packer::default();
    let mut path: Vec<(HeadingLevel, String)> = Vec::new();
    for block in blocks {
        match block {
            Block::Heading(_, text) if text == article.title => {}
            Block::Heading(level, text) => {
                path.retain(|(above, _)| *above < level);
                path.push((level, text));
                packer.section(&path);
            }
            Block::Text(text) => packer.text(&text),
        }
    }
    packer.finish()
}

/// Returns the stretches of a passage's `text` that can be quoted: whole sentences, list items and
/// table rows, in bytes; headings and questions are left out.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        for range in sentences_of_line(line.trim_end()) {
            let sentence = &line[range.clone()];
            if !sentence.ends_with([':', '?']) {
                found.push(line_start + range.start..line_start + range.end);
            }
        }
        line_start += line.len();
    }
    found
}

/// Splits one line after `.`, `!`, `?` where a new sentence seems to start.
fn sentences_of_line(line: &str) -> Vec<Range<usize>> {
    const ABBREVIATIONS: [&str; 14] =
        ["e.g", "i.e", "etc", "mr", "mrs", "ms", "dr", "st", "no", "nos", "approx", "incl", "vs", "min"];
    let mut found = Vec::new();
    let mut start = 0;
    for (at, mark) in line.char_indices().filter(|(_, c)| matches!(c, '.' | '!' | '?')) {
        let rest = &line[at + mark.len_utf8()..];
        let closing = rest.len() - rest.trim_start_matches(['"', '”', '’', ')', '\'']).len();
        let end = at + mark.len_utf8() + closing;
        let next = line[end..].trim_start();
        let starts_new = next.chars().next().is_none_or(|c| !c.is_lowercase());
        let word = line[start..at].rsplit([' ', '(']).next().unwrap_or_default().to_lowercase();
        let is_abbreviation = mark == '.' && ABBREVIATIONS.contains(&word.as_str());
        let is_break = line[end..].is_empty() || line[end..].starts_with(' ');
        if is_break && starts_new && !is_abbreviation && end > start {
            found.push(start..end);
            start = line.len() - next.len();
        }
    }
    if !line[start..].trim().is_empty() {
        found.push(start..line.len());
    }
    found
}

fn word_count(text: &str) -> usize {
    text.split_whitespace().count()
}

/// Collects blocks into passages.
#[derive(Default)]
struct Packer {
    done: Vec<Passage>,
    headings: Vec<String>,
    lines: Vec<String>,
    words: usize,
    /// The heading that waits for its first text.
    pending: Option<Vec<String>>,
    /// The headings of the section that is being read.
    current: Vec<String>,
}

impl Packer {
    fn section(&mut self, path: &[(HeadingLevel, String)]) {
        self.current = path.iter().map(|(_, text)| text.clone()).collect();
        self.pending = Some(self.current.clone());
        if self.words >= FEW_WORDS {
            self.flush();
        }
    }

    fn text(&mut self, text: &str) {
        for piece in pieces(text) {
            if self.words > 0 && self.words + word_count(piece) > MOST_WORDS {
                self.flush();
            }
            if let Some(path) = self.pending.take() {
                self.heading_lines(path);
            } else if self.lines.is_empty() {
                // A long section goes on: its later passages keep its headings for the search.
                self.headings = self.current.clone();
            }
            self.words += word_count(piece);
            self.lines.push(piece.to_owned());
        }
    }

    fn heading_lines(&mut self, path: Vec<String>) {
        if let Some(last) = path.last() {
            let ends_itself = last.ends_with([':', '?', '!', '.']);
            self.lines.push(if ends_itself { last.clone() } else { format!("{last}:") });
        }
        for heading in path {
            if !self.headings.contains(&heading) {
                self.headings.push(heading);
            }
        }
    }

    fn flush(&mut self) {
        if self.words > 0 {
            self.done.push(Passage { heading: self.headings.join(" › "), text: self.lines.join("\n") });
        }
        self.headings.clear();
        self.lines.clear();
        self.words = 0;
    }

    fn finish(mut self) -> Vec<Passage> {
        self.flush();
        self.done
    }
}

/// Cuts a long text into runs of sentences, and an endless sentence into runs of words.
fn pieces(text: &str) -> Vec<&str> {
    if word_count(text) <= MOST_WORDS {
        return vec![text];
    }
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut words = 0;
    let mut previous_end = 0;
    for range in text.split('\n').flat_map(|line| {
        let offset = line.as_ptr() as usize - text.as_ptr() as usize;
        sentences_of_line(line).into_iter().map(move |range| range.start + offset..range.end + offset)
    }) {
        let count = word_count(&text[range.clone()]);
        if words > 0 && words + count > MOST_WORDS {
            pieces.push(text[start..previous_end].trim());
            start = range.start;
            words = 0;
        }
        words += count;
        previous_end = range.end;
        if words > MOST_WORDS {
            pieces.extend(word_runs(&text[start..previous_end]));
            start = previous_end;
            words = 0;
        }
    }
    pieces.push(text[start..].trim());
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

fn word_runs(text: &str) -> Vec<&str> {
    let mut runs = Vec::new();
    let mut start = 0;
    let mut count = 0;
    for (at, _) in text.match_indices(' ') {
        count += 1;
        if count == MOST_WORDS {
            runs.push(text[start..at].trim());
            start = at;
            count = 0;
        }
    }
    runs.push(text[start..].trim());
    runs
}

fn text_blocks(body: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    for paragraph in body.replace("\r\n", "\n").split("\n\n") {
        let joined = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if !joined.is_empty() {
            blocks.push(Block::Text(joined));
        }
    }
    blocks
}

/// Reads Markdown into plain blocks. HTML inside is dropped.
fn markdown_blocks(body: &str) -> Vec<Block> {
    let mut reader = MarkdownReader::default();
    for event in Parser::new_ext(body, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH) {
        reader.event(event);
    }
    reader.end_block();
    reader.blocks
}

#[derive(Default)]
struct MarkdownReader {
    blocks: Vec<Block>,
    text: String,
    heading: Option<HeadingLevel>,
    /// The header cells of the table being read, then the cells of its current row.
    header: Vec<String>,
    row: Vec<String>,
    in_table: bool,
}

impl MarkdownReader {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Text(text) | Event::Code(text) => self.text.push_str(&text),
            Event::SoftBreak | Event::HardBreak => self.text.push(' '),
            Event::Start(Tag::Heading { level, .. }) => {
                self.end_block();
                self.heading = Some(level);
            }
            Event::Start(Tag::Table(_)) => {
                self.end_block();
                self.in_table = true;
            }
            Event::End(TagEnd::TableCell) => {
                let cell = std::mem::take(&mut self.text);
                self.row.push(one_line(&cell));
            }
            Event::End(TagEnd::TableHead) => self.header = std::mem::take(&mut self.row),
            Event::End(TagEnd::TableRow) => self.end_row(),
            Event::End(TagEnd::Table) => {
                self.in_table = false;
                self.header.clear();
            }
            Event::Start(
                Tag::Item | Tag::Paragraph | Tag::CodeBlock(_) | Tag::List(_) | Tag::BlockQuote(_),
            )
            | Event::End(TagEnd::Item | TagEnd::Paragraph | TagEnd::CodeBlock | TagEnd::Heading(_))
            | Event::Rule => self.end_block(),
            _ => {}
        }
    }

    fn end_block(&mut self) {
        if self.in_table {
            return;
        }
        let text = one_line(&std::mem::take(&mut self.text));
        let heading = self.heading.take();
        if text.is_empty() {
            return;
        }
        self.blocks.push(match heading {
            Some(level) => Block::Heading(level, text),
            None => Block::Text(text),
        });
    }

    /// Two columns read "first: second"; more read "first: header second, header third".
    fn end_row(&mut self) {
        let row = std::mem::take(&mut self.row);
        let named = self.header.len() > 2;
        let rest: Vec<String> = row
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(_, cell)| !cell.is_empty())
            .map(|(at, cell)| match self.header.get(at).filter(|name| named && !name.is_empty()) {
                Some(name) => format!("{name} {cell}"),
                None => cell.clone(),
            })
            .collect();
        let first = row.first().cloned().unwrap_or_default();
        let line = if rest.is_empty() { first } else { format!("{first}: {}", rest.join(", ")) };
        if !line.is_empty() {
            self.blocks.push(Block::Text(line));
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn article(body: &str) -> Article {
        Article::from_markdown("x", &format!("---\nid: x\ntitle: Title\n---\n{body}"))
    }

    #[test]
    fn markup_is_gone_and_headings_are_kept() {
        let found = passages(&article(
            "# Title\n\nPay **25 euros** at [our site](https://x.example).\n\n## Late fees\n\n- *Day 1*: none\n- Day 2: `5` euros\n",
        ));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].heading, "Late fees");
        assert_eq!(found[0].text, "Pay 25 euros at our site.\nLate fees:\nDay 1: none\nDay 2: 5 euros");
    }

    #[test]
    fn tables_read_as_lines() {
        let found = passages(&article(
            "| Fare | Europe | World |\n|---|---|---|\n| Light | 70 | 140 |\n\n| Bag | Price |\n|---|---|\n| Cabin | 18 |\n",
        ));
        assert_eq!(found[0].text, "Light: Europe 70, World 140\nCabin: 18");
    }

    #[test]
    fn a_long_section_is_cut_at_blocks_and_keeps_its_heading() {
        let paragraph = "word ".repeat(70);
        let found = passages(&article(&format!("## Rules\n\n{paragraph}\n\n{paragraph}\n")));
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|passage| passage.heading == "Rules"));
    }

    #[test]
    fn sentences_skip_headings_and_keep_abbreviations_whole() {
        let text = "Late fees:\nYou pay 2.50 euros, e.g. by card. Then it ends!\nNo fee on day 1\nAnd then?";
        let found: Vec<&str> = sentences(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, ["You pay 2.50 euros, e.g. by card.", "Then it ends!", "No fee on day 1"]);
    }

    #[test]
    fn text_is_not_read_as_markup() {
        let article = Article { format: Format::Text, ..article("a * b\n\n# not a heading\n") };
        assert_eq!(passages(&article)[0].text, "a * b\n# not a heading");
    }

    proptest! {
        #[test]
        fn no_passage_is_empty_or_endless(body in "(\\PC{0,30}[ .\n#*|-]){0,200}") {
            for passage in passages(&article(&body)) {
                prop_assert!(!passage.text.is_empty());
                prop_assert!(word_count(&passage.text) <= 2 * MOST_WORDS + word_count(&passage.heading));
                for range in sentences(&passage.text) {
                    prop_assert!(!passage.text[range].is_empty());
                }
            }
        }
    }
}
