//! Tables and lists of questions and answers: CSV and JSON.

use std::collections::HashSet;

use serde_json::Map;
use serde_json::Value;

use crate::knowledge::article::Article;
use crate::knowledge::article::Format;
use crate::knowledge::article::is_id;
use crate::knowledge::article::slug;

use super::FileError;

/// The most rows of one file.
const MOST_ROWS: usize = 100_000;
/// The names, in order of preference, of what people search by …
const TITLES: [&str; 6] = ["question", "title", "name", "subject", "heading", "q"];
/// … and of what answers it.
const BODIES: [&str; 8] = ["answer", "text", "body", "content", "response", "description", "reply", "a"];

/// Reads a table with a header row. Columns are found by name in any letter case; a table of
/// two columns with other names is read as question and answer.
pub(super) fn read_csv(stem: &str, text: &str) -> Result<Vec<Article>, FileError> {
    let delimiter = delimiter(text);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .from_reader(text.as_bytes());
    let mut rows = reader.records();
    let failed = |error: csv::Error| FileError::Csv(error.to_string());
    let header = rows.next().ok_or(FileError::Empty)?.map_err(failed)?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_lowercase()).collect();
    let column =
        |wanted: &[&str]| wanted.iter().find_map(|wanted| names.iter().position(|name| name == wanted));
    let (title, body, has_header) = match (column(&TITLES), column(&BODIES)) {
        (Some(title), Some(body)) => (title, body, true),
        _ if names.len() == 2 => (0, 1, false),
        _ => {
            return Err(FileError::Csv(format!(
                "no question and answer columns among: {}",
                names.join(", ")
            )));
        }
    };
    let (id, category) = (column(&["id"]), column(&["category", "topic", "section"]));
    let mut list = List::new(stem);
    let unnamed = (!has_header).then_some(Ok(header));
    for row in unnamed.into_iter().chain(rows) {
        let row = row.map_err(failed)?;
        let cell =
            |at: Option<usize>| at.and_then(|at| row.get(at)).map(str::trim).filter(|cell| !cell.is_empty());
        if let (Some(title), Some(body)) = (cell(Some(title)), cell(Some(body))) {
            list.add(
                if has_header { cell(id) } else { None },
                title,
                body,
                if has_header { cell(category) } else { None },
            )?;
        }
    }
    list.finish()
}

/// Reads an array of objects, an object with such an array, or one object.
pub(super) fn read_json(stem: &str, text: &str) -> Result<Vec<Article>, FileError> {
    let value: Value = serde_json::from_str(text).map_err(|error| FileError::Json(error.to_string()))?;
    let items = match value {
        Value::Array(items) => items,
        Value::Object(object) => match inner_array(&object) {
            Some(items) => items.clone(),
            None => vec![Value::Object(object)],
        },
        _ => return Err(FileError::Json("expected an array of objects or an object".to_owned())),
    };
    let mut list = List::new(stem);
    for (at, item) in items.iter().enumerate() {
        let unreadable =
            || FileError::Json(format!("item {}: expected an object with a title and a text", at + 1));
        let object = item.as_object().ok_or_else(unreadable)?;
        let title = field(object, &TITLES).ok_or_else(unreadable)?;
        let body = field(object, &BODIES).ok_or_else(unreadable)?;
        list.add(field(object, &["id"]), title, body, field(object, &["category", "topic", "section"]))?;
    }
    list.finish()
}

fn inner_array(object: &Map<String, Value>) -> Option<&Vec<Value>> {
    ["articles", "items", "faq", "faqs", "questions", "data"]
        .iter()
        .find_map(|name| object.get(*name)?.as_array())
}

fn field<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| {
        let (_, value) = object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        value.as_str().map(str::trim).filter(|text| !text.is_empty())
    })
}

/// Spreadsheets write tabs, or semicolons where the comma is taken.
fn delimiter(text: &str) -> u8 {
    let header = text.lines().next().unwrap_or_default();
    let count = |mark: char| header.matches(mark).count();
    if count('\t') > 0 {
        b'\t'
    } else if count(';') > count(',') {
        b';'
    } else {
        b','
    }
}

/// Collects rows as articles with ids of their own.
struct List {
    stem: String,
    taken: HashSet<String>,
    articles: Vec<Article>,
}

impl List {
    fn new(stem: &str) -> List {
        List { stem: slug(stem), taken: HashSet::new(), articles: Vec::new() }
    }

    /// A row without an id is named by its file and question, so that a corrected file replaces
    /// its earlier answers.
    fn add(
        &mut self,
        id: Option<&str>,
        title: &str,
        body: &str,
        category: Option<&str>,
    ) -> Result<(), FileError> {
        if self.articles.len() == MOST_ROWS {
            return Err(FileError::Csv(format!("more than {MOST_ROWS} rows")));
        }
        let wanted = match id.filter(|id| is_id(id)) {
            Some(id) => id.to_owned(),
            None => format!("{}-{}", self.stem.get(..40).unwrap_or(&self.stem), slug(title)),
        };
        let mut id = wanted.clone();
        let mut number = 1;
        while !self.taken.insert(id.clone()) {
            number += 1;
            id = format!("{wanted}-{number}");
        }
        self.articles.push(Article {
            id,
            title: title.split_whitespace().collect::<Vec<_>>().join(" "),
            category: category.map(str::to_owned),
            updated: None,
            format: Format::Text,
            body: body.to_owned(),
        });
        Ok(())
    }

    fn finish(self) -> Result<Vec<Article>, FileError> {
        if self.articles.is_empty() { Err(FileError::Empty) } else { Ok(self.articles) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(articles: Vec<Article>) -> Vec<(String, String)> {
        articles.into_iter().map(|article| (article.title, article.body)).collect()
    }

    fn pair(title: &str, body: &str) -> (String, String) {
        (title.to_owned(), body.to_owned())
    }

    #[test]
    fn columns_are_found_by_name_or_place() {
        let expected = [pair("How?", "So, then.")];
        for text in [
            "Question,Answer\nHow?,\"So, then.\"\n",
            "id;ANSWER;question\n1;So, then.;How?\n",
            "How?\tSo, then.\n",
        ] {
            assert_eq!(titles(read_csv("faq", text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_table_without_answers_is_named() {
        let error = read_csv("x", "a,b,c\n1,2,3\n").unwrap_err();
        assert_eq!(error.to_string(), "csv: no question and answer columns among: a, b, c");
    }

    #[test]
    fn the_same_question_twice_keeps_both_answers() {
        let ids: Vec<String> = read_csv("my faq", "question,answer\nHow?,a\nHow?,b\n")
            .unwrap()
            .into_iter()
            .map(|a| a.id)
            .collect();
        assert_eq!(ids, ["my-faq-how", "my-faq-how-2"]);
    }

    #[test]
    fn json_is_an_array_or_one_object() {
        let expected = [pair("T", "Text")];
        for text in [
            r#"[{"title":"T","text":"Text"}]"#,
            r#"{"question":"T","answer":"Text"}"#,
            r#"{"articles":[{"Title":"T","content":"Text"}]}"#,
        ] {
            assert_eq!(titles(read_json("x", text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_json_item_without_text_is_named() {
        let error = read_json("x", r#"[{"title":"T","text":"Text"},{"title":"U"}]"#).unwrap_err();
        assert_eq!(error.to_string(), "json: item 2: expected an object with a title and a text");
    }
}
