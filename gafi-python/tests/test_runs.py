"""The pipeline, its report, artifacts of it, and the program."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import gafi

PROGRAM = Path(sys.executable).with_name("gafi-cli")


def test_a_run_and_its_report(run, tmp_path):
    out, report = run
    rows = [row["name"] for row in report.table["tables"][0]["rows"]]
    assert {"real", "baseline", "gafi", "soft"} <= set(rows)
    assert "| gafi |" in report.markdown()
    report.html(tmp_path / "report.html")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert gafi.Report(out).table == report.table


def test_a_finished_run_is_reused_and_settings_reach_the_configuration(run):
    out, _ = run
    record = json.loads((out / "run.json").read_text())
    gafi.pipeline("shapes", out, preset="smoke", jobs=2)
    assert json.loads((out / "run.json").read_text())["rows"] == record["rows"]
    with pytest.raises(gafi.UsageError, match="nonsense"):
        gafi.pipeline("shapes", out, preset="smoke", settings={"nonsense": 1})


def test_networks_of_a_run_serve_python(artifacts):
    teacher, generator = gafi.Classifier(artifacts["train-classifier"]), gafi.Generator(artifacts["train-gan"])
    assert teacher.image == generator.image == (3, 8, 8) or teacher.image[1:] == (8, 8)
    assert teacher.classes == generator.classes
    latents = np.random.default_rng(0).standard_normal((70, generator.latent_dim), dtype=np.float32)
    images = generator(latents, np.arange(70) % 2)
    assert images.shape == (70, *generator.image) and images.dtype == np.uint8
    probabilities = teacher(images)
    assert np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert (probabilities[:10] == teacher(images[:10])).all(), "a row does not depend on its batch"
    with pytest.raises(ValueError, match="expected an array"):
        teacher(images[:, :, :4])
    with pytest.raises(ValueError, match="latents"):
        generator(latents[:, :3], np.zeros(70, np.int64))


def test_errors_are_exceptions(tmp_path):
    with pytest.raises(gafi.Error, match="nowhere"):
        gafi.Dataset(tmp_path / "nowhere")
    with pytest.raises(gafi.Error, match="not an artifact|cannot"):
        gafi.Classifier(tmp_path)
    with pytest.raises(gafi.UsageError, match="unrecognized|unexpected|invalid"):
        gafi.call("no-such-verb")


def test_the_program_is_installed(tmp_path):
    run = lambda *args: subprocess.run([PROGRAM, *args], capture_output=True, text=True)
    assert run("--version").stdout.split()[1] == version("gafi")
    assert "quickstart" in run("--help").stdout
    bad = run("expand", "--generator", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    assert bad.returncode in (1, 2) and "nowhere" in bad.stderr and "Traceback" not in bad.stderr
    assert run("no-such-verb").returncode == 2
    doctor = run("doctor", "--folder", str(tmp_path))
    assert doctor.returncode == 0 and "works" in doctor.stdout, doctor.stderr + doctor.stdout
    assert subprocess.run([sys.executable, "-m", "gafi", "--version"], capture_output=True).returncode == 0


def test_the_program_stops_at_ctrl_c_with_its_own_exit_code(tmp_path):
    import signal
    import time

    args = ["pipeline", "--data", "shapes", "--preset", "smoke", "--set", "student.epochs=4000", "--out", str(tmp_path / "run")]
    program = subprocess.Popen([PROGRAM, *args], stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "run").glob(".*.partial")):
        assert program.poll() is None, program.stderr.read()
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    _, stderr = program.communicate(timeout=300)
    assert program.returncode == 130, stderr
    assert "run the same command again" in stderr and "Traceback" not in stderr
