//! The answers of a program without a program: what the fuzz targets of this workspace call. Not part of the interface.

use gafi_core::{Result, printable};

use crate::connection::{check_answer, hello};
use crate::failure::Mismatch;
use crate::process::next_line;
use crate::protocol::{GeneratorHello, Role, ScorerHello, check_hello};
use crate::tensors;

/// Reads `output`, the standard output of a program, as a hello message and one answer for each further line, and `file` as the
/// file of each answer.
pub fn read(role: Role, mut output: &[u8], file: &[u8]) -> Result<(), String> {
    let mut line = || match next_line(&mut output) {
        Some(line) => line.map_err(Into::into),
        None => Err("the end of its output".to_string()),
    };
    let answers = match role {
        Role::Generator => {
            let hello: GeneratorHello = hello(&line()?).map_err(text)?;
            let image = check_hello(&hello.classes, hello.image, hello.latent_dim).map_err(text)?;
            let values = hello.values;
            Box::new(move |n| tensors::images(file, n, &image, values).map(drop)) as Box<dyn Fn(usize) -> _>
        }
        Role::Scorer => {
            let hello: ScorerHello = hello(&line()?).map_err(text)?;
            check_hello(&hello.classes, hello.image, hello.feature_dim).map_err(text)?;
            let (classes, dim) = (hello.classes.len(), hello.feature_dim);
            Box::new(move |n| tensors::scores(file, n, classes, dim).map(drop))
        }
    };
    for id in 0.. {
        check_answer(&line()?, id).map_err(text)?;
        answers(2 - (id as usize % 2)).map_err(text)?;
    }
    Ok(())
}

fn text(wrong: Mismatch) -> String {
    format!("expected {}, found {}", printable(wrong.expected), printable(wrong.found))
}
