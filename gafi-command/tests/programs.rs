//! Real child processes, correct and faulty: their results, the errors, and that none keeps running.
//!
//! All of them are `examples/fake_program.rs`, which `cargo test` builds beside this test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gafi_command::{CommandGenerator, CommandScorer, Failure, ImportProgram, Program, Role, register};
use gafi_core::{
    Artifact, ClassId, Context, Error, Generator, ImageSpec, Inputs, ModelLoaders, Result, SampleRequest, Scorer,
    execute,
};

fn fake() -> String {
    let name = format!("examples/fake_program{}", std::env::consts::EXE_SUFFIX);
    let path = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.exists(),
        "{} is missing: `cargo test -p gafi-command` builds it, `--test programs` alone does not",
        path.display()
    );
    path.to_str().unwrap().to_owned()
}

fn program(role: &str, mode: &str) -> Program {
    Program::new([fake().as_str(), role, mode]).with_timeout_s(60)
}

fn never() -> Arc<AtomicBool> {
    Arc::default()
}

fn generator(mode: &str) -> Result<CommandGenerator> {
    CommandGenerator::start(&program("generator", mode), None, &never())
}

fn scorer(mode: &str) -> Result<CommandScorer> {
    CommandScorer::start(&program("scorer", mode), None, &never())
}

/// Samples `from..to` of class 1 with latents of standard deviation `std`.
fn draw(generator: &mut CommandGenerator, from: u64, to: u64, std: f32) -> Result<Vec<u8>> {
    let seeds: Vec<u64> = (from..to).map(|i| u64::MAX - i * i).collect();
    let latents: Vec<f32> = (from..to).flat_map(|i| vec![i as f32; generator.latent_dim()]).collect();
    let stds = vec![std; seeds.len()];
    generator.sample(&SampleRequest { class: ClassId(1), first: from, seeds: &seeds, stds: &stds, latents: &latents })
}

fn failure(error: &Error) -> &Failure {
    match error {
        Error::Other { source, .. } => source.downcast_ref().unwrap_or_else(|| panic!("{error}: {source}")),
        other => panic!("{other}"),
    }
}

/// The request, the expected and the found of a failure.
fn text_of(error: &Error) -> String {
    let failure = failure(error);
    assert!(failure.program.contains("fake_program"), "{failure:?}");
    assert!(failure.stderr.iter().any(|line| line.starts_with("fake: ")), "{failure:?}");
    assert!(error.to_string().contains(&failure.program) && error.to_string().contains(&failure.request), "{error}");
    format!("{} | {} | {}", failure.request, failure.expected, failure.found)
}

#[test]
fn samples_do_not_depend_on_their_batch() {
    for mode in ["good", "floats", "latents", "rounding"] {
        let mut one = generator(mode).unwrap();
        assert_eq!((*one.image(), one.classes().len()), (ImageSpec::new(1, 2, 3), 2));
        let all = draw(&mut one, 0, 13, 1.5).unwrap();
        assert_eq!(all.len(), 13 * 6);
        let mut other = generator(mode).unwrap();
        for (from, to) in [(7, 13), (0, 7), (12, 13)] {
            let part = draw(&mut other, from, to, 1.5).unwrap();
            if mode != "rounding" {
                assert!(part == all[from as usize * 6..to as usize * 6], "{mode} {from}..{to}");
            }
        }
        assert_eq!(draw(&mut one, 0, 0, 1.5).unwrap(), [0; 0]);
    }
    let mut good = generator("good").unwrap();
    assert_ne!(draw(&mut good, 0, 5, 1.0).unwrap(), draw(&mut good, 0, 5, 1.5).unwrap(), "the std reaches the program");
    let plain = draw(&mut good, 0, 9, 1.0);
    let floats = draw(&mut generator("floats").unwrap(), 0, 9, 1.0);
    assert_eq!(plain.unwrap(), floats.unwrap(), "U8 and F32 give the same pixels");
    // Latents arrive unchanged: the fake generator draws the bytes of the first values.
    let image = draw(&mut generator("latents").unwrap(), 3, 4, 1.5).unwrap();
    assert_eq!(image[..4], 3f32.to_le_bytes());
}

#[test]
fn scores_and_features() {
    let pixels: Vec<u8> = (0..13 * 6).map(|i| i as u8 * 3).collect();
    let mut scorer = scorer("good").unwrap();
    assert_eq!((scorer.classes(), scorer.feature_dim()), (2, Some(2)));
    let all = scorer.score_with_features(&pixels).unwrap();
    assert_eq!((all.probabilities.len(), all.features.len()), (26, 26));
    assert_eq!(all.features[..4], [0.0, 3.0, 18.0, 21.0]);
    let light = (18.0 + 21.0 + 24.0 + 27.0 + 30.0 + 33.0) / (6.0 * 255.0);
    assert!((all.probabilities[3] - light).abs() < 1e-6);
    assert_eq!(scorer.score(&pixels[60..]).unwrap(), all.probabilities[20..]);
    assert!(scorer.score(&pixels[1..]).unwrap_err().is_usage());
    assert_eq!(scorer.score(&[]).unwrap(), [0.0f32; 0]);
}

#[test]
fn a_faulty_generator_is_an_error() {
    for (mode, words) in [
        ("crash", "5 samples of class 1, from index 0 on | the line {\"id\":2} | that the program had exited (exit"),
        ("leave", "| that the program had exited (exit"),
        ("error", "| the error \"no weights for class 1\""),
        ("id", "| the line {\"id\":2} | an answer to request 77"),
        ("chatter", "| \"step 1, loss 0.5\"; print only answers to standard output"),
        ("endless", "| a line of 64 KiB without an end"),
        ("short", "| a tensor \"images\" of U8 [5, 1, 2, 3] | U8 [4, 1, 2, 3]"),
        ("shape", "| a tensor \"images\" of U8 [5, 1, 2, 3] | U8 [5, 3, 2, 1]"),
        ("garbage", "| a safetensors file | 20 bytes of something else"),
        ("no-file", "answer-2.safetensors |"),
        #[cfg(unix)]
        ("pipe", "| it is a named pipe, not a regular file"),
        #[cfg(unix)]
        ("device", "| it is a device, not a regular file"),
        ("long", "bytes, found 1099511627776"),
        ("nan", "| image values from -1 (black) to 1 (white) | NaN in image 0"),
    ] {
        let mut generator = generator(mode).unwrap();
        let error = draw(&mut generator, 0, 9, 1.0).unwrap_err();
        let text = text_of(&error);
        assert!(text.contains(words), "{mode}: {text}");
        if mode == "crash" {
            assert_eq!(failure(&error).stderr, ["fake: generator, crash", "fake: no such layer"]);
            assert!(text.contains('3'), "its exit code: {text}");
        }
        // The program was killed; later requests fail at once.
        let again = draw(&mut generator, 0, 9, 1.0).unwrap_err();
        assert!(text_of(&again).contains("killed after an earlier failure"), "{again}");
    }
}

#[test]
fn a_faulty_scorer_is_an_error() {
    for (mode, words) in [
        ("crash", "scores of 5 images | the line {\"id\":2} | that the program had exited"),
        ("nan", "| probabilities from 0 to 1 | NaN for image 0"),
        ("logits", "sum to 1 for each image (apply the softmax) | a sum of 1."),
        ("short", "| a tensor \"probabilities\" of F32 [5, 2] | F32 [4, 2]"),
        ("shape", "| a tensor \"probabilities\" of F32 [5, 2] | F32 [5, 3]"),
    ] {
        let error = scorer(mode).unwrap().score(&[200; 9 * 6]).unwrap_err();
        assert!(text_of(&error).contains(words), "{mode}: {}", text_of(&error));
    }
}

#[test]
fn a_bad_hello_message_is_found_at_the_start() {
    for (mode, words) in [
        ("crash-at-once", "the hello message of a generator | a line of JSON | that the program had exited"),
        ("future", "| protocol 1 | protocol 2"),
        ("talk", "| \"\\\"Loading weights\\\"\""),
        ("stateful", "the same sample in two batches | the same image for the same seed"),
        ("one-seed", "the same sample in two batches | the same image for the same seed"),
    ] {
        let text = text_of(&generator(mode).unwrap_err());
        assert!(text.contains(words), "{mode}: {text}");
    }
    let text = text_of(&scorer("stateful").unwrap_err());
    assert!(text.contains("scores of the same image in two batches"), "{text}");
    let nowhere = CommandGenerator::start(&Program::new(["no-such-program"]), None, &never()).unwrap_err();
    assert_eq!(nowhere.to_string(), "starting the program `no-such-program`");
    let nothing = CommandGenerator::start(&Program::new([""; 0]), None, &never()).unwrap_err();
    assert!(nothing.is_usage());
}

#[test]
fn a_program_that_hangs_times_out() {
    for mode in ["mute", "hang"] {
        let program = program("generator", mode).with_timeout_s(1);
        let error = CommandGenerator::start(&program, None, &never()).and_then(|mut g| draw(&mut g, 0, 3, 1.0));
        let text = text_of(&error.unwrap_err());
        assert!(text.contains("within 1 seconds | no output"), "{text}");
    }
}

#[test]
fn a_stop_kills_a_hanging_program() {
    let stop = never();
    let mut generator = CommandGenerator::start(&program("generator", "hang"), None, &stop).unwrap();
    let flag = stop.clone();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        flag.store(true, Ordering::Relaxed);
    });
    // Long before the timeout of a minute.
    assert!(matches!(draw(&mut generator, 0, 3, 1.0), Err(Error::Interrupted)));
    other.join().unwrap();
}

#[test]
fn the_folder_of_exchanged_files_is_removed() {
    let mut generator = generator("no-file").unwrap();
    let text = text_of(&draw(&mut generator, 0, 3, 1.0).unwrap_err());
    let file = Path::new(text.split("the file ").nth(1).unwrap().split(" |").next().unwrap());
    let folder = file.parent().unwrap();
    assert!(folder.is_dir(), "{text}");
    drop(generator);
    assert!(!folder.exists());
}

#[test]
fn a_std_that_the_program_ignores_is_refused() {
    let mut plain = generator("plain").unwrap();
    draw(&mut plain, 0, 3, 1.0).unwrap();
    let error = draw(&mut plain, 0, 3, 1.25).unwrap_err();
    assert!(error.is_usage() && error.to_string().starts_with("std = 1.25: expected 1"), "{error}");
    draw(&mut plain, 0, 3, 1.0).unwrap();
    assert!(plain.generate(&[], &[]).is_err());
    let off = SampleRequest { class: ClassId(2), first: 0, seeds: &[1], stds: &[1.0], latents: &[] };
    assert!(plain.sample(&off).unwrap_err().to_string().contains("below 2"));
    assert!(plain.sample(&SampleRequest { stds: &[], ..off }).unwrap_err().is_usage());
}

fn context() -> Context {
    let cx = Context::default();
    let loaders = register(ModelLoaders::default(), &cx.stop, |_| true);
    Context { models: Arc::new(loaders), ..cx }
}

#[test]
fn a_program_that_is_not_allowed_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let made = import(Role::Generator, program("generator", "good"), &[], &dir.path().join("gen")).unwrap();
    let id = made.id().to_owned();
    let only = register(ModelLoaders::default(), &never(), move |artifact| artifact.id() == id);
    assert!(only.open_generator(&made, None).is_ok());
    let nothing = register(ModelLoaders::default(), &never(), |_| false);
    let error = nothing.open_generator(&made, None).err().unwrap();
    assert!(matches!(error, Error::NotAllowed { .. }) && error.is_usage());
    assert!(error.to_string().contains("fake_program generator good`, which is not allowed"), "{error}");
}

fn import(role: Role, program: Program, files: &[PathBuf], dest: &Path) -> Result<Artifact> {
    let stage = ImportProgram::new(role, program, files, 1)?;
    Ok(execute(&stage, &Inputs::new(), dest, &context())?.artifact)
}

#[test]
fn artifacts_of_programs_open_through_the_loaders() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("names.txt"), "cat\ndog\neel\n").unwrap();
    let mut with_file = program("generator", "good");
    with_file.program.push("{artifact}/names.txt".into());
    let files = [dir.path().join("names.txt")];
    let made = import(Role::Generator, with_file.clone(), &files, &dir.path().join("gen")).unwrap();
    let content = &made.manifest().content;
    assert_eq!(content["architecture"]["name"], "command");
    assert_eq!((&content["classes"][2], &content["checkpoints"][0]["step"]), (&"eel".into(), &0.into()));
    // The artifact is self-contained: the original may change, the folder may move.
    std::fs::write(&files[0], "ape\n").unwrap();
    std::fs::rename(dir.path().join("gen"), dir.path().join("moved")).unwrap();
    let moved = Artifact::open(dir.path().join("moved")).unwrap();
    moved.verify().unwrap();
    let cx = context();
    for step in [None, Some(0)] {
        let generator = cx.models.open_generator(&moved, step).unwrap();
        assert_eq!((generator.classes().len(), generator.latent_dim()), (3, 0));
    }
    assert!(cx.models.open_generator(&moved, Some(7)).err().unwrap().is_usage());
    assert!(cx.models.open_scorer(&moved).is_err());
    // The bytes of an included file are part of the fingerprint.
    let other = import(Role::Generator, with_file, &files, &dir.path().join("other"));
    assert_ne!(other.unwrap().manifest().fingerprint, moved.manifest().fingerprint);

    let made = import(Role::Scorer, program("scorer", "good"), &[], &dir.path().join("judge")).unwrap();
    let judge = cx.models.open_scorer(&made).unwrap();
    assert_eq!((judge.classes(), judge.feature_dim()), (2, Some(2)));
    let bad = import(Role::Scorer, program("scorer", "stateful"), &[], &dir.path().join("bad"));
    assert!(bad.is_err() && !dir.path().join("bad").exists());
}

#[test]
fn a_program_that_changed_since_its_import_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let names = dir.path().join("names.txt");
    std::fs::write(&names, "cat\ndog\n").unwrap();
    for (role, name) in [(Role::Generator, "generator"), (Role::Scorer, "scorer")] {
        std::fs::write(&names, "cat\ndog\n").unwrap();
        let mut outside = program(name, "good");
        outside.program.push(names.to_str().unwrap().into());
        let made = import(role, outside, &[], &dir.path().join(name)).unwrap();
        std::fs::write(&names, "dog\ncat\n").unwrap();
        let error = match role {
            Role::Generator => context().models.open_generator(&made, None).err(),
            Role::Scorer => context().models.open_scorer(&made).err(),
        };
        let text = failure(&error.unwrap()).to_string();
        assert!(text.contains("the program as it was imported: ") && text.contains("[\"dog\",\"cat\"]"), "{text}");
    }
}
