"""The whole pipeline, its report, and the verbs of `gafi-cli`."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from . import _gafi

Path = str | os.PathLike[str]


def call(verb: str, *args: Path | int | float) -> None:
    """Runs a verb of `gafi-cli` in this process: `call("import", "photos", "--out", "data")`.

    It prints as the program does, on the process's own standard output and error. Ctrl-C stops it at the next safe point and raises
    `KeyboardInterrupt`; the same call resumes. `gafi-cli --help` lists the verbs.
    """
    _gafi.call([verb, *(os.fspath(arg) if isinstance(arg, os.PathLike) else str(arg) for arg in args)])


class Report:
    """The results of runs of the pipeline. Runs that differ only in their seed are averaged."""

    def __init__(self, *runs: Path) -> None:
        """Reads the runs in these folders, finished or not."""
        self.runs = [os.fspath(run) for run in runs]
        self.table: dict[str, Any] = json.loads(_gafi.report_table(self.runs, "json"))
        """The results as `gafi-cli report --format json` writes them; docs/format.md describes the fields."""

    def markdown(self) -> str:
        """The results table as Markdown."""
        return _gafi.report_table(self.runs, "markdown")

    def html(self, path: Path, *, force: bool = False) -> None:
        """Writes the report as a self-contained page."""
        call("report", *self.runs, "--format", "html", "--output", path, *(["--force"] if force else []))

    def __repr__(self) -> str:
        return f"Report({', '.join(map(repr, self.runs))})"


def pipeline(
    data: Path,
    out: Path,
    *,
    preset: str | None = None,
    seed: int | None = None,
    jobs: int = 1,
    generators: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Report:
    """Runs the whole pipeline on real images: teacher, generator, search, students, report.

    `data` is a named set ("fashion-mnist", "cifar10", ...) or a path that `gafi-cli import` reads. `generators` are artifacts to use
    instead of training one. `settings` are keys of the configuration, such as `{"search.stds": [1.0, 1.3], "student.lr": 0.05}`.
    Progress goes to standard error. The call resumes in `out` what an earlier one began.
    """
    args: list[Any] = ["--data", data, "--out", out, "--jobs", jobs]
    if preset is not None:
        args += ["--preset", preset]
    if seed is not None:
        args += ["--seed", seed]
    for generator in generators:
        args += ["--generator", generator]
    for key, value in (settings or {}).items():
        args += ["--set", f"{key}={'unset' if value is None else json.dumps(value)}"]
    call("pipeline", *args, *(["--force"] if force else []))
    return Report(out)
