//! `--from onnx`: generators and teachers from ONNX files. gafi-onnx tests that they compute what PyTorch does; the tests here use
//! them in stages.

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
    fn onnx_files_replace_networks_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let shapes = "shapes={ classes = 3, train = 90, test = 12 }";
        ok(dir.path(), &["import", "shapes", "--out", "data", "--size", "16", "--channels", "3", "--set", shapes]);
        for (golden_file, name) in [("biggan.onnx", "g.onnx"), ("classifier.onnx", "c.onnx")] {
            std::fs::copy(golden(golden_file), at(name)).unwrap();
        }
        ok(dir.path(), &["import-generator", "--from", "onnx", "g.onnx", "--classes-of", "data/train", "--out", "gan"]);
        let teacher = ["import-teacher", "--from", "onnx", "c.onnx", "--classes-of", "data/train", "--out", "teacher"];
        ok(dir.path(), &[&teacher[..], &["--set", "mean=[0.5, 0.4, 0.3]", "--set", "std=[0.25]"]].concat());
        // From here on only the artifacts are needed.
        std::fs::remove_file(at("g.onnx")).unwrap();
        std::fs::remove_file(at("c.onnx")).unwrap();
        ok(dir.path(), &["verify", "gan", "teacher"]);

        // Samples do not depend on the size of the set or the number of threads.
        let wide = |per_class: &str, threads: &str, out: &str| {
            let expand = ["expand", "--generator", "gan", "--std", "1.3", "--threads", threads, "--out", out];
            ok(dir.path(), &[&expand[..], &["--set", per_class]].concat());
            let data = Dataset::open(&Artifact::open(at(out)).unwrap()).unwrap();
            let shard = data.batches().next().unwrap().unwrap();
            let of_class = shard.labels.iter().zip(shard.images.chunks(3 * 16 * 16)).filter(|(label, _)| label.0 == 2);
            of_class.map(|(_, image)| image.to_vec()).collect::<Vec<_>>()
        };
        let many = wide("per_class=30", "3", "many");
        let few = wide("per_class=3", "1", "few");
        assert_eq!(many[..3], few[..]);
        assert_ne!(many[0], many[1]);

        let filter = ["filter", "--samples", "many", "--teacher", "teacher", "--threshold", "0.3", "--out", "kept"];
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
    fn unsuitable_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |verb: &str, file: &str, more: &[&str], code, expected: &str| {
            let import = [verb, "--from", "onnx", &golden(file), "--out", "made"];
            let text = fails(dir.path(), &[&import[..], more].concat(), code);
            assert!(text.contains(expected), "{text}");
            assert!(!dir.path().join("made").exists());
        };
        let generator = "import-generator";
        let teacher = "import-teacher";
        refused(generator, "biggan.onnx", &[], 2, "class numbers do not show");
        refused(generator, "biggan.onnx", &["--classes", "a,b,c", "--set", "latents=q"], 2, "z F32 (N, 6), y I64 (N)");
        refused(generator, "biggan.onnx", &["--classes", "a,b,c", "--set", "span=[0,1]"], 2, "unknown field `span`");
        refused(generator, "bad_unknown.onnx", &[], 1, "found com.example.Wobble");
        refused(generator, "bad_nan.onnx", &[], 1, "expected finite values");
        refused(generator, "none.onnx", &[], 1, "none.onnx");
        refused(teacher, "biggan.onnx", &[], 1, "expected one input, images");
        refused(teacher, "classifier.onnx", &["--set", "gives=probabilities"], 2, "expected logits");
        refused(teacher, "classifier.onnx", &["--classes", "a,b"], 2, "expected 3 names");
    }
}

#[cfg(not(feature = "onnx"))]
#[test]
fn a_build_without_onnx_names_the_feature() {
    let dir = tempfile::tempdir().unwrap();
    for verb in ["import-generator", "import-teacher"] {
        let text = fails(dir.path(), &[verb, "--from", "onnx", &golden("biggan.onnx"), "--out", "made"], 2);
        assert!(text.contains("cargo build -p gafi-cli --features onnx"), "{text}");
    }
}
