"""Extending and recalibrating a detector, and what known defects say about rates, on tiny pictures."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anomaly_spotter.bundle import identity, next_version, read_manifest
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import ConfigError, DatasetError, SpotterError
from anomaly_spotter.known import Known
from anomaly_spotter.models.memory import MemoryModel, _shares
from anomaly_spotter.spotter import Spotter
from tests.conftest import draw_part, write_dataset, write_png

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {
    "preprocessing": {"long_side": 64, "alignment": "none"},
    "scoring": {"smoothing_sigma": 3.0, "pooling": "max"},
    "calibration": {"false_reject_rate": 0.1},
}


def config_of(name: str, places: str = "local", **scoring: object) -> SpotterConfig:
    model = {"name": name, "features": "gradients", "dimensions": 12, "places": places}
    tree = {**SETTINGS, "model": model, "scoring": {**SETTINGS["scoring"], **scoring}}
    return SpotterConfig.load("memory", overrides=tree, environment={})


def write_parts(folder: Path, count: int, seed: int, *, spot: bool = False, defect: bool = False) -> Path:
    """Parts with, if asked, the same harmless light spot in the same corner: a false alarm to learn."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        picture = draw_part(rng, defect=defect)[0]
        if spot:
            picture[4:14, 6:16] = 250
        write_png(folder / f"{seed}-{index:02}.png", picture)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("living")
    return {
        "good": write_dataset(root / "data", train=40, test=2) / "disc/train/good",
        "new": write_parts(root / "new", 12, 50),
        "spots": write_parts(root / "spots", 6, 60, spot=True),
        "more_spots": write_parts(root / "more_spots", 4, 61, spot=True),
        "bars": write_parts(root / "bars", 5, 70, defect=True),
    }


@pytest.fixture(scope="module")
def fitted(parts: dict[str, Path]) -> dict[tuple[str, str], Spotter]:
    kinds = [(name, places) for name in ("memory", "gaussian") for places in ("local", "global")]
    return {kind: Spotter.fit(parts["good"], config=config_of(*kind)) for kind in kinds}


@pytest.fixture(scope="module")
def memory(fitted) -> Spotter:
    return fitted["memory", "local"]


def scores(spotter: Spotter, folder: Path) -> np.ndarray:
    return np.array([found.score for found in spotter.inspect(sorted(folder.iterdir()))])


@pytest.mark.parametrize("places", ["local", "global"])
@pytest.mark.parametrize("name", ["memory", "gaussian"])
def test_extending_a_saved_detector_is_extending_it(fitted, parts, tmp_path, name, places):
    old = fitted[name, places]
    before = old.identity
    loaded = Spotter.load(old.save(tmp_path / "a.spot"))
    assert loaded.identity == before == identity(read_manifest(tmp_path / "a.spot"))
    new, again = old.extend(parts["new"]), loaded.extend(parts["new"])
    assert new.calibration == again.calibration
    for key, value in new.model.state().items():
        np.testing.assert_array_equal(value, again.model.state()[key], err_msg=key)
    reloaded = Spotter.load(new.save(tmp_path / "b.spot"))
    assert reloaded.identity == new.identity != before
    np.testing.assert_array_equal(scores(reloaded, parts["bars"]), scores(new, parts["bars"]))
    assert old.identity == before
    assert len(old.calibration.scores) == 40
    assert len(new.calibration.scores) == 52
    assert all(found.score > 1 for found in new.inspect(sorted(parts["bars"].iterdir())))


def test_old_scores_stay_and_new_ones_do_not_know_their_picture(memory, parts):
    new = memory.extend(parts["new"])
    old_raw, raw = memory.calibration.raw_scores, new.calibration.raw_scores
    assert all(np.isclose(raw, score, atol=1e-9).any() for score in old_raw)
    added = sorted(set(np.round(raw, 6)) - set(np.round(old_raw, 6)))
    everything = memory.extend(parts["new"]).model
    known = [
        float(np.max(look))
        for look in everything.anomaly_maps(
            np.stack(
                [
                    new.preprocessor.prepare(found.picture, new.preprocessor.place(found.picture))
                    for found in memory.inspect(sorted(parts["new"].iterdir()))
                ]
            )
        )[0]
    ]
    assert len(added) == 12
    assert min(added) > 2 * max(known)  # a picture that is in the memory is hardly any distance away


def test_a_larger_memory_only_comes_nearer(memory, parts):
    new = memory.extend(parts["new"])
    pictures = sorted(parts["bars"].iterdir()) + sorted(parts["spots"].iterdir())
    for before, after in zip(memory.inspect(pictures), new.inspect(pictures), strict=True):
        raw_before = before.anomaly_map * memory.calibration.scale + memory.calibration.centre
        raw_after = after.anomaly_map * new.calibration.scale + new.calibration.centre
        assert (raw_after <= raw_before + 1e-3).all()


@pytest.mark.parametrize(
    ("name", "places"), [("memory", "local"), ("memory", "global"), ("gaussian", "local")]
)
def test_corrected_false_alarms_are_learned(fitted, parts, name, places):
    old = fitted[name, places]
    told: list[str] = []
    before = scores(old, parts["more_spots"])
    new = old.extend(parts["spots"], announce=told.append)
    after = scores(new, parts["more_spots"])
    assert (before > 6).all()
    assert after.max() < 1.05  # one in ten may be rejected: the limit lies among the scores of those learned
    assert (after <= 1).sum() >= 2
    assert (scores(new, parts["bars"]) > 1).all()
    change = new.provenance["changes"][-1]
    assert len(change["rejected_before"]) == change["pictures"] == 6
    assert change["parent"] == old.identity
    assert sum("taken as good" in line for line in told) == 6
    assert any("picked because they were rejected" in line for line in told)


def test_gaussians_are_as_if_fitted_on_all_pictures(fitted, parts, tmp_path):
    from anomaly_spotter.inputs.store import Canvases, read_good
    from anomaly_spotter.models.gaussian import GaussianModel
    from anomaly_spotter.models.grids import GoodGrids

    old = fitted["gaussian", "local"]
    files = sorted(parts["good"].iterdir()) + sorted(parts["new"].iterdir())
    everything = GoodGrids.of(old.model.features, Canvases(read_good(files), old.preprocessor), 0)
    refitted, _ = GaussianModel.fit(everything, old.config.model, 0)
    updated = old.extend(parts["new"]).model
    assert updated.samples == refitted.samples == 52
    assert updated.shrinkage == pytest.approx(refitted.shrinkage, rel=1e-2)
    np.testing.assert_allclose(updated.mean, refitted.mean, atol=1e-3)
    grids = [old.model.features.of(canvas) for canvas in everything.canvases]
    ratios = [(updated.distances(grid) / refitted.distances(grid)).numpy() for grid in grids]
    assert np.abs(np.concatenate(ratios) - 1).max() < 0.02


def test_location_scale_stays_as_it_was(parts):
    old = Spotter.fit(parts["good"], config=config_of("memory", normalise="location"))
    new = old.extend(parts["new"])
    assert new.location is old.location is not None
    assert len(new.calibration.scores) == 52
    assert (scores(new, parts["bars"]) > 1).all()


def test_a_network_keeps_its_weights_and_gains_calibration_pictures(spotter, parts):
    new = spotter.extend(parts["new"])
    assert new.model is spotter.model
    assert len(new.calibration.scores) == len(spotter.calibration.scores) + 12
    with pytest.raises(DatasetError, match="knows all 12"):
        new.extend(parts["new"])
    assert len(new.recalibrate(parts["new"]).calibration.scores) == 12  # it calibrated, it did not learn


def test_a_picture_counts_once(memory, parts, tmp_path):
    folder = shutil.copytree(parts["new"], tmp_path / "mixed")
    for path in sorted(parts["good"].iterdir())[:3]:
        shutil.copy(path, folder / f"old-{path.name}")
    told: list[str] = []
    new = memory.extend(folder, announce=told.append)
    assert len(new.calibration.scores) == 52
    assert "left out: 3 pictures that the detector knows already" in told
    with pytest.raises(DatasetError, match="knows all 15"):
        new.extend(folder)
    with pytest.raises(DatasetError, match="knows all 40"):
        memory.recalibrate(parts["good"])
    # Recalibrated on them first, then taught: their scores are not counted a second time.
    taught = memory.recalibrate(parts["new"]).extend(parts["new"])
    assert len(taught.calibration.scores) == 12
    assert taught.model.bank.shape[1] == 52


def test_a_full_memory_makes_room_for_the_new():
    rng = np.random.default_rng(0)
    for new, old, room, taken, kept in (
        (5, 20, 40, 5, 20),
        (5, 40, 40, 5, 35),
        (30, 40, 40, 20, 20),
        (90, 10, 40, 36, 4),
    ):
        chosen, staying = _shares(new, old, room, rng)
        assert (len(chosen), len(staying)) == (taken, kept)
        assert len(set(chosen)) == taken
        assert staying.max() < old


def test_a_full_memory_stays_as_large_and_learns(parts):
    config = config_of("memory")
    small = config.model_copy(update={"model": config.model.model_copy(update={"prototypes": 20})})
    old = Spotter.fit(parts["good"], config=small)
    new = old.extend(parts["spots"])
    assert isinstance(new.model, MemoryModel)
    assert new.model.bank.shape[1] == 20
    assert len(new.model.exemplars.ends) == 20
    assert (scores(new, parts["more_spots"]) < scores(old, parts["more_spots"])).all()
    found = new.inspect(min(parts["spots"].iterdir()))
    assert found.normal is not None
    assert found.normal[6:12, 8:14].mean() > 200  # the new look is shown as normal


def test_recalibrating_moves_only_the_limit(memory, parts):
    stricter = memory.recalibrate(false_reject_rate=0.2)
    assert stricter.model is memory.model
    assert stricter.calibration.raw_limit < memory.calibration.raw_limit
    np.testing.assert_allclose(stricter.calibration.raw_scores, memory.calibration.raw_scores)
    assert stricter.config.calibration.false_reject_rate == 0.2
    assert stricter.calibration.promise.is_kept
    back = stricter.recalibrate(false_reject_rate=0.1)
    assert back.calibration.raw_limit == pytest.approx(memory.calibration.raw_limit)
    assert [change["how"] for change in back.provenance["changes"]] == ["recalibrate"] * 2
    trusted = memory.recalibrate(confidence=0.95)
    assert "with 95 % confidence" in trusted.guarantee
    assert "on average" in trusted.recalibrate(on_average=True).guarantee
    assert "needs 99, so 99 good pictures in all" in memory.recalibrate(false_reject_rate=0.01).guarantee


def test_recalibrating_on_new_pictures_uses_them_alone(memory, parts):
    new = memory.recalibrate(parts["new"])
    direct = scores(memory, parts["new"]) * memory.calibration.scale + memory.calibration.centre
    np.testing.assert_allclose(new.calibration.raw_scores, np.sort(direct), rtol=1e-5)
    assert new.provenance["changes"][-1]["pictures"] == 12
    told: list[str] = []
    memory.recalibrate(parts["bars"], announce=told.append)
    assert any("much stranger" in line for line in told)


def test_what_cannot_be_done_is_said(memory, parts, tmp_path):
    with pytest.raises(SpotterError, match="nothing to change"):
        memory.recalibrate()
    with pytest.raises(SpotterError, match="give one of them"):
        memory.recalibrate(confidence=0.9, on_average=True)
    with pytest.raises(ConfigError, match="false_reject_rate"):
        memory.recalibrate(false_reject_rate=1.5)
    with pytest.raises(DatasetError, match="no such folder"):
        memory.extend(tmp_path / "none")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"bad\.png"):
        memory.extend(tmp_path)
    with pytest.raises(DatasetError, match="no readable picture"):
        memory.recall_at_rates([tmp_path / "bad.png"])


def test_known_defects_move_nothing(memory, parts):
    before = memory.identity
    found = memory.recall_at_rates([*sorted(parts["bars"].iterdir()), parts["bars"] / "none.png"])
    assert memory.identity == before
    assert len(found.unreadable) == 1
    assert [row.promise.asked_rate for row in found.rows] == [0.1, 0.05, 0.02, 0.01, 0.005]
    limits = [row.limit for row in found.rows]
    assert limits == sorted(limits)
    assert [row.is_current for row in found.rows] == [True, False, False, False, False]
    assert found.rows[0].limit == pytest.approx(found.threshold)
    assert [row.promise.is_kept for row in found.rows] == [True, True, False, False, False]
    for row in found.rows:
        assert row.found == sum(score > row.limit for _, score in found.pictures)
    odd = memory.recalibrate(false_reject_rate=0.07).recall_at_rates(sorted(parts["bars"].iterdir()))
    assert [row.promise.asked_rate for row in odd.rows if row.is_current] == [0.07]


def test_versions_never_overwrite(tmp_path):
    assert next_version(tmp_path / "a.spot") == tmp_path / "a.v2.spot"
    (tmp_path / "a.v2.spot").touch()
    assert next_version(tmp_path / "a.spot") == tmp_path / "a.v3.spot"
    assert next_version(tmp_path / "a.v2.spot") == tmp_path / "a.v3.spot"
    assert next_version(tmp_path / "b.v9.spot") == tmp_path / "b.v10.spot"


def test_a_file_that_does_not_tell_its_pictures_can_be_extended(memory, parts, tmp_path):
    older = Spotter.load(memory.save(tmp_path / "m.spot"))
    older.known = Known()
    assert len(older.extend(parts["new"]).calibration.scores) == 52
