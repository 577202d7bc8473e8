"""The choice from good pictures alone: repeatable, bounded by its budget, recorded, and it prefers what finds defects."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest

from anomaly_spotter import Spotter, auto
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.store import GoodPictures, read_good
from tests.conftest import write_png
from tests.inputs.test_alignment import Scene

SETTINGS = {"model": {"name": "auto", "features": "gradients", "dimensions": 12}}


def config(**sections) -> SpotterConfig:
    merged = {key: {**SETTINGS.get(key, {}), **sections.get(key, {})} for key in {*SETTINGS, *sections}}
    return SpotterConfig.load("default", overrides=merged, environment={})


def fixed_scene(rng, height=72, width=96):
    picture = np.full((height, width), 90, np.uint8)
    cv2.circle(picture, (width // 2, height // 2), height // 3, 190, -1, cv2.LINE_AA)
    cv2.rectangle(picture, (width // 8, height // 8), (width // 4, height // 3), 30, -1)
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def write(folder, pictures) -> GoodPictures:
    return read_good([write_png(folder / f"{i:03}.png", one) for i, one in enumerate(pictures)])


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> GoodPictures:
    rng = np.random.default_rng(0)
    return write(tmp_path_factory.mktemp("fixed"), [fixed_scene(rng) for _ in range(20)])


def choose(good, settings):
    told, steps = [], []
    chosen, record = auto.choose(good, settings, told.append, lambda *step: steps.append(step))
    return chosen, record, told, steps


@pytest.fixture(scope="module")
def choice(good):
    return choose(good, config(preprocessing={"alignment": "none"}))


def test_every_auto_is_filled_in_and_the_rest_is_kept(good, choice):
    asked = config(preprocessing={"alignment": "none"})
    chosen, record, _, _ = choice
    assert chosen.model.name in ("memory", "gaussian")
    assert chosen.preprocessing.alignment == "none"
    assert chosen.preprocessing.long_side % 16 == 0
    assert SpotterConfig.parse(chosen.to_dict()) == chosen
    assert chosen.model.features == "gradients"
    assert (chosen.training, chosen.calibration, chosen.auto) == (
        asked.training,
        asked.calibration,
        asked.auto,
    )
    assert record["chosen"]["model"] == chosen.model.name
    assert record["chosen"]["places"] == chosen.model.places
    assert record["chosen"]["long_side"] == chosen.preprocessing.long_side
    for name in ("smoothing_sigma", "pooling", "top_fraction", "normalise"):
        assert record["chosen"][name] == getattr(chosen.scoring, name)


def test_the_record_tells_how_it_was_chosen(choice):
    _, record, told, steps = choice
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["learned_from"] + record["held_out"] == 20
    assert record["synthetic_defects"] >= record["held_out"] > 0
    worths = [entry["worth"] for entry in record["ranking"]]
    assert worths == sorted(worths, reverse=True)
    assert worths[0] - record["worth"] < 0.05  # a tie may go to the cheaper or simpler one
    assert 0.5 < record["worth"] <= 1
    assert told[-1].startswith("chosen: ")
    assert any(line.startswith("tried as taken, ") for line in told)
    assert all("\n" not in line for line in told)
    assert steps[-1][0] == steps[-1][1] == len(steps) - 1


def test_the_choice_can_be_repeated(good, choice):
    again, record, told, _ = choose(good, config(preprocessing={"alignment": "none"}))
    assert again == choice[0]
    assert {**record, "seconds": 0} == {**choice[1], "seconds": 0}
    assert told == choice[2]


def test_another_seed_holds_other_pictures_out(good, choice):
    other = choose(good, config(preprocessing={"alignment": "none"}, training={"seed": 5}))[1]
    assert other["ranking"] != choice[1]["ranking"]


def test_held_out_pictures_are_not_learned_from(good, monkeypatch):
    from anomaly_spotter.models.grids import GoodGrids

    learned = []
    fit = GoodGrids.fit.__func__

    def watch(cls, canvases, *rest, **named):
        learned.append({one.tobytes() for one in canvases})
        return fit(cls, canvases, *rest, **named)

    monkeypatch.setattr(GoodGrids, "fit", classmethod(watch))
    _, record, _, _ = choose(good, config(preprocessing={"alignment": "none"}))
    assert [len(one) for one in learned] == [record["learned_from"]] * len(learned)
    assert record["learned_from"] == 12


def test_few_pictures_are_one_clear_error(tmp_path):
    rng = np.random.default_rng(0)
    few = write(tmp_path, [fixed_scene(rng) for _ in range(auto.FEWEST - 1)])
    with pytest.raises(
        DatasetError, match=r"found 7 good training pictures.*at least 8.*--model memory"
    ) as caught:
        choose(few, config())
    assert "\n" not in str(caught.value)


def test_tiny_pictures_are_one_clear_error(tmp_path):
    rng = np.random.default_rng(0)
    tiny = write(tmp_path, [rng.integers(0, 256, (40, 12), dtype=np.uint8) for _ in range(9)])
    with pytest.raises(DatasetError, match=r"12 pixels are too small"):
        choose(tiny, config())


def test_pictures_without_any_structure_are_one_clear_error(tmp_path):
    flat = write(tmp_path, [np.full((72, 96), 100 + level, np.uint8) for level in range(10)])
    with pytest.raises(DatasetError, match=r"too flat to choose a model.*--model memory"):
        choose(flat, config())


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> GoodPictures:
    rng = np.random.default_rng(1)
    return write(tmp_path_factory.mktemp("large"), [fixed_scene(rng, 300, 400) for _ in range(10)])


def tried(record):
    return {(entry["alignment"], entry["long_side"]) for entry in record["ranking"]}


def test_the_budget_decides_how_many_resolutions_are_tried(large):
    reached = {}
    for budget in (0.001, 1e6):
        settings = config(
            preprocessing={"alignment": "none", "illumination": "none"}, auto={"budget": budget}
        )
        _, _, told, steps = choose(large, settings)
        reached[budget] = [line.split(",")[1].strip() for line in told if line.startswith("tried")]
        assert steps[-1][1] == len(reached[budget])
    assert reached[0.001] == ["256 x 192"]  # the cheapest is always tried
    assert reached[1e6] == ["256 x 192", "400 x 304"]  # never larger than the pictures


def test_light_normalisation_is_tried_at_the_best_resolution_if_the_budget_allows(large):
    told = {}
    for budget in (0.001, 1e6):
        asked = config(preprocessing={"alignment": "none"}, auto={"budget": budget})
        chosen, record, told[budget], _ = choose(large, asked)
        assert chosen.preprocessing.illumination == record["chosen"]["illumination"] != "auto"
    levelled = [line for line in told[1e6] if line.startswith("tried") and "levelled" in line]
    assert len(levelled) == 2
    assert not [line for line in told[0.001] if line.startswith("tried") and "levelled" in line]


def test_samples_shrink_until_good_resolutions_are_affordable(large):
    geometries = list(auto._geometries(large, config(preprocessing={"alignment": "none"}), print))
    counts = [
        tuple(map(len, auto._samples(300, geometries, config(auto={"budget": budget}))))
        for budget in (1e6, 50, 25, 0.001)
    ]
    assert counts[0] == (40, 160)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == (10, 40)
    assert len(set(counts)) > 2
    hold, learn = auto._samples(300, geometries, config())
    assert not set(hold) & set(learn)


def test_the_budget_is_spent_cheapest_first(large):
    geometries = list(auto._geometries(large, config(preprocessing={"alignment": "none"}), print))
    areas = [geometry.megapixels for geometry in geometries]
    assert areas == sorted(areas)
    costs = np.cumsum(areas) * 50 * auto._SECONDS_PER_MEGAPIXEL
    for allowed in range(1, len(costs) + 1):
        room = auto._room(50, costs[allowed - 1] / auto._SHARE * 1.001)
        assert auto._affordable(geometries, room) == geometries[:allowed]
        assert len(auto._affordable(geometries, room, tries_of_last=2)) == max(1, allowed - 1)


def test_turned_parts_are_aligned_and_the_place_counts(tmp_path):
    turned = write(tmp_path, Scene("key").goods(16))
    chosen, record, told, _ = choose(turned, config())
    assert any(line.startswith("tried aligned") for line in told)
    assert any(line.startswith("tried as taken") for line in told)
    assert chosen.preprocessing.alignment == "template"
    assert chosen.model.places == "local"
    assert record["chosen"]["alignment"] == "template"


def test_where_nothing_can_be_aligned_that_is_told(tmp_path):
    rng = np.random.default_rng(3)
    texture = [cv2.blur(rng.integers(0, 256, (96, 96), dtype=np.uint8), (3, 3)) for _ in range(12)]
    chosen, record, told, _ = choose(write(tmp_path, texture), config())
    assert any(line.startswith("not aligned: ") for line in told)
    assert chosen.preprocessing.alignment == "none"
    assert {entry["alignment"] for entry in record["ranking"]} == {"none"}


def test_defects_that_tell_nothing_weigh_nothing_and_ties_go_to_the_cheaper(good):
    geometries = list(auto._geometries(good, config(preprocessing={"alignment": "none"}), print))
    small = geometries[0]
    dear = auto.Geometry(None, 512, auto.Preprocessor(512, 512, 1, "keep"))
    scoring = config().scoring

    def candidate(geometry, *found):
        return auto.Candidate(geometry, "memory", "local", scoring, np.array(found))

    blind = candidate(small, 1.0, 1.0, 0.0, 0.5)
    keen = candidate(dear, 1.0, 1.0, 0.0, 0.9)
    nearly = candidate(small, 1.0, 1.0, 0.0, 0.8995)
    ranking = auto._ranked([blind, keen, nearly])
    assert [one for _, one in ranking] == [keen, nearly, blind]
    assert ranking[0][0] == pytest.approx(0.9, abs=0.01)  # only the last defect counts
    assert auto._chosen(ranking)[1] is nearly


def test_the_simpler_candidate_wins_unless_it_is_noticeably_worse(good):
    geometry = next(iter(auto._geometries(good, config(preprocessing={"alignment": "none"}), print)))
    scoring = config().scoring
    by_place = scoring.model_copy(update={"normalise": "location"})
    rng = np.random.default_rng(0)
    found = rng.uniform(0.5, 0.9, 200)

    def candidate(model, scoring, change):
        return auto.Candidate(geometry, model, "local", scoring, found + change)

    best = candidate("gaussian", by_place, 0.0)
    wobbles = candidate("memory", scoring, rng.normal(-0.002, 0.1, 200))
    always_a_bit_worse = candidate("memory", scoring, -0.03)
    plain = candidate("gaussian", scoring, rng.normal(-0.001, 0.1, 200))
    worse = rng.uniform(0, 0.3, 200)
    blind = candidate("memory", scoring, -worse)
    assert auto._chosen(auto._ranked([best, always_a_bit_worse, blind]))[1] is best
    assert auto._chosen(auto._ranked([best, plain, always_a_bit_worse, blind]))[1] is plain
    assert auto._chosen(auto._ranked([best, plain, wobbles, blind]))[1] is wobbles


def test_a_worth_is_the_share_of_good_pictures_below(good):
    found = auto._found(np.array([1.0, 2.0, 3.0, np.inf]), np.array([2.5, 2.0, 0.0, 9.0, np.inf]))
    np.testing.assert_allclose(found, [2 / 4, 1.5 / 4, 0, 3 / 4, 3.5 / 4])


def test_a_detector_fitted_by_auto_remembers_what_was_asked_and_chosen(tmp_path):
    rng = np.random.default_rng(4)
    for index in range(24):
        write_png(tmp_path / "good" / f"{index:02}.png", fixed_scene(rng))
    asked = config(preprocessing={"alignment": "none"}, calibration={"false_reject_rate": 0.1})
    fitted = Spotter.fit(tmp_path / "good", config=asked)
    record = fitted.provenance["auto"]
    assert fitted.provenance["asked"]["model"]["name"] == "auto"
    assert fitted.config.model.name == fitted.provenance["model"] == record["chosen"]["model"]
    assert fitted.config.preprocessing.long_side == record["chosen"]["long_side"]
    assert fitted.calibration.promise.is_kept
    broken = fixed_scene(rng)
    broken[30:36, 40:60] = 20
    found = fitted.inspect(broken)
    assert found.score > fitted.calibration.threshold
    again = Spotter.load(fitted.save(tmp_path / "auto.spot"))
    assert again.config == fitted.config
    assert math.isclose(again.inspect(broken).score, found.score, rel_tol=1e-6)
    assert again.provenance["auto"] == json.loads(json.dumps(record))
