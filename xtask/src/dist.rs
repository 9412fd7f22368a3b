//! `cargo xtask dist`: an archive of the program with completions, manual pages and licences, as a release has it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{quickstart, shell};

/// Shells, and the names under which they look for completions.
const SHELLS: [(&str, &str); 5] = [
    ("bash", "gafi-cli.bash"),
    ("elvish", "gafi-cli.elv"),
    ("fish", "gafi-cli.fish"),
    ("powershell", "_gafi-cli.ps1"),
    ("zsh", "_gafi-cli"),
];
const TEXTS: [&str; 4] = ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];

#[derive(Debug, Args)]
pub(crate) struct Dist {
    /// Folder for the archive gafi-cli-VERSION-TARGET.tar.gz
    #[arg(long, value_name = "DIR", default_value = "dist")]
    out: PathBuf,
    /// Cargo profile to build with
    #[arg(long, default_value = "release")]
    profile: String,
    /// Features of gafi-cli, comma-separated
    #[arg(long, default_value = "onnx")]
    features: String,
}

impl Dist {
    /// Builds the program and packs the archive.
    pub(crate) fn run(&self) -> Result<()> {
        let program = quickstart::build(&["--locked", "--profile", &self.profile, "--features", &self.features])?;
        let version = shell::output(Command::new(&program).arg("--version"))?;
        let version = version.split_whitespace().last().context("`gafi-cli --version` printed nothing")?;
        let rustc = shell::output(Command::new("rustc").arg("-vV"))?;
        let target = rustc.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
        let name = format!("gafi-cli-{version}-{target}");
        let folder = self.out.join(&name);
        shell::empty_folder(&folder)?;
        fill(&folder, &program).with_context(|| format!("cannot fill {}", folder.display()))?;
        let archive = format!("{name}.tar.gz");
        shell::run(Command::new("tar").current_dir(&self.out).args(["-czf", &archive, &name]))?;
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        println!("{}", self.out.join(archive).display());
        Ok(())
    }
}

/// Writes the content of the archive to `folder`.
fn fill(folder: &Path, program: &Path) -> Result<()> {
    let completions = folder.join("completions");
    fs::create_dir_all(&completions)?;
    fs::copy(program, folder.join(format!("gafi-cli{}", env::consts::EXE_SUFFIX)))?;
    for (shell, file) in SHELLS {
        let text = shell::output(Command::new(program).args(["completions", shell]))?;
        fs::write(completions.join(file), text)?;
    }
    shell::run(Command::new(program).args(["man", "--output"]).arg(folder.join("man")))?;
    for text in TEXTS {
        fs::copy(shell::root().join(text), folder.join(text))?;
    }
    Ok(())
}
