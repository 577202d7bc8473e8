"""Several products in one model: recognised or named, saved in one file, and one clear line for what goes wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from anomaly_spotter import ProductSpotter, Spotter, Verdict, load
from anomaly_spotter.bundle import identity, read_manifest
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import (
    BundleError,
    ConfigError,
    DatasetError,
    Interrupted,
    PictureError,
    SpotterError,
)
from tests.conftest import draw_part, draw_plate, write_png, write_products
from tests.test_bundle import rewrite
from tests.test_recognition import draw_fan

CONFIG = SpotterConfig.load(
    "memory",
    overrides={
        "preprocessing": {"long_side": 64, "alignment": "none"},
        "model": {"features": "gradients", "dimensions": 12},
        "scoring": {"smoothing_sigma": 3},
        "calibration": {"false_reject_rate": 0.05},
    },
    environment={},
)
NAMES = ["disc", "plate"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_products(tmp_path_factory.mktemp("products"))


@pytest.fixture(scope="module")
def products(root):
    return ProductSpotter.fit(root, NAMES, config=CONFIG)


@pytest.fixture(scope="module")
def file(products, tmp_path_factory):
    return products.save(tmp_path_factory.mktemp("model") / "both.spot")


def test_each_picture_meets_its_products_detector(products, root):
    rng = np.random.default_rng(20)
    pictures = [
        draw_part(rng)[0],
        draw_plate(rng),
        draw_part(rng, defect=True)[0],
        draw_plate(rng, defect=True),
    ]
    found = products.inspect(pictures)
    assert [one.product for one in found] == ["disc", "plate", "disc", "plate"]
    assert [one.verdict for one in found[2:]] == [Verdict.DEFECT] * 2
    for picture, one in zip(pictures, found, strict=True):
        alone = products.detector(one.product).inspect(picture)
        assert one.score == alone.score
        np.testing.assert_array_equal(one.anomaly_map, alone.anomaly_map)
    assert products.recognise(root / "plate/test/blot/000.png") == "plate"
    assert products.recognise(draw_fan(rng)) is None


def test_a_named_product_is_not_recognised(products):
    plate = draw_plate(np.random.default_rng(21))
    found = products.inspect(plate, "disc")
    assert (found.product, found.verdict) == ("disc", Verdict.DEFECT)
    assert found.score == products.detector("disc").inspect(plate).score


def test_something_else_is_a_defect_with_that_reason(products):
    found = products.inspect(draw_fan(np.random.default_rng(22)), threshold=1e9)
    assert found.verdict is Verdict.DEFECT
    assert found.reason == "not one of the products: disc, plate"
    assert found.product is None
    assert np.isinf(found.score)
    assert not found.mask.any()
    assert found.p_value == pytest.approx(1 / 21)


def test_a_stream_goes_on_past_bad_pictures_in_order(products, root, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    files = [root / "disc/test/good/000.png", tmp_path / "empty.png", root / "plate/test/good/000.png"]
    for product in (None, "plate"):
        found = list(products.inspect_stream(iter(files), product=product))
        assert [source for source, _ in found] == files
        assert isinstance(found[1][1], PictureError)
        assert [found[0][1].source, found[2][1].source] == [files[0], files[2]]
        assert found[2][1].product == "plate"
    with pytest.raises(PictureError):
        products.inspect(files)
    with pytest.raises(PictureError):
        products.recognise(files[1])


def test_cameras_of_different_depth_in_one_model(tmp_path):
    rng = np.random.default_rng(23)
    for index in range(12):
        write_png(tmp_path / "disc/train/good" / f"{index}.png", draw_part(rng)[0].astype(np.uint16) * 16)
        write_png(tmp_path / "plate/train/good" / f"{index}.png", draw_plate(rng).astype(np.uint16) * 257)
    products = ProductSpotter.fit(tmp_path, NAMES, config=CONFIG)
    whites = [spotter.preprocessor.white_level for spotter in products.spotters.values()]
    assert whites == [4095, 65535]
    for folder in NAMES:
        path = tmp_path / folder / "train/good/3.png"
        found = products.inspect(path)
        assert found.product == folder
        assert found.score == products.detector(folder).inspect(path).score


def test_what_was_fitted_is_what_is_loaded(products, file, root):
    loaded = load(file)
    assert isinstance(loaded, ProductSpotter)
    assert loaded.products == products.products == ("disc", "plate")
    assert loaded.identity == products.identity == identity(read_manifest(file))
    assert loaded.describe() == json.loads(json.dumps(products.describe()))
    rng = np.random.default_rng(24)
    for picture in (draw_part(rng)[0], draw_plate(rng, defect=True), draw_fan(rng)):
        before, after = products.inspect(picture), loaded.inspect(picture)
        assert (after.product, after.score, after.p_value) == (before.product, before.score, before.p_value)


def test_each_kind_of_file_names_what_opens_it(file, bundle):
    with pytest.raises(BundleError, match=r"several products \(disc, plate\).*ProductSpotter.load"):
        Spotter.load(file)
    with pytest.raises(BundleError, match=r"one detector.*Spotter.load"):
        ProductSpotter.load(bundle)
    assert isinstance(load(bundle), Spotter)


def _without_name(manifest):
    return [{key: value for key, value in own.items() if key != "name"} for own in manifest["products"]]


def test_damage_is_named_in_one_line(file, tmp_path):
    manifest = read_manifest(file)
    cases = [
        ({"manifest": {"products": manifest["products"][::-1]}}, "manifest was changed"),
        (
            {"manifest": {"recogniser": manifest["recogniser"] | {"limits": [9e9, 9e9]}}},
            "manifest was changed",
        ),
        ({"manifest": {"products": _without_name(manifest)}}, "lacks a part of its products"),
        ({"manifest": {"products": [manifest["products"][0]] * 2}}, "lacks a part of its products"),
        ({"manifest": {"products": None}}, "lacks products"),
        ({"manifest": {"format_version": 2}}, "lacks config"),
        ({"weights": b"edited"}, "hash mismatch"),
        ({"drop": ("model.safetensors",)}, "no model.safetensors inside"),
    ]
    for change, message in cases:
        with pytest.raises(BundleError, match=message) as caught:
            load(rewrite(file, tmp_path / "x.spot", **change))
        assert "\n" not in str(caught.value)
    (tmp_path / "cut.spot").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(BundleError, match="truncated"):
        load(tmp_path / "cut.spot")


def test_writing_is_whole_or_not_at_all(products, tmp_path, monkeypatch):
    target = products.save(tmp_path / "a.spot")
    before = target.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anomaly_spotter.files.os.fsync", full_disk)
    with pytest.raises(SpotterError, match="No space left on device"):
        products.save(target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.spot"]


def test_one_detector_is_exchanged_the_others_stay(products):
    changed = products.detector("plate").recalibrate(false_reject_rate=0.2)
    new = products.exchanged("plate", changed)
    assert new.detector("plate") is changed
    assert new.detector("disc") is products.detector("disc")
    assert products.detector("plate").calibration.promise.asked_rate == 0.05
    with pytest.raises(SpotterError, match="no product 'bolt' in this model; it knows disc, plate"):
        products.exchanged("bolt", changed)


def test_twins_are_announced(tmp_path):
    rng = np.random.default_rng(25)
    for index in range(12):
        for twin in ("left", "right"):
            write_png(tmp_path / twin / "train/good" / f"{index}.png", draw_part(rng)[0])
    told: list[str] = []
    ProductSpotter.fit(tmp_path, ["left", "right"], config=CONFIG, announce=told.append)
    assert any("good pictures were not recognised" in line for line in told)


def test_what_cannot_be_fitted_is_named(root, tmp_path):
    for names, message in (
        (["disc", "disc"], "'disc' is named twice"),
        (["disc"], "at least two categories, found disc"),
        ([], "at least two categories, found none"),
        (["disc", "bolt"], "no category 'bolt'; found disc, plate"),
    ):
        with pytest.raises(DatasetError, match=message):
            ProductSpotter.fit(root, names, config=CONFIG)
    shutil.copytree(root, tmp_path / "data")
    (tmp_path / "data/plate/train/good/003.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"product 'plate': .*003\.png"):
        ProductSpotter.fit(tmp_path / "data", NAMES, config=CONFIG)
    fitted = ProductSpotter.fit(tmp_path / "data", NAMES, config=CONFIG, skip_bad=True)
    assert [len(own) for own in fitted.recogniser.left_out] == [20, 19]
    with pytest.raises(SpotterError, match="no product 'bolt'"):
        fitted.inspect(draw_part(np.random.default_rng(1))[0], "bolt")
    with pytest.raises(SpotterError, match="must be a number"):
        fitted.inspect(draw_part(np.random.default_rng(1))[0], threshold=float("nan"))


def test_runs_are_resumed_each_in_its_folder(root, tmp_path):
    first = ProductSpotter.fit(root, NAMES, config=CONFIG, run_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disc-memory", "plate-memory"]
    again = ProductSpotter.fit(root, NAMES, config=CONFIG, run_dir=tmp_path, resume=True)
    assert again.recogniser.to_dict() == first.recogniser.to_dict()
    for name in NAMES:
        assert again.detector(name).calibration == first.detector(name).calibration
    other = SpotterConfig.parse({**CONFIG.to_dict(), "training": {"seed": 5}})
    with pytest.raises(ConfigError, match="product 'disc': cannot resume"):
        ProductSpotter.fit(root, NAMES, config=other, run_dir=tmp_path, resume=True)


def test_an_interrupted_detector_makes_no_model(root, spotter, monkeypatch):
    story = spotter.provenance | {"interrupted": True}
    monkeypatch.setattr(spotter, "provenance", story)
    monkeypatch.setattr(Spotter, "fit", lambda *_, **__: spotter)
    with pytest.raises(Interrupted):
        ProductSpotter.fit(root, NAMES, config=CONFIG)
