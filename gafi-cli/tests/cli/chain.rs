//! Stages in sequence: through files and in memory, by hand and from a pipeline file, with a foreign program in between.

use std::num::NonZeroUsize;
use std::path::Path;

use gafi_cli::Registry;
use gafi_core::{Artifact, ClassId, Context, Dataset, Inputs, Rows};
use gafi_pipeline::GafiSource;

use super::{fails, json, ok, trained, write};

fn dataset(path: &Path) -> Dataset {
    Dataset::open(&Artifact::open(path).unwrap()).unwrap()
}

/// Number and pixels of every row of a class, in order.
fn of_class(dataset: &Dataset, class: ClassId) -> Vec<(u64, Vec<u8>)> {
    let bytes = dataset.info().image.bytes();
    let mut rows = Vec::new();
    for shard in dataset.batches() {
        let shard = shard.unwrap();
        for i in 0..shard.len() {
            if shard.labels[i] == class {
                rows.push((shard.ids[i], shard.images[i * bytes..(i + 1) * bytes].to_vec()));
            }
        }
    }
    rows
}

#[test]
fn a_chain_through_files_equals_the_same_chain_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    trained(dir.path());
    let wide = ["--std", "1.4", "--per-class", "40", "--seed", "5"];
    ok(dir.path(), &[&["expand", "--generator", "gan", "--out", "wide"][..], &wide].concat());
    ok(dir.path(), &["filter", "--samples", "wide", "--teacher", "teacher", "--threshold", "0.3", "--out", "clean"]);

    let cx = Context::new(Registry::standard().loaders(&candle_core::Device::Cpu));
    let inputs = Inputs::new()
        .with("generators", &Artifact::open(at("gan")).unwrap())
        .with("teacher", &Artifact::open(at("teacher")).unwrap());
    let unfiltered = GafiSource { std: gafi_expand::StdRange::Fixed(1.4), ..GafiSource::plain(20, 5) };
    let rule = gafi_filter::FilterRule::with_threshold(0.3);
    let filtered = GafiSource { filter: Some(rule), ..unfiltered.clone() };

    let on_disk = dataset(&at("wide"));
    let clean = dataset(&at("clean"));
    assert_eq!(on_disk.len(), 80);
    assert!(!clean.is_empty() && clean.len() <= 80);
    for (config, on_disk) in [(unfiltered, on_disk), (filtered, clean)] {
        let mut source = config.open(&inputs, &cx).unwrap();
        for class in ClassId::all(2) {
            let rows = of_class(&on_disk, class);
            let mut pulled = Vec::new();
            // Odd batch sizes must not matter.
            while let Some(max) = NonZeroUsize::new((rows.len() - pulled.len()).min(7)) {
                let batch = source.pull(class, max).unwrap().unwrap();
                let bytes = source.image().bytes();
                pulled.extend(batch.ids.iter().copied().zip(batch.images.chunks(bytes).map(<[u8]>::to_vec)));
            }
            assert!(rows == pulled, "{class} differs");
        }
    }
}

#[test]
fn a_pipeline_file_runs_stages_and_foreign_programs() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    // The foreign program copies its samples and describes them as their manifest does.
    write(
        dir.path(),
        "copy.sh",
        r#"cp "$1"/shard-*.safetensors "$2"/ && cp expected.json "$2"/content.json && echo noise on stdout"#,
    );
    write(
        dir.path(),
        "mine.toml",
        r#"
        [[stage]]
        name = "wide"
        stage = "expand"
        inputs = { generator = "gan" }
        config = { std = [1.0, 1.5], per_class = 24 }

        [[stage]]
        name = "copied"
        stage = "command"
        inputs = { samples = "wide" }
        config = { program = ["sh", "copy.sh", "{samples}", "{out}"] }

        [[stage]]
        name = "student"
        stage = "train-classifier"
        inputs = { train = "copied", val = "data/val" }
        config = { classifier = { architecture = { depth = 20, width = 4 }, epochs = 1, batch = 16 } }
        "#,
    );
    // Without a description of the result the stage fails.
    let text = fails(dir.path(), &["pipeline", "--config", "mine.toml", "--out", "run"], 1);
    assert!(text.contains("stage copied failed"), "{text}");
    assert!(!dir.path().join("run/copied").exists());

    let content = Artifact::open(dir.path().join("run/wide")).unwrap().manifest().content.clone();
    let mut wrong = content.clone();
    wrong["counts"] = serde_json::json!([24, 23]);
    write(dir.path(), "expected.json", &wrong.to_string());
    let text = fails(dir.path(), &["pipeline", "--config", "mine.toml", "--out", "run"], 1);
    assert!(text.contains("47") && text.contains("48"), "{text}");

    write(dir.path(), "expected.json", &content.to_string());
    let record = json(dir.path(), &["pipeline", "--config", "mine.toml", "--out", "run", "--json"]);
    let cached: Vec<_> = record["artifacts"].as_array().unwrap().iter().map(|a| a["cached"].clone()).collect();
    assert_eq!(cached, [true, false, false]);
    ok(dir.path(), &["verify", "run/wide", "run/copied", "run/student"]);
}

#[test]
fn every_verb_prints_one_record_with_json() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    let record = |arguments: &[&str]| json(dir.path(), arguments);
    let made = record(&["evaluate", "--classifier", "teacher", "--dataset", "data/test", "--out", "score", "--json"]);
    assert_eq!(made["kind"], "trials");
    assert_eq!(made["cached"], false);
    assert_eq!(made["content"]["n"], 40);
    let again = record(&["evaluate", "--classifier", "teacher", "--dataset", "data/test", "--out", "score", "--json"]);
    assert_eq!(again["cached"], true);
    assert_eq!(again["id"], made["id"]);
    assert_eq!(record(&["inspect", "gan", "--json"])["manifest"]["kind"], "generator");
    let text = String::from_utf8(ok(dir.path(), &["inspect", "gan"]).stdout).unwrap();
    for part in ["gan: generator", "checkpoints at steps 10, 20", "made by train-gan", "steps = 20", "train: "] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(!text.contains('{'), "for people, not JSON:\n{text}");
    assert_eq!(record(&["verify", "gan", "--json"])["whole"], true);
}
