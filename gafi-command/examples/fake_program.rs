//! A generator and a scorer for tests, correct or with one of many faults.
//!
//!     fake_program ROLE MODE [FILE]
//!
//! ROLE is `generator` or `scorer`. MODE `good` follows the protocol, and is a template for your own program: images
//! are noise from the seed, probabilities come from the mean grey. The other modes each have a fault. FILE has the
//! class names.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks over its pipes")]

use std::io::{BufRead, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

const IMAGE: [usize; 3] = [1, 2, 3];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, mode, file @ ..] = &arguments[..] else { panic!("fake_program ROLE MODE [FILE]") };
    eprintln!("fake: {role}, {mode}");
    let classes = file.first().map(|file| std::fs::read_to_string(file).unwrap());
    let classes: Vec<&str> = classes.as_ref().map_or(vec!["dark", "light"], |text| text.lines().collect());
    let mut lines = std::io::stdin().lock().lines();
    let greeting: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&greeting["protocol"], greeting["role"].as_str()), (&json!(1), Some(role.as_str())));
    assert!(Path::new(greeting["scratch"].as_str().unwrap()).is_dir());

    match mode.as_str() {
        "crash-at-once" => fail(),
        "mute" => hang(),
        "talk" => send(&json!("Loading weights")),
        "future" => send(&json!({"protocol": 2})),
        _ => {}
    }
    let mut hello = json!({"protocol": 1, "classes": classes, "image": IMAGE, "batch": 5});
    match (role.as_str(), mode.as_str()) {
        ("generator", "latents") => hello["latent_dim"] = json!(4),
        ("generator", "floats" | "nan") => hello["values"] = json!("f32"),
        ("scorer", _) => hello["feature_dim"] = json!(2),
        _ => {}
    }
    if role == "generator" && mode != "plain" {
        hello["std"] = json!(true);
    }
    send(&hello);
    for (number, line) in lines.enumerate() {
        let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let n = request["count"].as_u64().unwrap() as usize;
        // The two requests of the check at the start must succeed.
        let wrong = number >= 2;
        match mode.as_str() {
            "crash" if wrong => fail(),
            "leave" if wrong => std::process::exit(0),
            "hang" if wrong => hang(),
            "error" if wrong => {
                send(&json!({"id": request["id"], "error": "no weights for class 1"}));
                continue;
            }
            "id" if wrong => {
                send(&json!({"id": 77}));
                continue;
            }
            "chatter" if wrong => println!("step 1, loss 0.5"),
            "endless" if wrong => loop {
                std::io::stdout().write_all(&[b'x'; 4096]).unwrap();
            },
            _ => {}
        }
        let n = if wrong && mode == "short" { n - 1 } else { n };
        let shape = if wrong && mode == "shape" { vec![n, 3, 2, 1] } else { [vec![n], IMAGE.to_vec()].concat() };
        let answer = Path::new(request["answer"].as_str().unwrap());
        if wrong && mode == "garbage" {
            std::fs::write(answer, "not a tensor file...").unwrap();
        } else if wrong && mode == "pipe" {
            let made = std::process::Command::new("mkfifo").arg(answer).status();
            assert!(made.is_ok_and(|status| status.success()));
        } else if wrong && mode == "device" {
            #[cfg(unix)]
            std::os::unix::fs::symlink("/dev/zero", answer).unwrap();
        } else if wrong && mode == "long" {
            // No bytes on disk, but a length of a terabyte.
            std::fs::File::create(answer).unwrap().set_len(1 << 40).unwrap();
        } else if wrong && mode == "no-file" {
        } else if role == "generator" {
            let images = draw(&request, n, mode, number);
            if matches!(mode.as_str(), "floats" | "nan") {
                let mut floats: Vec<f32> = images.iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect();
                if wrong && mode == "nan" {
                    floats[4] = f32::NAN;
                }
                write(answer, &[("images", Dtype::F32, shape, bytes(&floats))]);
            } else {
                write(answer, &[("images", Dtype::U8, shape, images)]);
            }
        } else {
            score(&request, answer, n, mode, number, classes.len());
        }
        send(&json!({"id": request["id"]}));
    }
    eprintln!("fake: end of input");
}

/// Noise that depends on a sample's seed and std only, or on its latent; in faulty modes also on its batch.
fn draw(request: &Value, n: usize, mode: &str, number: usize) -> Vec<u8> {
    let seeds: Vec<u64> = request["seeds"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()).collect();
    let stds: Vec<f64> = request["std"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
    let latents = (mode == "latents").then(|| read(&request["latents"], "latents", Dtype::F32));
    let mut images = Vec::new();
    for row in 0..n {
        if let Some(latents) = &latents {
            images.extend(latents[row * 16..row * 16 + 6].iter());
            continue;
        }
        let seed = match mode {
            "stateful" => number as u64,
            "one-seed" => seeds[0].wrapping_add(row as u64),
            _ => seeds[row],
        };
        let odd = u8::from(mode == "rounding" && n == 1);
        for pixel in 0..6u64 {
            let noise = (seed ^ pixel).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
            images.push((noise as f64 * stds[row]) as u8 + odd);
        }
    }
    images
}

/// The mean grey of each image as the probability of the last class; the first two pixels as features.
fn score(request: &Value, answer: &Path, n: usize, mode: &str, number: usize, classes: usize) {
    let images = read(&request["images"], "images", Dtype::U8);
    let mut probabilities = vec![0.0f32; n * classes];
    let mut features = Vec::new();
    for (row, image) in images.chunks(6).take(n).enumerate() {
        let light = image.iter().map(|v| f32::from(*v)).sum::<f32>() / (6.0 * 255.0);
        let light = if mode == "stateful" { number as f32 / 8.0 } else { light };
        probabilities[row * classes] = 1.0 - light;
        probabilities[row * classes + classes - 1] = light;
        features.extend(image[..2].iter().map(|v| f32::from(*v)));
    }
    if number >= 2 && mode == "nan" {
        probabilities[1] = f32::NAN;
    }
    if number >= 2 && mode == "logits" {
        probabilities[0] += 0.5;
    }
    let classes = if number >= 2 && mode == "shape" { classes + 1 } else { classes };
    probabilities.resize(n * classes, 0.0);
    let mut tensors = vec![("probabilities", Dtype::F32, vec![n, classes], bytes(&probabilities))];
    if request["features"] == true {
        tensors.push(("features", Dtype::F32, vec![n, 2], bytes(&features)));
    }
    write(answer, &tensors);
}

fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn read(path: &Value, name: &str, dtype: Dtype) -> Vec<u8> {
    let file = std::fs::read(path.as_str().unwrap()).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), dtype);
    tensor.data().to_vec()
}

fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (*name, TensorView::new(*dtype, shape.clone(), data).expect("a tensor as long as its shape says"))
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn send(line: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output is open");
}

fn fail() {
    eprintln!("fake: no such layer");
    std::process::exit(3);
}

fn hang() {
    std::thread::sleep(std::time::Duration::from_secs(100));
}
