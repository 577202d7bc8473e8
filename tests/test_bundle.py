"""The model file: exact round trip, and one clear line for everything that can be wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly_spotter.bundle import read_bundle, read_manifest
from anomaly_spotter.errors import BundleError, SpotterError
from anomaly_spotter.spotter import Spotter
from tests.conftest import draw_part


def rewrite(bundle, target, *, manifest=None, weights=None, drop=(), rehash=False):
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name not in drop}
    if manifest is not None:
        changed = json.loads(members["manifest.json"]) | manifest
        if rehash:
            sections = {
                name: changed[name] for name in ("config", "preprocessing", "calibration", "provenance")
            }
            changed["sections_sha256"] = hashlib.sha256(
                json.dumps(sections, sort_keys=True).encode()
            ).hexdigest()
        members["manifest.json"] = json.dumps(changed).encode()
    if weights is not None:
        members["model.safetensors"] = weights
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def test_what_was_fitted_is_what_is_loaded(spotter, bundle):
    loaded = Spotter.load(bundle)
    assert loaded.config == spotter.config
    assert loaded.preprocessor == spotter.preprocessor
    assert loaded.calibration == spotter.calibration
    assert loaded.provenance == json.loads(json.dumps(spotter.provenance))
    for defect in (False, True):
        picture, _ = draw_part(np.random.default_rng(3), defect=defect)
        before, after = spotter.inspect(picture), loaded.inspect(picture)
        assert after.score == before.score
        np.testing.assert_array_equal(after.anomaly_map, before.anomaly_map)


def test_the_file_holds_json_and_safetensors_only(bundle):
    with zipfile.ZipFile(bundle) as archive:
        assert sorted(archive.namelist()) == ["manifest.json", "model.safetensors"]


def test_the_manifest_names_data_commit_config_and_versions(bundle):
    manifest = read_manifest(bundle)
    origin = manifest["provenance"]
    assert len(origin["data_sha256"]) == 64
    assert {"created", "version", "commit", "versions", "machine", "seed", "train_counts"} <= set(origin)
    assert manifest["config"]["preset"] == "unet"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"manifest": {"format_version": 99}}, "bundle format 99"),
        ({"manifest": {"format": "other"}}, "not an Anomaly Spotter bundle"),
        ({"manifest": {"calibration": None}}, "lacks calibration"),
        ({"manifest": {"config": {"model": {"name": "evil"}}}}, "manifest was changed"),
        ({"manifest": {"config": {"model": {"name": "evil"}}}, "rehash": True}, "does not fit this version"),
        ({"manifest": {"preprocessing": {"height": 8}}, "rehash": True}, "does not fit this version"),
        ({"weights": b"edited"}, "hash mismatch"),
        ({"drop": ("model.safetensors",)}, "no model.safetensors inside"),
        ({"drop": ("manifest.json",)}, "no manifest.json inside"),
    ],
)
def test_damage_is_named_in_one_line(bundle, tmp_path, change, message):
    with pytest.raises(BundleError, match=message) as caught:
        Spotter.load(rewrite(bundle, tmp_path / "x.spot", **change))
    assert "\n" not in str(caught.value)


def test_missing_folder_and_foreign_files(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        read_bundle(tmp_path / "none.spot")
    with pytest.raises(BundleError, match="is a folder"):
        read_bundle(tmp_path)
    (tmp_path / "text.spot").write_text("hello")
    with pytest.raises(BundleError, match="truncated or not a bundle"):
        read_bundle(tmp_path / "text.spot")


def test_weights_of_another_shape_are_refused(spotter, bundle, tmp_path):
    manifest = read_manifest(bundle)
    config = manifest["config"] | {"model": manifest["config"]["model"] | {"widths": [8, 8, 8, 8]}}
    with pytest.raises(BundleError, match="do not fit the model"):
        Spotter.load(rewrite(bundle, tmp_path / "x.spot", manifest={"config": config}, rehash=True))


def test_writing_is_whole_or_not_at_all(spotter, tmp_path, monkeypatch):
    target = spotter.save(tmp_path / "a.spot")
    before = target.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anomaly_spotter.files.os.fsync", full_disk)
    with pytest.raises(SpotterError, match="No space left on device"):
        spotter.save(target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.spot"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.999), flip=st.integers(0, 2**31))
def test_truncated_or_flipped_files_never_raise_anything_else(bundle, tmp_path, cut, flip):
    data = bytearray(bundle.read_bytes())
    target = tmp_path / "x.spot"
    target.write_bytes(bytes(data[: int(len(data) * cut)]))
    with pytest.raises(BundleError):
        Spotter.load(target)
    data[flip % len(data)] ^= 1 << (flip % 8)
    target.write_bytes(bytes(data))
    with contextlib.suppress(BundleError):  # a flipped bit in a remark is no damage
        Spotter.load(target)


def test_a_zip_bomb_is_not_unpacked(bundle, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * (65 * 2**20))
    (tmp_path / "bomb.spot").write_bytes(buffer.getvalue())
    with pytest.raises(BundleError, match="not a sane bundle"):
        read_manifest(tmp_path / "bomb.spot")


def test_a_zip_bomb_is_refused_before_it_unpacks(bundle, tmp_path):
    bomb = tmp_path / "bomb.spot"
    with zipfile.ZipFile(bundle) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", whole.read("manifest.json"))
        with archive.open("model.safetensors", "w", force_zip64=True) as member:
            for _ in range(256):
                member.write(bytes(2**20))
    assert bomb.stat().st_size < 2**20
    with pytest.raises(BundleError, match="not a sane bundle"):
        read_bundle(bomb)


def test_members_that_lead_out_of_the_folder_are_never_written(bundle, tmp_path, monkeypatch):
    home = tmp_path / "a" / "b"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    crafted = rewrite(bundle, home / "crafted.spot")
    with zipfile.ZipFile(crafted, "a") as archive:
        archive.writestr("../../escaped.txt", "x")
        archive.writestr("/escaped.txt", "x")
    Spotter.load(crafted)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["crafted.spot"]


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("calibration", {"scale": "x"}),
        ("calibration", {"scale": 0.0}),
        ("calibration", {"centre": []}),
        ("calibration", {"threshold": 1e999}),
        ("calibration", {"scores": [1.0, 0.5]}),
        ("calibration", {"scores": []}),
        ("calibration", {"refused": -1}),
        ("calibration", {"promise": {"rate": 0.1}}),
        ("preprocessing", {"height": 2**31}),
        ("preprocessing", {"height": True}),
        ("preprocessing", {"width": 40.5}),
        ("preprocessing", {"width": 40}),
        ("preprocessing", {"channels": 2}),
        ("preprocessing", {"aspect": "../x"}),
        ("preprocessing", {"white_level": 0}),
        ("preprocessing", {"white_level": None}),
        ("preprocessing", {"illumination": {"method": "robust"}}),
    ],
)
def test_forged_values_under_right_hashes_are_refused(bundle, tmp_path, section, change):
    """Found by ``tests/fuzz.py``: each came as far as the first picture, or as an error of another class."""
    stored = read_bundle(bundle)
    forged = dataclasses.replace(stored, **{section: {**getattr(stored, section), **change}})
    with pytest.raises(BundleError, match="does not fit this version") as caught:
        Spotter.from_bundle(forged, "forged.spot")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["rank", "count", "needed"])
@pytest.mark.parametrize("value", ["x", 0.5, 10**6])
def test_a_forged_promise_is_refused(bundle, field, value):
    stored = read_bundle(bundle)
    promise = {**stored.calibration["promise"], field: value}
    forged = dataclasses.replace(stored, calibration={**stored.calibration, "promise": promise})
    if (field, value) == ("needed", 10**6):  # more than there are: so it is where a promise could not be kept
        assert Spotter.from_bundle(forged, "forged.spot").calibration.promise.needed == 10**6
        return
    with pytest.raises(BundleError, match="does not fit this version"):
        Spotter.from_bundle(forged, "forged.spot")


def test_a_region_of_another_size_is_refused(bundle):
    stored = read_bundle(bundle)
    arrays = {**stored.arrays, "preprocessing.region": np.ones((3, 5), np.uint8)}
    with pytest.raises(BundleError, match="a region of"):
        Spotter.from_bundle(dataclasses.replace(stored, arrays=arrays), "forged.spot")
