//! Writes a configuration file to start from: every key with its meaning and value. Keys at their default are commented out, so only
//! the others are active.

use serde_json::Value;

use crate::schema::Guide;
use gafi_pipeline::overrides::merge;

/// Columns of a comment.
const WIDTH: usize = 110;

/// The text of a file that gives `value` when it is merged over `base`. Both are whole configurations, which `guide` describes.
pub(crate) fn write(guide: &Guide, base: &Value, value: &Value) -> String {
    let mut starter = Starter { guide, text: String::new() };
    starter.table("", guide.root(), base, value, false);
    starter.text
}

struct Starter<'a> {
    guide: &'a Guide,
    text: String,
}

impl Starter<'_> {
    /// Writes the keys of a table. Tables of the outermost table become sections; with `off` every key is commented out.
    fn table(&mut self, path: &str, node: &Value, base: &Value, value: &Value, off: bool) {
        let mut sections = Vec::new();
        for (key, schema) in self.guide.keys(node) {
            let inner = self.guide.resolve(schema);
            if path.is_empty() && (inner["properties"].is_object() || !self.guide.keys(&inner["items"]).is_empty()) {
                sections.push((key, schema, inner));
            } else {
                self.key(key, schema, &base[key], &value[key], off);
            }
        }
        for (key, schema, inner) in sections {
            if inner["properties"].is_object() {
                self.comment("\n", schema["description"].as_str().unwrap_or_default());
                self.text += &format!("[{key}]\n");
                self.table(key, inner, &base[key], &value[key], false);
            } else {
                self.tables(key, schema, &inner["items"], &value[key]);
            }
        }
    }

    /// Writes a list of tables, or a commented example if it is empty.
    fn tables(&mut self, key: &str, schema: &Value, item: &Value, value: &Value) {
        self.comment("\n", schema["description"].as_str().unwrap_or_default());
        let keys = self.guide.keys(item).into_iter();
        let base: Value = keys.map(|(key, schema)| (key, schema["default"].clone())).collect();
        let items = value.as_array().map_or(&[][..], Vec::as_slice);
        for item_value in items {
            let mut whole = base.clone();
            merge(&mut whole, item_value.clone());
            self.text += &format!("[[{key}]]\n");
            self.table(key, item, &base, &whole, false);
        }
        if items.is_empty() {
            self.text += &format!("#[[{key}]]\n");
            self.table(key, item, &base, &base, true);
        }
    }

    /// Writes one key: its meaning, then its value.
    fn key(&mut self, key: &str, schema: &Value, base: &Value, value: &Value, off: bool) {
        self.comment("\n", schema["description"].as_str().unwrap_or_default());
        self.details("  ", schema);
        let absent = value.is_null();
        if absent {
            self.comment("", "Not set. For example:");
        }
        let value = if absent { self.example(schema) } else { value.clone() };
        // A required key must be written even at its default.
        let needed = schema.get("default").is_none() && !off && !absent;
        let mark = if absent || off || (value == *base && !needed) { "#" } else { "" };
        self.text += &format!("{mark}{key} = {}\n", self.inline(schema, &value));
    }

    /// Describes the variants of an enum, or the keys of an inline table.
    fn details(&mut self, indent: &str, schema: &Value) {
        for choice in self.guide.alternatives(schema) {
            let text = choice["description"].as_str().unwrap_or_default();
            let tag = self.guide.keys(choice).into_iter().find(|(_, schema)| schema["const"].is_string());
            match tag {
                Some((key, schema)) => self.comment(indent, &format!("{key} = {}: {text}", schema["const"])),
                None if choice["const"].is_string() => self.comment(indent, &format!("{}: {text}", choice["const"])),
                None => {}
            }
            let deeper = format!("{indent}  ");
            self.rows(&deeper, choice);
        }
        self.rows(indent, schema);
    }

    fn rows(&mut self, indent: &str, table: &Value) {
        for (key, schema) in self.guide.keys(table).into_iter().filter(|(_, schema)| !schema["const"].is_string()) {
            let text = schema["description"].as_str().unwrap_or_default();
            let words = self.guide.alternatives(schema).iter().filter(|choice| choice["const"].is_string());
            let words: Vec<_> = words.map(|choice| choice["const"].to_string()).collect();
            let words = if words.len() < 2 { String::new() } else { format!(" One of {}.", words.join(", ")) };
            self.comment(indent, &format!("{key}: {text}{words}"));
        }
    }

    /// Writes wrapped prose, each line after `# `; a commented key has `#` alone.
    fn comment(&mut self, indent: &str, prose: &str) {
        if let Some(indent) = indent.strip_prefix('\n') {
            self.text.push('\n');
            return self.comment(indent, prose);
        }
        let mut line = String::new();
        let mut next = indent.to_string();
        for word in prose.split_whitespace() {
            if !line.is_empty() && next.len() + line.len() + word.len() > WIDTH {
                self.text += &format!("# {next}{line}\n");
                // Continuation lines are indented further if the first one is.
                next = if indent.is_empty() { String::new() } else { format!("{indent}  ") };
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        if !line.is_empty() {
            self.text += &format!("# {next}{line}\n");
        }
    }

    /// An example value of a key.
    fn example(&self, schema: &Value) -> Value {
        let node = self.guide.resolve(schema);
        let given = |node: &Value| node["examples"].get(0).or(node.get("default").filter(|v| !v.is_null())).cloned();
        if let Some(value) = given(schema).or_else(|| given(node)) {
            return value;
        }
        if let Some(first) = self.guide.alternatives(node).first().or(node["anyOf"].get(0)) {
            return if first["const"].is_null() { self.example(first) } else { first["const"].clone() };
        }
        let kind = node["type"].as_str().or_else(|| node["type"].get(0)?.as_str()).unwrap_or_default();
        match kind {
            "object" => self.guide.keys(node).into_iter().map(|(key, inner)| (key, self.example(inner))).collect(),
            "integer" => 1.into(),
            "number" => 1.0.into(),
            "boolean" => true.into(),
            "array" => Vec::<Value>::new().into(),
            _ => "".into(),
        }
    }

    /// A value as one line of TOML, with table keys in the order of the code.
    fn inline(&self, schema: &Value, value: &Value) -> String {
        match value {
            Value::Object(fields) => {
                let variant = self.guide.alternatives(schema).iter().find(|choice| {
                    let mut tags =
                        self.guide.keys(choice).into_iter().filter(|(_, schema)| schema["const"].is_string());
                    tags.any(|(tag, schema)| fields.get(tag) == Some(&schema["const"]))
                });
                let keys = self.guide.keys(variant.unwrap_or(schema));
                let known = keys.iter().filter_map(|(key, schema)| Some((*key, *schema, fields.get(*key)?)));
                let all = known.filter(|(_, _, value)| !value.is_null());
                let all: Vec<_> =
                    all.map(|(key, schema, value)| format!("{key} = {}", self.inline(schema, value))).collect();
                format!("{{ {} }}", all.join(", "))
            }
            Value::Array(items) => {
                let item = &self.guide.resolve(schema)["items"];
                let items: Vec<_> = items.iter().map(|value| self.inline(item, value)).collect();
                format!("[{}]", items.join(", "))
            }
            // Numbers, strings and booleans, all of which TOML has.
            scalar => toml::Value::try_from(scalar).map(|scalar| scalar.to_string()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gafi_pipeline::overrides::{parse_toml, resolve};
    use gafi_pipeline::{self as pipeline, PRESETS, PipelineConfig};

    fn starter(preset: Option<&str>) -> (Value, Value, String) {
        let base = pipeline::preset(None).unwrap();
        let value = pipeline::preset(preset).unwrap();
        let text = write(&Guide::of::<PipelineConfig>(), &base, &value);
        (base, value, text)
    }

    fn read(mut base: Value, text: &str) -> PipelineConfig {
        merge(&mut base, parse_toml(text).unwrap_or_else(|e| panic!("{e}\n{text}")));
        resolve(base, "pipeline").unwrap()
    }

    #[test]
    fn the_file_resolves_to_its_preset() {
        for preset in [None].into_iter().chain(PRESETS.iter().map(|(name, _)| Some(*name))) {
            let (base, value, text) = starter(preset);
            assert_eq!(read(base, &text), resolve(value, "pipeline").unwrap(), "{preset:?}\n{text}");
        }
    }

    #[test]
    fn every_key_is_written_and_parses_without_its_comment_sign() {
        for preset in [None, Some("quickstart"), Some("cpu")] {
            let (base, _, text) = starter(preset);
            let live =
                |line: &str| line.strip_prefix('#').filter(|l| !l.starts_with([' ', ':'])).unwrap_or(line).to_string();
            let all: String = text.lines().map(|line| live(line) + "\n").collect();
            assert!(all.contains("\nval_fraction = ") && all.contains("\nper_class = "), "{all}");
            read(base.clone(), &all);
            // One at a time, so that no key hides an error of another.
            let tree = parse_toml(&all).unwrap();
            for (key, value) in tree.as_object().unwrap() {
                let keys = value.as_object().map(|table| table.keys().collect::<Vec<_>>());
                for inner in keys.unwrap_or_default() {
                    let mut one = base.clone();
                    merge(&mut one, serde_json::json!({ key: { inner: value[inner] } }));
                    resolve::<PipelineConfig>(one, "pipeline").unwrap();
                }
            }
            // No key is missing.
            for (key, fields) in base.as_object().unwrap() {
                let missing = |inner: &&String| tree[key].get(inner.as_str()).is_none();
                assert!(tree.get(key).is_some(), "{key} is missing");
                let missing: Vec<_> = fields.as_object().into_iter().flat_map(|f| f.keys()).filter(missing).collect();
                assert!(missing.is_empty(), "{key}: {missing:?}");
            }
        }
    }

    #[test]
    fn comments_are_wrapped_and_distinct_from_keys() {
        let (_, _, text) = starter(Some("cpu"));
        for line in text.lines().filter(|line| line.starts_with("# ")) {
            assert!(line.len() <= WIDTH + 4, "{line}");
        }
        assert!(text.contains("\n# Real images.\n[data]\n"), "{text}");
        assert!(text.contains("runs of several seeds") && text.contains("\n#seed = 0\n"), "{text}");
        assert!(text.contains("\n#   \"halving\": Checkpoints are ranked"), "{text}");
        assert!(text.contains("\n[[variants]]\n") && text.contains("\n#times = 1\n"), "{text}");
        assert!(
            text.contains("on_exhausted: What happens to an exhausted class. One of \"error\", \"backfill\"."),
            "{text}"
        );
    }
}
