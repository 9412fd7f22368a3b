//! Streams against values of an independent program (`goldens/streams.py`). If one of these tests fails, every result
//! changes.

use gafi_core::Stream;
use gafi_core::stream::{below, permutation, unit_f32};
use rand::Rng;
use serde_json::{Value, json};

fn goldens() -> Vec<Value> {
    let goldens: Value = serde_json::from_str(include_str!("../goldens/streams.json")).unwrap();
    goldens["streams"].as_array().unwrap().clone()
}

fn stream(golden: &Value) -> Stream {
    let root = Stream::new(golden["seed"].as_u64().unwrap());
    golden["path"].as_array().unwrap().iter().fold(root, |stream, step| match step {
        Value::String(name) => stream.child(name),
        index => stream.at(index.as_u64().unwrap()),
    })
}

#[test]
fn streams_equal_the_independent_ones() {
    assert_eq!(goldens().len(), 8);
    for golden in goldens() {
        let s = stream(&golden);
        let key = golden["key"].as_str().unwrap();
        assert_eq!(s.seed(), u64::from_str_radix(&key[..16], 16).unwrap().swap_bytes(), "{golden}");
        let mut rng = s.rng();
        let words: Vec<String> = (0..40).map(|_| rng.next_u64().to_string()).collect();
        assert_eq!(json!(words), golden["u64"]);
        let mut rng = s.rng();
        assert_eq!(json!((0..3).map(|_| rng.next_u32()).collect::<Vec<_>>()), golden["u32"]);
    }
}

#[test]
fn derived_values_equal_the_independent_ones() {
    for golden in goldens() {
        let s = stream(&golden);
        let mut rng = s.rng();
        assert_eq!(json!((0..3).map(|_| f64::from(unit_f32(&mut rng))).collect::<Vec<_>>()), golden["unit_f32"]);
        let mut rng = s.rng();
        assert_eq!(json!((0..8).map(|_| below(&mut rng, 10)).collect::<Vec<_>>()), golden["below_10"]);
        assert_eq!(json!(permutation(9, &s)), golden["permutation_9"]);
    }
    assert_eq!(permutation(0, &Stream::new(1)), [0; 0]);
    assert_eq!(permutation(1, &Stream::new(1)), [0]);
    assert_eq!(below(&mut Stream::new(1).rng(), 0), 0);
}
