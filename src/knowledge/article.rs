//! An article: what a knowledge base is made of, and its Markdown file form.

use serde::Deserialize;
use serde::Serialize;

/// The longest id of a base or an article, in bytes.
pub const ID_MAX_BYTES: usize = 128;

/// How an article's body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Markdown (CommonMark with tables).
    Markdown,
    /// Plain paragraphs: nothing in it is markup.
    Text,
}

impl Format {
    /// Returns the name as the store writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Markdown => "markdown",
            Format::Text => "text",
        }
    }

    /// Returns the format that [`Format::as_str`] names; anything else is plain text.
    pub fn from_name(name: &str) -> Format {
        if name == "markdown" { Format::Markdown } else { Format::Text }
    }
}

/// One knowledge item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Article {
    /// Names it within its base: see [`is_id`].
    pub id: String,
    /// The title people see.
    pub title: String,
    /// Its shelf, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// When its author last changed it, as the author wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<String>,
    /// How the body is written.
    pub format: Format,
    /// The text.
    pub body: String,
}

/// Returns whether `text` may name a base or an article: 1 to 128 of `A-Z a-z 0-9 . _ -`, not
/// starting with a dot, so that it is also a safe file name.
pub fn is_id(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    !text.is_empty() && text.len() <= ID_MAX_BYTES && !text.starts_with('.') && text.chars().all(is_allowed)
}

/// Returns an id made of the words of `text`: "Lost & found" is `lost-found`.
pub fn slug(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut slug = String::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        if slug.len() + word.len() >= LONGEST {
            break;
        }
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(&word.to_ascii_lowercase());
    }
    if slug.is_empty() { "article".to_owned() } else { slug }
}

impl Article {
    /// Reads a Markdown file with optional front matter; `fallback_id` names it if it does not.
    ///
    /// Front matter is `key: rest of line`, not YAML: a title may hold colons and dashes.
    pub fn from_markdown(fallback_id: &str, text: &str) -> Article {
        let (front, body) = split_front_matter(text);
        let field = |name: &str| {
            front
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
                .map(|(_, value)| unquote(value.trim()).to_owned())
                .filter(|value| !value.is_empty())
        };
        let id = field("id").filter(|id| is_id(id)).unwrap_or_else(|| slug(fallback_id));
        let title = field("title")
            .or_else(|| first_heading(body).map(str::to_owned))
            .unwrap_or_else(|| fallback_id.replace(['-', '_'], " "));
        Article {
            id,
            title,
            category: field("category"),
            updated: field("updated"),
            format: Format::Markdown,
            body: body.trim().to_owned(),
        }
    }

    /// Returns the article as a Markdown file that [`Article::from_markdown`] reads back.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("---\nid: {}\ntitle: {}\n", self.id, one_line(&self.title));
        for (key, value) in [("category", &self.category), ("updated", &self.updated)] {
            if let Some(value) = value {
                text.push_str(&format!("{key}: {}\n", one_line(value)));
            }
        }
        text.push_str("---\n");
        match self.format {
            Format::Markdown => text.push_str(&self.body),
            Format::Text => text.push_str(&escape_markdown(&self.body)),
        }
        text.push('\n');
        text
    }
}

/// Returns plain text with every character that Markdown would read as markup escaped.
pub fn escape_markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for line in text.lines() {
        let line = line.trim_start();
        let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let marker = line.len() - numbered.len();
        for (at, character) in line.char_indices() {
            let starts_block = at == 0 && matches!(character, '#' | '-' | '+' | '>' | '=' | '~');
            let ends_number = at == marker && marker > 0 && matches!(character, '.' | ')');
            if starts_block
                || ends_number
                || matches!(character, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '|' | '&')
            {
                escaped.push('\\');
            }
            escaped.push(character);
        }
        escaped.push('\n');
    }
    escaped
}

fn split_front_matter(text: &str) -> (&str, &str) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Some(rest) =
        text.strip_prefix("---").and_then(|rest| rest.trim_start_matches(' ').strip_prefix(['\n', '\r']))
    else {
        return ("", text);
    };
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return (&rest[..end], &rest[end + line.len()..]);
        }
        end += line.len();
    }
    ("", text)
}

fn first_heading(body: &str) -> Option<&str> {
    body.lines().find_map(|line| line.strip_prefix("# ")).map(str::trim).filter(|title| !title.is_empty())
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_may_hold_colons_and_dashes() {
        let article = Article::from_markdown(
            "x",
            "---\nid: tel-1\ntitle: Roaming: EU - and beyond\n---\n# Hi\n\nBody.\n",
        );
        assert_eq!(article.id, "tel-1");
        assert_eq!(article.title, "Roaming: EU - and beyond");
        assert_eq!(article.body, "# Hi\n\nBody.");
    }

    #[test]
    fn a_file_without_front_matter_is_named_by_its_heading() {
        let article = Article::from_markdown("Lost bag", "# Lost baggage\r\n\r\nReport it.\r\n");
        assert_eq!(article.id, "lost-bag");
        assert_eq!(article.title, "Lost baggage");
    }

    #[test]
    fn an_unclosed_front_matter_is_text() {
        let article = Article::from_markdown("note", "---\nid: other\nNo end.");
        assert_eq!(article.id, "note");
        assert!(article.body.starts_with("---"));
    }

    #[test]
    fn a_markdown_file_survives_writing_and_reading() {
        let article = Article::from_markdown(
            "x",
            "---\nid: a\ntitle: T: u\ncategory: C\nupdated: 2026-01-01\n---\nBody *x*.\n",
        );
        assert_eq!(Article::from_markdown("y", &article.to_markdown()), article);
    }

    #[test]
    fn ids_are_safe_file_names() {
        for (text, expected) in
            [("tel", true), ("a.b_c-1", true), ("", false), ("..", false), ("a/b", false), ("a b", false)]
        {
            assert_eq!(is_id(text), expected, "{text:?}");
        }
        assert_eq!(slug("What's lost & found?"), "what-s-lost-found");
        assert_eq!(slug("???"), "article");
    }
}
