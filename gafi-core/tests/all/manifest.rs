//! Manifests: they are read back as written, and no content panics.

use std::collections::BTreeMap;
use std::fs;

use gafi_core::*;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::common::*;

/// Any JSON, including numbers that are hard to preserve.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-1.0e3..1.0e3f64).prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        proptest::collection::vec(any::<char>(), 0..4).prop_map(|c| Value::from(c.into_iter().collect::<String>())),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("\\PC{0,6}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn provenance() -> impl Strategy<Value = Provenance> {
    let ids = proptest::collection::vec("[0-9a-f]{64}", 1..3);
    let inputs = proptest::collection::btree_map("[a-z]{1,8}", ids, 0..3);
    ("[a-z-]{1,12}", any::<u32>(), any_json(), inputs, "[0-9.]{1,8}")
        .prop_map(|(stage, revision, config, inputs, version)| Provenance { stage, revision, config, inputs, version })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// A manifest is read back as written, with the same fingerprint, to the last digit of its numbers.
    #[test]
    fn round_trip(made_by in provenance(), content in any_json(), bytes in any::<u64>()) {
        let fingerprint = made_by.fingerprint();
        let files = BTreeMap::from([("a.safetensors".to_string(), FileEntry { bytes, blake3: "0".repeat(64) })]);
        let manifest = Manifest { format: FORMAT_VERSION, kind: Kind::Trials, made_by, fingerprint, content, files, checksum: None };
        for text in [serde_json::to_vec_pretty(&manifest).unwrap(), serde_json::to_vec(&manifest).unwrap()] {
            let back: Manifest = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(&back, &manifest);
            prop_assert_eq!(back.made_by.fingerprint(), back.fingerprint);
        }
    }

    #[test]
    fn the_fingerprint_is_of_everything_but_the_version(made_by in provenance(), other in any_json()) {
        let of = |change: &dyn Fn(&mut Provenance)| {
            let mut changed = made_by.clone();
            change(&mut changed);
            changed.fingerprint()
        };
        let own = made_by.fingerprint();
        prop_assert_eq!(&of(&|p| p.version = "x".into()), &own);
        prop_assert_ne!(&of(&|p| p.stage.push('x')), &own);
        prop_assert_ne!(&of(&|p| p.revision ^= 1), &own);
        prop_assert_ne!(&of(&|p| { p.inputs.insert("another".into(), vec![String::new()]); }), &own);
        if made_by.config != other {
            prop_assert_ne!(&of(&|p| p.config = other.clone()), &own);
        }
    }

    /// For bytes that are not a manifest, the error names the file.
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MANIFEST_FILE), bytes).unwrap();
        let error = Artifact::open(dir.path()).unwrap_err().to_string();
        prop_assert!(error.contains(MANIFEST_FILE), "{}", error);
    }

    /// A valid dataset with one value of its manifest replaced: refused or read, never a panic.
    #[test]
    fn hostile_values_never_panic(at in any::<proptest::sample::Index>(), by in hostile()) {
        // Written once, because each write syncs to disk.
        static MADE: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
        let made = MADE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            make(&Count::of(10), &dir.path().join("set")).unwrap();
            dir
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set");
        copy(&made.path().join("set"), &path);
        let mut manifest: Value = serde_json::from_slice(&fs::read(path.join(MANIFEST_FILE)).unwrap()).unwrap();
        let places = places(&manifest, String::new());
        let place = &places[at.index(places.len())];
        *manifest.pointer_mut(place).unwrap() = by;
        fs::write(path.join(MANIFEST_FILE), manifest.to_string()).unwrap();
        let read = Artifact::open(&path).and_then(|a| {
            let _ = a.verify();
            let _ = DatasetInfo::of(&a).map(|info| (info.rows(), info.image.bytes()));
            let set = Dataset::open(&a)?;
            let mut images = vec![0; set.len() * set.info().image.bytes()];
            set.read(&(0..set.len()).collect::<Vec<_>>(), &mut images)
        });
        if let Err(e) = read {
            prop_assert!(e.to_string().contains("set"), "{} = {:?}: no path in {}", place, manifest.pointer(place), e);
        }
    }
}

fn hostile() -> impl Strategy<Value = Value> {
    prop_oneof![
        any_json(),
        Just(json!(u64::MAX)),
        Just(json!(i64::MIN)),
        Just(json!(-1)),
        Just(json!(0)),
        Just(json!(1e300)),
        Just(json!(usize::MAX / 2)),
        Just(json!([u64::MAX, u64::MAX])),
        Just(json!({"channels": 1u64 << 32, "height": 1u64 << 32, "width": 1u64 << 32})),
        Just(json!([{"file": "../../etc/passwd", "rows": 10}])),
        Just(json!("../x")),
    ]
}

/// JSON pointers to everything in `value`.
fn places(value: &Value, at: String) -> Vec<String> {
    let mut all = vec![at.clone()];
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| all.extend(places(v, format!("{at}/{k}")))),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| all.extend(places(v, format!("{at}/{i}")))),
        _ => {}
    }
    all
}

/// The hashed bytes never change: sorted keys, no white space, doubles in scientific form. The hash comes from
/// `goldens/streams.py`, which implements BLAKE3 independently.
#[test]
fn the_fingerprint_is_the_hash_of_canonical_json() {
    let made_by = Provenance {
        stage: "filter".into(),
        revision: 3,
        config: json!({"z": [1, 1.0, -0.0, 1e21, 1.5e-7, null, true], "a\n\"": "é\u{1f}/", "a": {}}),
        inputs: BTreeMap::from([
            ("train".into(), vec!["ab".into(), "ef".into()]),
            ("samples".into(), vec!["cd".into()]),
        ]),
        version: "9".into(),
    };
    let text = concat!(
        r#"{"config":{"a":{},"a\n\"":"é\u001f/","z":[1,1e0,-0e0,1e21,1.5e-7,null,true]},"#,
        r#""format":2,"inputs":{"samples":["cd"],"train":["ab","ef"]},"revision":3,"stage":"filter"}"#
    );
    let goldens: Value = serde_json::from_str(include_str!("../goldens/streams.json")).unwrap();
    assert_eq!(blake3::hash(text.as_bytes()).to_hex().as_str(), goldens["fingerprint"]);
    assert_eq!(made_by.fingerprint(), goldens["fingerprint"]);
}

fn refused(change: impl Fn(&mut Value)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = by_hand(&dir.path().join("x"), Kind::Trials, json!({}), &[("a.json", b"{}".to_vec())]);
    let file = path.join(MANIFEST_FILE);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    Artifact::open(&path).unwrap().verify().unwrap();
    change(&mut manifest);
    fs::write(&file, manifest.to_string()).unwrap();
    let error = Artifact::open(&path).unwrap_err().to_string();
    assert!(error.contains("manifest.json"), "no file in {error}");
    error
}

#[test]
fn unknown_keys_and_other_versions_are_refused_by_name() {
    assert!(refused(|m| m["surprise"] = json!(1)).contains("surprise"));
    assert!(refused(|m| m["made_by"]["surprise"] = json!(1)).contains("surprise"));
    assert!(refused(|m| m["files"]["a.json"]["surprise"] = json!(1)).contains("surprise"));
    assert!(refused(|m| m["kind"] = json!("picture")).contains("picture"));
    assert!(
        refused(|m| m["format"] = json!(1))
            .contains("expected version 2, found version 1; create the artifact again with this version of GaFi")
    );
    // A later version may have other fields, but the error names the version.
    let later = refused(|m| {
        m["format"] = json!(3);
        m["surprise"] = json!(1);
    });
    assert!(later.contains("found version 3") && !later.contains("surprise"), "{later}");
    for none in [json!("1"), json!(1.0), json!(-1), json!(null)] {
        assert!(refused(|m| m["format"] = none.clone()).contains("found no version"));
    }
}

#[test]
fn a_truncated_manifest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = by_hand(&dir.path().join("x"), Kind::Trials, json!({}), &[("a.json", b"{}".to_vec())]);
    let file = path.join(MANIFEST_FILE);
    let whole = fs::read(&file).unwrap();
    for cut in 0..whole.len() {
        fs::write(&file, &whole[..cut]).unwrap();
        let error = Artifact::open(&path).unwrap_err().to_string();
        assert!(error.contains("manifest.json"), "cut at {cut}: {error}");
    }
}

#[test]
fn deeply_nested_json_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(MANIFEST_FILE), format!("{{\"format\":2,\"content\":{}", "[".repeat(200_000))).unwrap();
    assert!(Artifact::open(dir.path()).unwrap_err().to_string().contains("manifest.json"));
}

#[test]
fn names_with_a_path_are_refused() {
    for name in
        ["../a", "a/b", "/etc/passwd", "a\\b", "", ".", "..", ".a", "c:a", "manifest.json", "log.jsonl", "a\nb", "\0"]
    {
        let error = refused(|m| m["files"][name] = json!({"bytes": 0, "blake3": ""}));
        assert!(error.contains("plain file names"), "{name:?}: {error}");
    }
}
