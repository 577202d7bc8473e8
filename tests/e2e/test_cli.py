"""The command line as scripts and CI use it: real processes, exit codes, last lines, and no traceback ever."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_spotter import __version__
from tests.conftest import TINY, draw_part, write_dataset, write_png


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "anomaly_spotter", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def sets() -> list[str]:
    flat = [f"{section}.{key}={value}" for section, values in TINY.items() for key, value in values.items()]
    return ["--preset", "unet", *(part for setting in flat for part in ("--set", setting))]


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.splitlines()[-1]


def one_error_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_help_and_version_load_no_heavy_library():
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        code = (
            "import sys; from anomaly_spotter.cli import app\n"
            f"try: app({arguments!r})\n"
            "except SystemExit: pass\n"
            "print(sorted({'torch', 'cv2', 'numpy', 'rich', 'scipy', 'matplotlib'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", done.stdout
    assert run("--version").stdout.strip() == f"anomaly-spotter {__version__}"


def test_every_verb_of_the_contract_is_there():
    text = run("--help").stdout
    for verb in ("sample", "audit", "train", "evaluate", "predict", "overlay", "process-all", "info"):
        assert f"  {verb} " in text


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    done = run("train", "--data", data_root, "--category", "disc", "--out", out, *sets())
    assert done.returncode == 0, done.stderr
    bundle = Path(last_line(done))
    assert bundle == out / "models/disc-unet.spot"
    assert "At most 1 in 10 good parts will be rejected" in done.stdout
    metrics = json.loads((out / "metrics/disc-unet.train.json").read_text())
    assert metrics["config"]["preset"] == "unet"
    assert metrics["promise"]["rate"] == pytest.approx(0.1)
    return bundle


def test_evaluate_writes_json_and_report(trained, data_root, tmp_path):
    done = run(
        "evaluate", "--bundle", trained, "--data", data_root, "--category", "disc",
        "--json", tmp_path / "e.json", "--report", tmp_path / "r",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["image"]["auroc"] == 1.0
    assert {"evaluated", "unreadable"} <= set(found)
    page = Path(last_line(done))
    pictures = {path.name for path in page.parent.glob("*.png")}
    assert {"scores.png", "roc.png", "precision_recall.png", "recall_by_kind.png", "training.png"} <= pictures
    assert page == tmp_path / "r/report.html"
    assert "At most 1 in 10 good parts" in page.read_text(encoding="utf-8")


def test_predict_rows_files_and_exit_codes(trained, data_root, tmp_path):
    good = sorted((data_root / "disc/train/good").iterdir())[:2]
    defect = data_root / "disc/test/bar/000.png"
    all_ok = run("predict", "--bundle", trained, "--threshold", 1e6, *good, defect)
    assert (all_ok.returncode, all_ok.stdout.count("OK ")) == (0, 3)
    out, rows = tmp_path / "out", tmp_path / "rows.json"
    some = run("predict", "--bundle", trained, "--out", out, "--json", rows, *good, defect)
    assert some.returncode == 1
    table = json.loads(rows.read_text())["pictures"]
    assert [row["path"] for row in table] == [str(path) for path in (*good, defect)]
    assert table[2]["verdict"] == "DEFECT"
    assert {"score", "p_value", "threshold", "regions"} <= set(table[2])
    assert {"area", "box", "peak", "mean_score"} <= set(table[2]["regions"][0])
    overlays = sorted(path.name for path in out.iterdir())
    assert sum(name.endswith("_overlay.png") for name in overlays) == 3
    masks = [name for name in overlays if name.endswith("_mask.png")]
    assert len(masks) == sum(row["verdict"] == "DEFECT" for row in table)
    assert cv2.imread(str(out / masks[-1]), cv2.IMREAD_UNCHANGED).shape == (72, 96)


def test_predict_goes_on_past_unreadable_pictures(trained, data_root, tmp_path):
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.png"
    whole = (data_root / "disc/test/bar/000.png").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    done = run(
        "predict", "--bundle", trained, empty, tmp_path / "none.png", cut, data_root / "disc/test/bar/000.png",
        "--json", tmp_path / "rows.json",
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout.count("UNREADABLE") == 3
    assert done.stdout.count("DEFECT") == 1
    rows = json.loads((tmp_path / "rows.json").read_text())["pictures"]
    assert ["error" in row for row in rows] == [True, True, True, False]


def test_predict_takes_folders_and_every_kind_of_picture(trained, tmp_path):
    picture, _ = draw_part(np.random.default_rng(1))
    folder = tmp_path / "ünïcode folder"
    write_png(folder / "grey.png", picture)
    write_png(folder / "colour.png", np.dstack([picture] * 3))
    write_png(folder / "alpha.png", np.dstack([picture] * 3 + [np.full_like(picture, 128)]))
    write_png(folder / "deep.png", picture.astype(np.uint16) * 257)
    write_png(folder / "tiny.png", picture[:3, :5])
    for suffix in (".jpg", ".bmp", ".tiff", ".webp"):
        (folder / f"p{suffix}").write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    done = run("predict", "--bundle", trained, folder, "--out", tmp_path / "o")
    assert done.returncode in (0, 1), done.stderr
    assert len(done.stdout.splitlines()) == 9
    assert "alpha" in done.stdout
    assert sum(path.name.endswith("_overlay.png") for path in (tmp_path / "o").iterdir()) == 9


def test_overlay_writes_a_four_panel_picture_each(trained, data_root, tmp_path):
    done = run("overlay", "--bundle", trained, data_root / "disc/test/bar", "--out", tmp_path)
    assert done.returncode == 0
    panels = [Path(line) for line in done.stdout.splitlines()]
    assert len(panels) == 6
    assert all(cv2.imread(str(panel)).shape[1] > 2 * 96 for panel in panels)


def test_info_shows_what_a_bundle_is(trained):
    done = run("info", trained)
    assert done.returncode == 0
    for text in ("disc", "preset unet", "At most 1 in 10"):
        assert text in done.stdout


def test_sample_writes_what_train_and_evaluate_read(tmp_path):
    counts = ("--train", 3, "--test-good", 1, "--per-kind", 1)
    done = run("sample", "--out", tmp_path, "--category", "screw", "--seed", 4, *counts)
    assert done.returncode == 0, done.stderr
    assert last_line(done) == str(tmp_path / "screw")
    audited = run("audit", "--data", tmp_path, "--json", tmp_path / "a.json")
    assert audited.returncode == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["counts"]["train"] == {"good": 3}
    assert len(found["counts"]["test"]) == 6
    assert found["missing_masks"] == found["empty_masks"] == []


def test_audit_prints_and_writes_json(data_root, tmp_path):
    done = run("audit", "--data", data_root, "--category", "disc", "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["counts"]["train"]["good"] == 30


def test_audit_finds_the_brightness_shortcut_on_real_screws(real_data):
    done = run("audit", "--data", real_data / "mvtec_ad", "--category", "screw")
    assert "Mean grey alone separates good from defective" in done.stdout


def test_process_all_resumes_where_it_was(tmp_path):
    root = write_dataset(tmp_path / "data", train=12, test=3)
    shutil.copytree(root / "disc", root / "coin")
    out = tmp_path / "out"
    first = run("process-all", "--data", root, "--out", out, *sets())
    assert first.returncode == 0, first.stderr
    assert "coin" in first.stdout
    assert "disc" in first.stdout
    for category in ("coin", "disc"):
        assert (out / f"models/{category}-unet.spot").is_file()
        assert (out / f"reports/{category}-unet/report.html").is_file()
    summary = json.loads((out / "metrics/summary.json").read_text())
    assert set(summary["categories"]) == {"coin", "disc"}
    (out / "metrics/disc-unet.json").unlink()
    second = run("process-all", "--data", root, "--out", out, "--resume", *sets())
    assert "coin: finished before, kept" in second.stderr
    assert "disc: training" in second.stderr


def test_a_category_without_test_pictures_is_trained_only(tmp_path):
    root = write_dataset(tmp_path / "data", train=12, test=1)
    shutil.rmtree(root / "disc/test")
    shutil.rmtree(root / "disc/ground_truth")
    done = run("process-all", "--data", root, "--out", tmp_path / "out", *sets())
    assert done.returncode == 0, done.stderr
    assert "no test pictures, trained only" in done.stderr
    assert (tmp_path / "out/models/disc-unet.spot").is_file()


def test_a_category_name_cannot_lead_out_of_the_folder(data_root, tmp_path):
    lines = [f"{path},train,good,../../evil" for path in sorted((data_root / "disc/train/good").iterdir())]
    (tmp_path / "m.csv").write_text("path,split,label,category\n" + "\n".join(lines) + "\n")
    done = run("train", "--data", tmp_path / "m.csv", "--out", tmp_path / "out", *sets())
    assert done.returncode == 0, done.stderr
    assert Path(last_line(done)).parent == tmp_path / "out/models"


def test_one_failing_category_does_not_stop_the_others(tmp_path):
    root = write_dataset(tmp_path / "data", train=12, test=3)
    shutil.copytree(root / "disc", root / "bad")
    for path in (root / "bad/train/good").iterdir():
        path.write_bytes(b"")
    done = run("process-all", "--data", root, "--out", tmp_path / "out", *sets())
    assert "1 categories failed: bad:" in one_error_line(done)
    assert (tmp_path / "out/models/disc-unet.spot").is_file()


def test_bad_input_gets_one_clear_line(trained, data_root, tmp_path):
    cut = tmp_path / "cut.spot"
    cut.write_bytes(trained.read_bytes()[:5000])
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        (("train", "--data", tmp_path / "none"), "none"),
        (("train", "--data", empty), "picture"),
        (("train", "--data", data_root, "--category", "cat"), "disc"),
        (("train", "--data", data_root, "--preset", "magic"), "seed"),
        (("train", "--data", data_root, "--false-reject-rate", 2), "false_reject_rate"),
        (("train", "--data", data_root, "--set", "training.speed=9"), "training.speed"),
        (("evaluate", "--bundle", cut, "--data", data_root), "truncated"),
        (("evaluate", "--bundle", trained, "--data", data_root / "disc/train/good"), "test pictures"),
        (("predict", "--bundle", tmp_path / "none.spot", tmp_path), "does not exist"),
        (("predict", "--bundle", trained, empty), "no pictures"),
        (("predict", "--bundle", trained, "--threshold", "nan", data_root), "must be a number"),
        (("info", data_root / "disc/train/good/000.png"), "bundle"),
        (("sample", "--out", tmp_path / "s", "--category", "spoon"), "spoon"),
    ]
    for arguments, expected in cases:
        assert expected in one_error_line(run(*arguments)), arguments


def test_bad_training_pictures_are_named_and_skipped_on_request(tmp_path):
    root = write_dataset(tmp_path, train=14, test=1)
    for name in ("003.png", "007.png"):
        (root / "disc/train/good" / name).write_bytes(b"no picture")
    command = ("train", "--data", root, "--category", "disc", "--out", tmp_path / "out", *sets())
    error = one_error_line(run(*command))
    assert "003.png" in error
    assert "007.png" in error
    done = run(*command, "--skip-bad")
    assert done.returncode == 0
    assert done.stderr.count("left out: ") == 2
    bundle = last_line(done)
    run("evaluate", "--bundle", bundle, "--data", root, "--category", "disc", "--report", tmp_path / "r")
    assert "003.png" in (tmp_path / "r/report.html").read_text(encoding="utf-8")


def test_an_unwritable_place_is_named(trained, data_root, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run(
        "overlay", "--bundle", trained, data_root / "disc/test/bar/000.png", "--out", tmp_path / "file/deep"
    )
    assert "cannot write" in one_error_line(done)
