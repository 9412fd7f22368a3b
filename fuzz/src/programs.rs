//! The protocol of foreign programs, and the stage `command`.

use std::sync::Arc;

use gafi_command::{CommandGenerator, CommandScorer, CommandStage, Program, Role, untrusted};
use gafi_core::{Artifact, Generator, Inputs, Kind, Scorer, execute};

use crate::artifacts;
use crate::scratch::{cx, empty, folder, put, show, split};

/// Ends the lines of a program; the file of its answers follows.
const MARK: &[u8] = b"\n\n";

/// What a program prints and, after an empty line, the file of its answers.
pub(crate) fn answers() -> Vec<Vec<u8>> {
    let answered = b"{\"id\":0}\n{\"id\":1}\n{\"id\":2}\n{\"id\":3,\"error\":\"no more\"}";
    let hellos: [&[u8]; 4] = [
        br#"{"protocol":1,"classes":["cat","dog"],"image":[1,2,2]}"#,
        br#"{"protocol":1,"classes":["cat","dog"],"image":[1,2,2],"latent_dim":3,"std":true,"values":"f32","batch":1}"#,
        br#"{"protocol":1,"classes":["cat","dog"],"image":[1,2,2],"feature_dim":2,"batch":2}"#,
        br#"{"protocol":1,"classes":["cat","dog"],"image":[3,2,2]}"#,
    ];
    // All tensors that any role answers with, for two images.
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let header = |kind: &str, bytes: usize, at: usize| {
        format!(
            r#"{{"images":{{"dtype":"{kind}","shape":[2,1,2,2],"data_offsets":[0,{bytes}]}},"probabilities":{{"dtype":"F32","shape":[2,2],"data_offsets":[{bytes},{}]}},"features":{{"dtype":"F32","shape":[2,2],"data_offsets":[{},{at}]}}}}"#,
            at - 16,
            at - 16
        )
    };
    let file = |header: String, images: &[u8]| {
        let header = format!("{header:<w$}", w = header.len().next_multiple_of(8));
        let rest = [images, &floats(&[0.25, 0.75, 0.5, 0.5]), &floats(&[-1.5, 7.0, 0.0, 1.0])].concat();
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &rest].concat()
    };
    let files = [
        file(header("U8", 8, 40), &[0, 9, 99, 255, 1, 2, 3, 4]),
        file(header("F32", 32, 64), &floats(&[-1.0, 0.0, 0.5, 1.0].repeat(2))),
    ];
    let pairs = hellos.iter().flat_map(|hello| files.iter().map(move |file| (hello, file)));
    pairs.map(|(hello, file)| [hello, &b"\n"[..], answered, MARK, file].concat()).collect()
}

/// The answers, read without a program.
pub(crate) fn messages(input: &[u8]) {
    let (lines, file) = split(input, MARK);
    for role in [Role::Generator, Role::Scorer] {
        show(untrusted::read(role, lines, file));
    }
}

/// The answers, given by a real program.
pub(crate) fn process(input: &[u8]) {
    // Finds the folder of its files in the first line, leaves the file of every answer there, and prints.
    const SCRIPT: &str = r#"read -r line; s=${line#*\"scratch\":\"}; s=${s%%\"*}
for i in 0 1 2; do cp "$1" "$s/answer-$i.safetensors"; done; cat "$0""#;
    let (lines, file) = split(input, MARK);
    let [lines, file] =
        [put("lines", &[lines, b"\n"].concat()), put("answer", file)].map(|path| path.display().to_string());
    let program = Program::new(["sh".to_string(), "-c".into(), SCRIPT.into(), lines, file]).with_timeout_s(5);
    let stop = Arc::default();
    if let Some(mut scorer) = show(CommandScorer::start(&program, None, &stop)) {
        let pixels = vec![0; scorer.image().bytes()];
        show(scorer.score_with_features(&pixels));
    }
    if let Some(mut generator) = show(CommandGenerator::start(&program, None, &stop)) {
        let d = generator.latent_dim();
        show(generator.generate(&vec![0.0; d], &[]));
    }
}

/// The content that a stage's program describes, a line end, and its file.
pub(crate) fn contents() -> Vec<Vec<u8>> {
    artifacts::datasets()
}

pub(crate) fn stage(input: &[u8]) {
    let (content, shard) = split(input, b"\n");
    let from = empty("program");
    put("program/content.json", content);
    put("program/shard-00000.safetensors", shard);
    for (output, name) in [(Kind::Dataset, "made-set"), (Kind::Generator, "made-gan"), (Kind::Trials, "made-trials")] {
        let program = ["cp".into(), "-r".into(), format!("{}/.", from.display()), "{out}".into()].into();
        let stage = CommandStage { program, output, revision: 1 };
        let dest = empty(name);
        if let Some(made) = show(execute(&stage, &Inputs::new(), &dest, cx())) {
            show(Artifact::open(&dest).and_then(|artifact| artifact.verify()));
            assert_eq!(made.artifact.path(), folder().join(name));
        }
    }
}
