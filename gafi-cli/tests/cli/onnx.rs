//! `--from onnx`: generators and teachers out of ONNX files, where this build runs them. That they compute what PyTorch
//! does is tested in gafi-onnx; here is what they are used for.

use std::path::Path;

use super::fails;

fn golden(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gafi-onnx/tests/goldens").join(file);
    path.to_str().unwrap().to_string()
}

#[cfg(feature = "onnx")]
mod built {
    use gafi_core::{Artifact, Dataset};

    use super::super::{files, ok, write};
    use super::*;

    #[test]
    fn files_stand_where_networks_do() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let shapes = "shapes={ classes = 3, train = 90, test = 12 }";
        ok(
            dir.path(),
            &["import", "shapes", "--out", "data", "--set", "size=16", "--set", "channels=3", "--set", shapes],
        );
        for (golden_file, name) in [("biggan.onnx", "g.onnx"), ("classifier.onnx", "c.onnx")] {
            std::fs::copy(golden(golden_file), at(name)).unwrap();
        }
        ok(dir.path(), &["import-generator", "--from", "onnx", "g.onnx", "--classes-of", "data/train", "--out", "gan"]);
        let teacher = ["import-teacher", "--from", "onnx", "c.onnx", "--classes-of", "data/train", "--out", "teacher"];
        ok(dir.path(), &[&teacher[..], &["--set", "mean=[0.5, 0.4, 0.3]", "--set", "std=[0.25]"]].concat());
        // The artifacts are all that is needed from here on.
        std::fs::remove_file(at("g.onnx")).unwrap();
        std::fs::remove_file(at("c.onnx")).unwrap();
        ok(dir.path(), &["verify", "gan", "teacher"]);

        // Through files, in portions of other sizes, on other threads: the same samples.
        let wide = |per_class: &str, threads: &str, out: &str| {
            let expand = ["expand", "--generator", "gan", "--set", "std=1.3", "--threads", threads, "--out", out];
            ok(dir.path(), &[&expand[..], &["--set", per_class]].concat());
            let data = Dataset::open(&Artifact::open(at(out)).unwrap()).unwrap();
            let shard = data.shards().next().unwrap().unwrap();
            let of_class = shard.labels.iter().zip(shard.images.chunks(3 * 16 * 16)).filter(|(label, _)| label.0 == 2);
            of_class.map(|(_, image)| image.to_vec()).collect::<Vec<_>>()
        };
        let (many, few) = (wide("per_class=30", "3", "many"), wide("per_class=3", "1", "few"));
        assert_eq!(many[..3], few[..]);
        assert_ne!(many[0], many[1]);

        let filter = ["filter", "--samples", "many", "--teacher", "teacher", "--set", "threshold=0.3", "--out", "kept"];
        ok(dir.path(), &[&filter[..], &["--set", "per_class=10", "--set", "on_exhausted=backfill"]].concat());
        ok(
            dir.path(),
            &["audit", "--synthetic", "many", "--real", "data/train", "--teacher", "teacher", "--out", "audit"],
        );

        // In memory, under a student, renewed every epoch; a second run gives the same bytes.
        let source = "per_class = 12\nsource = { kind = \"gafi\", std = [1.0, 1.3], seed = 3 }\nrecycle = { period = 1, factor = 0.5 }\n";
        let learner =
            "learner = { architecture = { name = \"resnet\", depth = 20, width = 4 }, epochs = 2, batch = 16 }\n";
        write(dir.path(), "student.toml", &format!("{source}{learner}"));
        let student = |out: &str| {
            let inputs = ["recycle", "--generator", "gan", "--val", "data/val", "-c", "student.toml", "--out", out];
            ok(dir.path(), &inputs);
            files(&at(out))
        };
        assert_eq!(student("one"), student("two"));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let says = |verb: &str, file: &str, more: &[&str], code, expected: &str| {
            let import = [verb, "--from", "onnx", &golden(file), "--out", "made"];
            let text = fails(dir.path(), &[&import[..], more].concat(), code);
            assert!(text.contains(expected), "{text}");
            assert!(!dir.path().join("made").exists());
        };
        let (generator, teacher) = ("import-generator", "import-teacher");
        says(generator, "biggan.onnx", &[], 2, "labels are integers");
        says(generator, "biggan.onnx", &["--classes", "a,b,c", "--set", "latents=q"], 2, "z F32 (N, 6), y I64 (N)");
        says(generator, "biggan.onnx", &["--classes", "a,b,c", "--set", "span=[0,1]"], 2, "unknown field `span`");
        says(generator, "bad_unknown.onnx", &[], 1, "found com.example.Wobble");
        says(generator, "bad_nan.onnx", &[], 1, "expected finite values");
        says(generator, "none.onnx", &[], 1, "none.onnx");
        says(teacher, "biggan.onnx", &[], 1, "expected one input, images");
        says(teacher, "classifier.onnx", &["--set", "gives=probabilities"], 2, "expected logits");
        says(teacher, "classifier.onnx", &["--classes", "a,b"], 2, "expected 3 names");
    }
}

#[cfg(not(feature = "onnx"))]
#[test]
fn a_build_without_it_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    for verb in ["import-generator", "import-teacher"] {
        let text = fails(dir.path(), &[verb, "--from", "onnx", &golden("biggan.onnx"), "--out", "made"], 2);
        assert!(text.contains("cargo build -p gafi-cli --features onnx"), "{text}");
    }
}
