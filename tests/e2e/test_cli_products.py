"""Several products on the command line: trained into one file, recognised or named, and changed one by one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import draw_part, draw_plate, write_png, write_products
from tests.e2e.test_cli import last_line, one_error_line, run
from tests.e2e.test_cli_living import SETS, main_of, trained
from tests.test_recognition import draw_fan

__all__ = ["main_of", "trained"]  # fixtures


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = write_products(tmp_path_factory.mktemp("products"))
    rng = np.random.default_rng(30)
    write_png(root / "mixed/a_disc.png", draw_part(rng)[0])
    write_png(root / "mixed/b_plate.png", draw_plate(rng))
    write_png(root / "mixed/c_fan.png", draw_fan(rng))
    return root


@pytest.fixture(scope="module")
def both(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    done = run("train", "--data", root, "--category", "disc, plate", "--out", out, *SETS)
    assert done.returncode == 0, done.stderr
    file = Path(last_line(done))
    assert file == out / "models/disc+plate-memory.spot"
    for name in ("disc", "plate"):
        assert f"{name}: At most 1 in 21 good parts will be rejected" in done.stdout
        assert (out / f"runs/{name}-memory/run.json").is_file()
    told = json.loads((out / "metrics/disc+plate-memory.train.json").read_text())
    assert list(told["products"]) == ["disc", "plate"]
    assert told["recogniser"]["mistaken"] == [0, 0]
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return file


def test_predict_recognises_or_takes_the_name(both, root, tmp_path, main_of):
    done = run("predict", "--bundle", both, root / "mixed", "--json", tmp_path / "p.json", "--threshold", 1e9)
    assert done.returncode == 1, done.stderr
    disc, plate, fan = done.stdout.splitlines()
    assert disc.startswith("OK")
    assert "product disc" in disc
    assert "product plate" in plate
    assert fan.startswith("DEFECT")
    assert "not one of the products: disc, plate" in fan
    rows = json.loads((tmp_path / "p.json").read_text())["pictures"]
    assert [row["product"] for row in rows] == ["disc", "plate", None]
    assert [row["score"] is None for row in rows] == [False, False, True]
    _, named, _ = main_of("predict", "--bundle", both, "--product", "plate", root / "mixed")
    assert named.count("product plate") == 3
    code, panels, _ = main_of("overlay", "--bundle", both, root / "mixed", "--out", tmp_path)
    assert code == 0
    assert len(panels.splitlines()) == 3


def test_evaluate_and_info(both, root, tmp_path, main_of):
    code, _, error = main_of(
        "evaluate", "--bundle", both, "--data", root, "--category", "plate", "--json", tmp_path / "e.json"
    )
    assert code == 0, error
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["image"]["auroc"] == 1.0
    assert found["bundle"]["category"] == found["data"]["category"] == "plate"
    code, shown, _ = main_of("info", both)
    assert code == 0
    assert shown.count("At most 1 in 21") == 2
    for text in ("disc, plate", "recognises disc", "20 of 20 good pictures"):
        assert text in shown


def test_one_products_detector_is_changed(both, root, tmp_path, main_of):
    file = tmp_path / "both.spot"
    shutil.copy(both, file)
    before = file.read_bytes()
    rng = np.random.default_rng(31)
    for index in range(5):
        write_png(tmp_path / "new" / f"{index}.png", draw_plate(rng))
    defects = root / "plate/test/blot"
    code, printed, error = main_of(
        "extend", "--bundle", file, "--product", "plate", "--good", tmp_path / "new"
    )
    assert code == 0, error
    assert "calibration pictures: 20 before, 25 now" in printed
    assert printed.splitlines()[-1] == str(tmp_path / "both.v2.spot")
    code, printed, error = main_of(
        "recalibrate", "--bundle", tmp_path / "both.v2.spot", "--product", "disc", "--false-reject-rate", 0.1
    )
    assert code == 0, error
    assert printed.splitlines()[-1] == str(tmp_path / "both.v3.spot")
    code, printed, error = main_of(
        "rates", "--bundle", tmp_path / "both.v3.spot", "--product", "plate", "--defects", defects
    )
    assert code == 0, error
    assert "4 known defects" in printed
    main_of("info", tmp_path / "both.v3.spot", "--json", tmp_path / "i.json")
    stories = {own["name"]: own for own in json.loads((tmp_path / "i.json").read_text())["products"]}
    changes = {
        name: [change["how"] for change in own["provenance"]["changes"]] for name, own in stories.items()
    }
    assert changes == {"disc": ["recalibrate"], "plate": ["extend"]}
    assert stories["disc"]["calibration"]["promise"]["asked_rate"] == 0.1
    assert stories["plate"]["calibration"]["promise"]["asked_rate"] == 0.05
    assert file.read_bytes() == before


def test_a_failing_product_is_named_and_leaves_no_model(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    for path in (data / "plate/train/good").iterdir():
        path.write_bytes(b"")
    command = ("train", "--data", data, "--category", "disc,plate", "--out", tmp_path / "out", *SETS)
    assert "product 'plate'" in one_error_line(run(*command))
    assert not list((tmp_path / "out").rglob("*.spot"))


def test_a_comma_in_a_category_is_no_list(root, tmp_path, main_of):
    shutil.copytree(root / "disc", tmp_path / "data/disc, light")
    shutil.copytree(root / "plate", tmp_path / "data/plate")
    code, printed, error = main_of(
        "train", "--data", tmp_path / "data", "--category", "disc, light", "--out", tmp_path, *SETS
    )
    assert code == 0, error
    assert Path(printed.splitlines()[-1]) == tmp_path / "models/disc_ light-memory.spot"


def test_bad_input_gets_one_clear_line(both, trained, root, tmp_path, main_of):
    new = root / "plate/test/good"
    cases = [
        (("train", "--data", root, "--category", "disc,disc"), "'disc' is named twice"),
        (("train", "--data", root, "--category", "disc,bolt"), "no category 'bolt'"),
        (("train", "--data", root, "--category", ","), "no category ','"),
        (("predict", "--bundle", both, "--product", "bolt", new), "no product 'bolt' in this model; it knows disc, plate"),
        (("overlay", "--bundle", both, "--product", "bolt", new, "--out", tmp_path), "it knows disc, plate"),
        (("predict", "--bundle", trained, "--product", "plate", new), "holds one detector, of disc"),
        (("evaluate", "--bundle", both, "--data", root / "mixed"), "no product 'mixed'"),
        (("extend", "--bundle", both, "--good", new), "--product disc or plate"),
        (("recalibrate", "--bundle", both, "--false-reject-rate", 0.1), "--product disc or plate"),
        (("rates", "--bundle", both, "--defects", new), "--product disc or plate"),
    ]  # fmt: skip
    for arguments, expected in cases:
        code, _, error = main_of(*arguments)
        assert code == 2, arguments
        assert error.count("error: ") == 1, error
        assert expected in error, arguments
    assert main_of("predict", "--bundle", trained, "--product", "disc", new)[0] in (0, 1)
