//! A web page to an article: its visible text with headings, lists and tables, as Markdown.

use scraper::ElementRef;
use scraper::Html;
use scraper::Node;
use scraper::Selector;

use crate::knowledge::article::Article;
use crate::knowledge::article::Format;
use crate::knowledge::article::escape_markdown;

use super::id_of;

/// What never is an article's text.
const DROPPED: [&str; 15] = [
    "head", "script", "style", "noscript", "template", "iframe", "svg", "nav", "header", "footer", "aside",
    "form", "button", "select", "textarea",
];
/// What starts a new line.
const BLOCKS: [&str; 17] = [
    "p",
    "div",
    "section",
    "article",
    "main",
    "ul",
    "ol",
    "table",
    "blockquote",
    "pre",
    "dl",
    "dt",
    "dd",
    "figure",
    "details",
    "summary",
    "br",
];

/// Reads a page. The title is `<title>`, else the first `<h1>`, else the file's name.
pub(super) fn read(stem: &str, text: &str) -> Article {
    let page = Html::parse_document(text);
    let first = |selector: &str| {
        let selector = Selector::parse(selector).ok()?;
        let text = page.select(&selector).next()?.text().collect::<String>();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then_some(text)
    };
    let title = first("title").or_else(|| first("h1")).unwrap_or_else(|| stem.replace(['-', '_'], " "));
    let mut writer = Writer::default();
    writer.children(page.root_element(), 0);
    writer.end_line("");
    Article {
        id: id_of(stem),
        title,
        category: None,
        updated: None,
        format: Format::Markdown,
        body: writer.body.trim().to_owned(),
    }
}

/// Deeper elements are read as if they stood here: pages that deep are made to break readers.
const DEEPEST: usize = 200;

#[derive(Default)]
struct Writer {
    body: String,
    line: String,
    /// What the line being read starts with.
    prefix: &'static str,
}

impl Writer {
    fn children(&mut self, element: ElementRef<'_>, depth: usize) {
        if depth > DEEPEST {
            return;
        }
        for child in element.children() {
            match child.value() {
                Node::Text(text) => self.line.push_str(text),
                Node::Element(_) => {
                    if let Some(inner) = ElementRef::wrap(child) {
                        self.element(inner, depth + 1);
                    }
                }
                _ => {}
            }
        }
    }

    fn element(&mut self, element: ElementRef<'_>, depth: usize) {
        let name = element.value().name();
        let prefix = match name {
            "h1" => "# ",
            "h2" => "## ",
            "h3" => "### ",
            "h4" | "h5" | "h6" => "#### ",
            "li" | "tr" => "- ",
            _ if DROPPED.contains(&name) => return,
            "td" | "th" => {
                if !self.line.trim().is_empty() {
                    self.line.push_str(" · ");
                }
                return self.children(element, depth);
            }
            _ if BLOCKS.contains(&name) => "",
            _ => return self.children(element, depth),
        };
        // A paragraph inside a list item goes on in the item's line.
        if prefix.is_empty() && self.line.trim().is_empty() && !self.prefix.is_empty() {
            return self.children(element, depth);
        }
        self.end_line(prefix);
        self.children(element, depth);
        self.end_line("");
    }

    fn end_line(&mut self, next_prefix: &'static str) {
        let text = self.line.split_whitespace().collect::<Vec<_>>().join(" ");
        self.line.clear();
        if !text.is_empty() {
            self.body.push_str(self.prefix);
            self.body.push_str(escape_markdown(&text).trim_end());
            self.body.push_str("\n\n");
        }
        self.prefix = next_prefix;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_text_is_kept_with_its_structure() {
        let article = read(
            "lost-bags",
            "<html><head><title>Lost  bags</title><style>p{}</style></head><body><nav>Home</nav>\
             <h2>Report</h2><p>Call <b>us</b> at *once*.</p><script>alert(1)</script>\
             <ul><li><p>Within 7 days</p></li><li>With the tag</li></ul>\
             <table><tr><th>Fare</th><th>Fee</th></tr><tr><td>Light</td><td>€18</td></tr></table></body></html>",
        );
        assert_eq!(article.title, "Lost bags");
        assert_eq!(
            article.body,
            "## Report\n\nCall us at \\*once\\*.\n\n- Within 7 days\n\n- With the tag\n\n- Fare · Fee\n\n- Light · €18"
        );
    }

    #[test]
    fn a_page_of_endless_depth_is_read_without_harm() {
        let article = read("deep", &format!("<p>Top</p>{}", "<div>".repeat(5_000)));
        assert_eq!(article.body, "Top");
    }
}
