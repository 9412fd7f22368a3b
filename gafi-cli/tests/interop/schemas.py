"""Validates configurations against the schemas that `schema` prints, as an editor does: presets and starter files are valid, also
with every commented key enabled, and mistakes are found.

    python schemas.py GAFI-CLI REPOSITORY FOLDER

`cargo xtask test --interop` calls it. FOLDER is emptied first; nothing is downloaded.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import tomllib
from jsonschema import Draft7Validator

gafi, repository, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]).absolute()
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)

VERBS = ["import", "train-classifier", "train-gan", "expand", "filter", "recycle", "evaluate", "audit", "command", "pipeline"]
WRONG = [
    "gan = { stpes = 3 }",
    'gan = { length = { steps = "many" } }',
    'gan = { architecture = { name = "smal" } }',
    "recycle = { period = 1 }",
    'protocol = "papr"',
    "per_class = -1",
]


def run(*arguments):
    done = subprocess.run([gafi, *map(str, arguments)], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stderr}"
    return done.stdout


def live(line):
    """Enables a key that is commented out."""
    return line[1:] if line.startswith("#") and line[1:2] not in (" ", ":", "") else line


def main():
    for verb in VERBS:
        schema = json.loads(run("schema", verb))
        Draft7Validator.check_schema(schema)
    check = Draft7Validator(schema)
    fits = lambda text: [f"{list(error.path)}: {error.message}" for error in check.iter_errors(tomllib.loads(text))]
    presets = sorted((repository / "gafi-pipeline/presets").glob("*.toml"))
    assert presets
    for preset in presets:
        lines = preset.read_text(encoding="utf-8").splitlines()
        # Only presets have this key; a configuration file is merged over `--preset`.
        text = "\n".join(line for line in lines if not line.startswith("extends = "))
        assert not fits(text), (preset, fits(text))
        run("init", "--preset", preset.stem, "--output", preset.name)
        starter = (work / preset.name).read_text(encoding="utf-8")
        assert not fits(starter), (preset, fits(starter))
        every = "\n".join(map(live, starter.splitlines()))
        assert not fits(every), (preset, fits(every))
    for text in WRONG:
        assert len(fits(text)) == 1, (text, fits(text))
    print(f"{len(VERBS)} schemas, {len(presets)} presets and their starter files")


main()
