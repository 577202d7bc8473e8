"""The verbs for a detector in use, as real processes: files, exit codes, last lines and one-line errors."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from anomaly_spotter.cli import main
from tests.conftest import draw_part, write_png
from tests.e2e.test_cli import last_line, run

SETS = (
    "--model", "memory", "--align", "none", "--set", "model.features=gradients", "--set", "model.dimensions=12",
    "--set", "preprocessing.long_side=64", "--set", "scoring.smoothing_sigma=3", "--false-reject-rate", 0.05,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("living")
    done = run("train", "--data", data_root, "--category", "disc", "--out", out, *SETS)
    assert done.returncode == 0, done.stderr
    rng = np.random.default_rng(80)
    for index in range(8):
        write_png(out / "new" / f"{index}.png", draw_part(rng)[0])
    return Path(last_line(done))


def test_extend_recalibrate_rates_and_info(trained, data_root, tmp_path):
    bundle = tmp_path / "disc-memory.spot"
    shutil.copy(trained, bundle)
    before, new = bundle.read_bytes(), trained.parents[1] / "new"
    defects = data_root / "disc/test/bar"
    extended = run("extend", "--bundle", bundle, "--good", new, "--defects", defects)
    assert extended.returncode == 0, extended.stderr
    assert last_line(extended) == str(tmp_path / "disc-memory.v2.spot")
    assert "calibration pictures: 30 before, 38 now" in extended.stdout
    assert "The decision limit was not moved" in extended.stdout
    again = run("recalibrate", "--bundle", last_line(extended), "--false-reject-rate", 0.01)
    assert last_line(again) == str(tmp_path / "disc-memory.v3.spot")
    assert "61 more good pictures are needed" in again.stdout
    shown = run("rates", "--bundle", last_line(again), "--defects", defects, "--json", tmp_path / "r.json")
    assert shown.returncode == 0, shown.stderr
    rates = json.loads((tmp_path / "r.json").read_text())
    assert [row["asked_rate"] for row in rates["rates"] if row["is_current"]] == [0.01]
    assert len(rates["pictures"]) == 6
    story = run("info", last_line(again), "--json", tmp_path / "i.json")
    for text in ("change 1", "extended", "8 good pictures", "change 2", "recalibrated"):
        assert text in story.stdout
    changes = json.loads((tmp_path / "i.json").read_text())["provenance"]["changes"]
    assert [change["how"] for change in changes] == ["extend", "recalibrate"]
    assert bundle.read_bytes() == before


@pytest.fixture
def main_of(monkeypatch, capsys):
    """The command line in this process: exit code, output, and what went to stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["anomaly-spotter", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def test_recalibrate_on_pictures_of_its_own(trained, tmp_path, main_of):
    new, out = trained.parents[1] / "new", tmp_path / "own.spot"
    command = ("recalibrate", "--bundle", trained, "--good", new, "--confidence", 0.9, "--out", out)
    code, printed, _ = main_of(*command)
    assert code == 0
    assert "calibration pictures: 30 before, 8 now" in printed
    assert "with 90 % confidence" in printed
    assert printed.splitlines()[-1] == str(out)
    code, _, error = main_of(*command)
    assert code == 2
    assert "never overwritten" in error


def test_learning_curve_resumes(data_root, tmp_path, main_of):
    command = (
        "learning-curve", "--data", data_root, "--category", "disc", "--sizes", "5,12", "--repeats", 1,
        "--out", tmp_path, *SETS,
    )  # fmt: skip
    code, printed, error = main_of(*command)
    assert code == 0, error
    assert printed.splitlines()[-1] == str(tmp_path / "learning_curve.json")
    assert "19 good pictures are needed; the 30 there are suffice" in printed
    assert (tmp_path / "learning_curve.png").is_file()
    assert main_of(*command, "--resume")[2].count("finished before, kept") == 2


def test_bad_input_gets_one_clear_line(trained, data_root, tmp_path, main_of):
    (tmp_path / "empty").mkdir()
    cases = [
        (("extend", "--bundle", tmp_path / "none.spot", "--good", data_root), "does not exist"),
        (("extend", "--bundle", trained, "--good", tmp_path / "none"), "no such folder"),
        (("extend", "--bundle", trained, "--good", data_root / "disc"), "knows all 30"),
        (("recalibrate", "--bundle", trained), "nothing to change"),
        (("recalibrate", "--bundle", trained, "--false-reject-rate", 0), "false_reject_rate"),
        (("rates", "--bundle", trained, "--defects", tmp_path / "empty"), "holds no pictures"),
        (("learning-curve", "--data", data_root, "--sizes", "5,many"), "whole numbers"),
    ]
    for arguments, expected in cases:
        code, _, error = main_of(*arguments)
        assert code == 2, arguments
        assert error.count("error: ") == 1, error
        assert expected in error, arguments


def test_drift_tells_by_words_file_and_exit_code(trained, data_root, tmp_path):
    rng = np.random.default_rng(81)
    good, dark = tmp_path / "good", tmp_path / "dark"
    for index in range(24):
        picture = draw_part(rng)[0]
        write_png(good / f"{index:02}.png", picture)
        write_png(dark / f"{index:02}.png", np.maximum(picture, 30) - 30)
    steady = run("drift", "--bundle", trained, good)
    assert steady.returncode == 0, steady.stderr
    assert "look like those of the calibration" in " ".join(steady.stdout.split())
    (dark / "05.png").write_bytes(b"no picture")
    changed = run("drift", "--bundle", trained, dark, "--json", tmp_path / "d.json", "--defects", 0.1)
    assert changed.returncode == 1, changed.stderr
    said = " ".join(changed.stdout.split())
    assert "The pictures are darker: brightness" in said
    assert "First check lamp, exposure and stray light" in said
    assert "UNREADABLE" in changed.stderr
    found = json.loads((tmp_path / "d.json").read_text())
    assert (found["status"], found["count"], len(found["unreadable"])) == ("changed", 23, 1)
    assert "brightness" in [finding["name"] for finding in found["findings"] if finding["is_change"]]
    assert found["settings"]["odd"] == 0.1
    (good / "05.png").write_bytes(b"no picture")
    assert run("drift", "--bundle", trained, good).returncode == 3
    few = run("drift", "--bundle", trained, data_root / "disc/test/good")
    assert few.returncode == 2
    assert (
        few.stderr.strip().splitlines()[-1]
        == "error: 6 readable pictures are too few to tell; give at least 20"
    )
    wrong = run("drift", "--bundle", trained, good, "--defects", 0.7)
    assert wrong.returncode == 2
    assert "share of defects in [0, 0.5)" in wrong.stderr
