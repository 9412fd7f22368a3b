//! Splits Rust source into code, comments and test lines, for `tidy`.
//!
//! It is a scanner, not a parser: `syn` would be the heaviest dependency of xtask.

/// A Rust file, line by line. Removed text is replaced by blanks, so columns do not shift.
#[derive(Debug)]
pub(crate) struct Source {
    /// Lines without comments and without the content of literals.
    pub(crate) code: Vec<String>,
    /// Lines with only comments.
    pub(crate) comments: Vec<String>,
    /// Whether each line belongs to an item under `#[cfg(test)]`.
    pub(crate) test: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Comment,
    Literal,
}

impl Source {
    /// Splits `text`. Text that is not Rust never panics.
    pub(crate) fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let parts = classify(&chars);
        let only = |part| -> Vec<String> {
            let kept: String =
                chars.iter().zip(&parts).map(|(&c, &p)| if c == '\n' || p == part { c } else { ' ' }).collect();
            kept.lines().map(str::to_owned).collect()
        };
        let code = only(Part::Code);
        let test = test_lines(&code);
        Self { comments: only(Part::Comment), code, test }
    }

    /// The 0-based numbers of the lines whose code contains `token` as a whole word.
    pub(crate) fn lines_with<'a>(&'a self, token: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.code.iter().enumerate().filter(move |(_, line)| has_token(line, token)).map(|(i, _)| i)
    }
}

/// Whether `line` contains `token` as a whole word: not touched by a letter, digit or `_` at an end that is one itself.
pub(crate) fn has_token(line: &str, token: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(token).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + token.len()..].chars().next();
        let joins = |inner: Option<char>, outer: Option<char>| inner.is_some_and(word) && outer.is_some_and(word);
        !joins(token.chars().next(), before) && !joins(token.chars().next_back(), after)
    })
}

/// The part that each character belongs to. The quotes of a literal count as code, so that a literal leaves a trace.
fn classify(chars: &[char]) -> Vec<Part> {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut parts = vec![Part::Code; chars.len()];
    let mut i = 0;
    while i < chars.len() {
        let begin = i;
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
                parts[begin..i].fill(Part::Comment);
            }
            ('/', '*') => {
                let mut depth = 0;
                while i < chars.len() {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
                i = i.min(chars.len());
                parts[begin..i].fill(Part::Comment);
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                parts[begin + 1..i.min(chars.len())].fill(Part::Literal);
                i += 1;
            }
            ('r', '"' | '#') if raw_begins(chars, i) => {
                let hashes = chars[i + 1..].iter().take_while(|&&c| c == '#').count();
                i += hashes + 2;
                let inside = i;
                let closes = |i: usize| at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#');
                while i < chars.len() && !closes(i) {
                    i += 1;
                }
                parts[inside.min(chars.len())..i].fill(Part::Literal);
                i += hashes + 1;
            }
            // A character literal: a lifetime has no closing quote.
            ('\'', '\\') => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                parts[begin + 1..i.min(chars.len())].fill(Part::Literal);
                i += 1;
            }
            ('\'', _) if at(i + 2) == '\'' => {
                parts[i + 1] = Part::Literal;
                i += 3;
            }
            _ => i += 1,
        }
    }
    parts
}

/// Whether the `r` at `i` opens a raw string: it starts a word (or ends `br` or `cr`), and only `#`s come before the quote.
fn raw_begins(chars: &[char], i: usize) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let prefix = if i > 0 && matches!(chars[i - 1], 'b' | 'c') { i - 1 } else { i };
    let free = prefix == 0 || !word(chars[prefix - 1]);
    free && chars[i + 1..].iter().find(|&&c| c != '#') == Some(&'"')
}

/// Marks the lines of each item under a `#[cfg(...)]` that requires `test`.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    let mut i = 0;
    while i < code.len() {
        let line = code[i].trim_start();
        let is_test = line.starts_with("#[cfg(") && has_token(line, "test") && !line.contains("not(test");
        if !is_test {
            i += 1;
            continue;
        }
        let begin = i;
        let mut depth = 0_i32;
        'item: while i < code.len() {
            // The attribute has no braces; the item ends at its last brace, or at `;` if it has none.
            for c in code[i].chars() {
                match c {
                    '{' => depth += 1,
                    '}' => {
                        depth -= 1;
                        if depth == 0 {
                            break 'item;
                        }
                    }
                    ';' if depth == 0 => break 'item,
                    _ => {}
                }
            }
            i += 1;
        }
        let end = (i + 1).min(code.len());
        test[begin..end].fill(true);
        i = end;
    }
    test
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let source = Source::new(
            "let a = \"println!(\\\"x\\\")\"; // println!\n/* dbg!( /* nested */ dbg!( */ let b = 1;\nlet c = r#\"dbg!(\"#;\n",
        );
        assert_eq!(source.lines_with("println!").count(), 0);
        assert_eq!(source.lines_with("dbg!").count(), 0);
        assert_eq!(source.lines_with("let").count(), 3);
        assert!(source.comments[0].contains("println!"));
        assert!(!source.comments[2].contains("dbg!"));
    }

    #[test]
    fn character_literals_and_lifetimes_do_not_open_strings() {
        let source = Source::new(
            "fn f<'a>(x: &'a str) -> char { '\"' }\nlet q = '\\''; dbg!(q); // it's\nlet r = b'\"';\nvar\n",
        );
        assert_eq!(source.lines_with("dbg!").collect::<Vec<_>>(), [1]);
        assert_eq!(source.lines_with("var").collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_token_is_a_whole_word() {
        assert!(has_token("x = print!(1)", "print!"));
        assert!(!has_token("eprint!(1)", "print!"));
        assert!(!has_token("unsafe_code", "unsafe"));
        assert!(has_token("a.unwrap()", ".unwrap()"));
        assert!(!has_token("a.unwrap_or(1)", ".unwrap()"));
    }

    #[test]
    fn test_items_end_with_their_last_brace() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { if x { y } }\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}\n#[cfg(not(test))]\nfn e() {}\n";
        let source = Source::new(text);
        assert_eq!(source.test, [false, true, true, true, true, false, true, true, false, false, false]);
    }

    #[test]
    fn other_text_does_not_panic() {
        for text in ["\"", "'", "'\\", "/*", "r#\"", "r#", "#[cfg(test)]\nmod x {", "b'", "\"\\", "é'é'é"] {
            assert_eq!(Source::new(text).code.len(), text.lines().count(), "{text:?}");
        }
    }
}
