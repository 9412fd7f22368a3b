//! Configurations: of pipelines and stages, as files and as assignments.

use std::sync::OnceLock;

use candle_core::Device;
use gafi_cli::Registry;
use gafi_core::{Inputs, check_inputs};
use gafi_data::NamedSet;
use gafi_nn::{ClassifierArchitecture, ClassifierConfig, ResNetConfig};
use gafi_pipeline::overrides::{merge, parse_toml, read_toml, resolve, set};
use gafi_pipeline::{DryRun, Host, PRESETS, PipelineConfig, dry_run as plan, preset};
use serde_json::{Value, json};

use crate::scratch::{cx, put, show};

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::standard)
}

/// A configuration as a TOML file without the keys that have no value.
fn toml(mut tree: Value) -> Vec<u8> {
    fn text(at: &str, tree: &Value, lines: &mut Vec<String>) {
        for (key, value) in tree.as_object().into_iter().flatten() {
            let name = format!("{at}{key}");
            match value {
                Value::Null => {}
                Value::Object(_) => text(&format!("{name}."), value, lines),
                value => lines.push(format!("{name} = {}", inline(value))),
            }
        }
    }
    fn inline(value: &Value) -> String {
        match value {
            Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
            Value::Object(fields) => {
                let fields = fields.iter().filter(|(_, value)| !value.is_null());
                let fields: Vec<_> = fields.map(|(key, value)| format!("{key} = {}", inline(value))).collect();
                format!("{{ {} }}", fields.join(", "))
            }
            other => other.to_string(),
        }
    }
    if let Some(data) = tree.get_mut("data").and_then(Value::as_object_mut) {
        data.remove("path");
    }
    let mut lines = Vec::new();
    text("", &tree, &mut lines);
    lines.join("\n").into_bytes()
}

fn resolved(tree: Value) -> Value {
    let config: PipelineConfig = serde_json::from_value(tree).expect("presets are valid");
    json!(config.resolved())
}

pub(crate) fn configurations() -> Vec<Vec<u8>> {
    PRESETS.iter().map(|(name, _)| toml(resolved(preset(Some(name)).expect("it is listed")))).collect()
}

/// Reads a configuration over the defaults and dry-runs it. `data` replaces the settings of the images: a changed path must not
/// make a target read the machine's files.
fn dry(input: &[u8], data: impl Fn(&mut PipelineConfig)) {
    let Some(over) = show(read_toml(&put("pipeline.toml", input))) else { return };
    let mut tree = json!(PipelineConfig::default());
    merge(&mut tree, over);
    let Some(mut config) = show(resolve::<PipelineConfig>(tree, "pipeline")) else { return };
    config.data.path = None;
    config.data.offline = true;
    config.trained_generators.clear();
    data(&mut config);
    let host = Host::new((Device::Cpu, cx().clone()), Vec::new(), 1);
    let Some(DryRun { config, jobs, estimate, missing }) = show(plan(&host, &config)) else { return };
    assert!(!estimate.to_string().is_empty());
    let text = json!([config, jobs.len()]).to_string();
    assert!(!text.is_empty() && missing.is_none_or(|why| !format!("{why:#}").is_empty()));
}

/// With images that are not on this machine, so that no network is measured.
pub(crate) fn configuration(input: &[u8]) {
    dry(input, |config| config.data.set = Some(NamedSet::Cifar10));
}

pub(crate) fn dry_runs() -> Vec<Vec<u8>> {
    let mut small = preset(Some("smoke")).expect("it is listed");
    let over = "data.size = 8\ndata.shapes = { classes = 2, train = 40, test = 20 }\n[gan.architecture]\nname = \"small\"\nz = 2\nshared = 2\ng = [2]\nd = [2]";
    merge(&mut small, parse_toml(over).expect("it is TOML"));
    for student in ["student", "teacher"] {
        merge(&mut small, json!({student: {"architecture": {"depth": 8, "width": 1}, "batch": 2}}));
    }
    vec![toml(resolved(small))]
}

/// With built-in images, and the networks that the configuration describes.
pub(crate) fn dry_run(input: &[u8]) {
    dry(input, |config| {
        config.data.set = Some(NamedSet::Shapes);
        // Measuring a large network takes long and needs as much memory as training it. Invalid configurations must be
        // refused before that.
        let of = |config: &ClassifierConfig| match config.architecture {
            ClassifierArchitecture::ResNet(ResNetConfig { depth, width }) => depth > 20 || width > 16,
            other => other.width() > 16,
        };
        let numbers = json!(config.gan.architecture).to_string();
        let large = numbers.split(|c: char| !c.is_ascii_digit()).any(|number| number.len() > 2);
        if config.check().is_ok()
            && (of(&config.student) || of(&config.teacher) || large || config.data.size > Some(32))
        {
            config.data.set = Some(NamedSet::Cifar10);
        }
    });
}

/// A stage's name, a line end, and its configuration.
pub(crate) fn stages() -> Vec<Vec<u8>> {
    let stages = registry().stages();
    stages.map(|kind| [kind.name.as_bytes(), b"\n", &toml(kind.defaults.clone())].concat()).collect()
}

pub(crate) fn stage(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (name, text) = text.split_once('\n').unwrap_or((text, ""));
    let Some(kind) = show(registry().stage(name)) else { return };
    let Some(over) = show(parse_toml(text)) else { return };
    let mut tree = kind.defaults.clone();
    merge(&mut tree, over);
    if let Some(stage) = show(kind.make(tree, &Device::Cpu)) {
        show(check_inputs(&*stage, &Inputs::new()));
        assert!(!stage.config().is_null());
    }
}

/// Assignments, one a line.
pub(crate) fn assignment_lists() -> Vec<Vec<u8>> {
    let lists = [
        "gan.length.steps=2000\nsearch.stds=[1.0, 1.5]\nstudent.schedule=one-cycle",
        "data.val_per_class=unset\nx = { a = 1, \"b c\" = [1, {d = 2}] }\n a . b = 1979-05-27",
    ];
    lists.map(|list| list.as_bytes().to_vec()).into()
}

pub(crate) fn assignments(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut tree = json!({});
    for line in text.lines() {
        show(set(&mut tree, line));
    }
    show(resolve::<PipelineConfig>(tree, "pipeline"));
}
