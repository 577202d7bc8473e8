"""The drift watch: what it promises about false alarms, what it finds, what it says, and that its state survives."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from anomaly_spotter.config import CalibrationConfig, ScoringConfig
from anomaly_spotter.errors import ConfigError, SpotterError
from anomaly_spotter.inputs.condition import Condition
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.drift import FEWEST, DriftSettings, DriftWatch

NONE = np.zeros((0, 7), np.float32)


def calibrated(scores: np.ndarray, rate: float = 0.05, refused: int = 0) -> Calibration:
    maps = (np.full((4, 4), score, np.float32) for score in scores)
    return Calibration.fit(maps, ScoringConfig(), CalibrationConfig(false_reject_rate=rate), refused)


def rows(rng: np.random.Generator, count: int, **moved: float) -> np.ndarray:
    """Conditions of an aligned part that lies about 180 degrees turned, ``float32 [N, 7]``."""
    usual = {"brightness": (120, 3), "contrast": (40, 2), "sharpness": (0.3, 0.02), "angle": (180, 4)}
    usual |= {"x": (0, 5), "y": (0, 5), "fit": (0.9, 0.02)}
    columns = [rng.normal(mean + moved.get(name, 0), scale, count) for name, (mean, scale) in usual.items()]
    columns[3] = (columns[3] + 180) % 360 - 180
    return np.stack(columns, axis=1).astype(np.float32)


def watched(calibration, conditions, scores, recent=None, **settings) -> DriftWatch:
    watch = DriftWatch(calibration, conditions, DriftSettings(**settings))
    taken = [None] * len(scores) if recent is None else [Condition.from_row(row) for row in recent]
    for number, (score, own) in enumerate(zip(scores, taken, strict=True)):
        watch.add(float(score), own, f"at {number}")
    return watch


def raw(calibration: Calibration, scores: np.ndarray) -> np.ndarray:
    """Raw scores on the calibrated scale."""
    return (np.asarray(scores, np.float32).astype(float) - calibration.centre) / calibration.scale


def test_false_alarms_of_a_window_stay_below_the_stated_rate():
    """All ten tests together, on exchangeable scores and conditions, few and with ties."""
    rate, runs = 0.1, 150
    alarms = 0
    for run in range(runs):
        rng = np.random.default_rng([3, run])
        calibration = calibrated(np.round(rng.gamma(2, 1, 40), 1 + run % 2), rate=0.1)
        watch = watched(
            calibration,
            rows(rng, 40),
            raw(calibration, np.round(rng.gamma(2, 1, 30), 1 + run % 2)),
            rows(rng, 30),
            window=30,
            false_alarm_rate=rate,
            odd=0.0,
        )
        alarms += any(finding.is_change for finding in watch.report().findings)
    assert alarms / runs <= rate + 3 * np.sqrt(rate * (1 - rate) / runs)


def test_steady_parts_are_called_steady():
    rng = np.random.default_rng(0)
    calibration = calibrated(rng.gamma(2, 1, 100))
    report = watched(
        calibration, rows(rng, 100), raw(calibration, rng.gamma(2, 1, 200)), rows(rng, 200)
    ).report()
    assert report.status == "steady"
    assert report.promise_holds
    assert report.count == report.window == 200
    assert report.since == "at 0"
    assert len(report.findings) == 10
    assert report.sentences[0].startswith(
        "The last 200 parts (from at 0 on) look like those of the calibration. "
    )
    assert (
        "at most 1 % of such windows give a false alarm, even if up to 10 of the parts are"
        in report.sentences[0]
    )
    assert len(report.sentences) == 1
    assert report.advice == ("Nothing to do: the calibration holds as far as can be told.",)
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_few_defects_are_no_drift_but_many_rejects_are():
    rng = np.random.default_rng(1)
    calibration = calibrated(rng.gamma(2, 1, 100))
    good = raw(calibration, rng.gamma(2, 1, 200))
    few, many = good.copy(), good.copy()
    few[rng.choice(200, 10, replace=False)] = math.inf
    many[rng.choice(200, 50, replace=False)] = 9.0
    assert watched(calibration, NONE, few).report().status == "steady"
    report = watched(calibration, NONE, many).report()
    assert report.status == "changed"
    assert not report.promise_holds
    worst = next(finding for finding in report.findings if finding.name == "rejects")
    assert worst.is_change
    assert worst.recent >= 50
    assert worst.usual == pytest.approx(200 * 5 / 101)
    assert f"{worst.recent:.0f} of 200 parts are rejected where about 9.9 are to be expected" in worst.words
    assert any("Review the rejected ones" in line for line in report.advice)


def test_a_slow_rise_that_only_the_sequence_saw_breaks_the_promise_too():
    rng = np.random.default_rng(5)
    calibration = calibrated(rng.gamma(2, 1, 300))
    risen, back = 1.4 * rng.gamma(2, 1, 100), rng.gamma(2, 1, 60)
    report = watched(calibration, NONE, raw(calibration, np.concatenate([risen, back])), window=50).report()
    assert not any(finding.is_change for finding in report.findings)
    assert report.evidence.alarm is not None
    assert report.evidence.direction == 1
    assert report.status == "changed"
    assert not report.promise_holds


@pytest.mark.parametrize(("factor", "direction"), [(1.8, "higher"), (0.55, "lower")])
def test_shifted_scores_are_found_at_once_and_part_by_part(factor, direction):
    rng = np.random.default_rng(2)
    calibration = calibrated(rng.gamma(4, 1, 100))
    scores = np.concatenate([rng.gamma(4, 1, 150), factor * rng.gamma(4, 1, 150)])
    report = watched(calibration, NONE, raw(calibration, scores), window=100).report()
    assert report.status == "changed"
    assert report.promise_holds == (direction == "lower")
    top = report.findings[0]
    assert (top.name, top.direction, top.is_change) == ("scores", direction, True)
    assert top.chance < 0.001
    assert (top.recent > top.usual) == (direction == "higher")
    assert report.since == "at 200"
    assert report.evidence.direction == (1 if direction == "higher" else -1)
    assert 140 <= report.evidence.began < report.evidence.alarm <= 300
    assert report.began_at == f"at {report.evidence.began}"
    assert report.alarm_at == f"at {report.evidence.alarm - 1}"
    said = " ".join(report.sentences)
    assert ("look stranger" in said) == (direction == "higher")
    assert "scores are rising" in said or "scores are falling" in said
    assert f"grew from part {report.evidence.began + 1} ({report.began_at}) on" in said


@pytest.mark.parametrize(
    ("name", "by", "direction", "words", "cause"),
    [
        ("brightness", -8, "lower", "The pictures are darker: brightness 11", "lamp"),
        ("contrast", -6, "lower", "paler", "lamp"),
        ("sharpness", -0.06, "lower", "more blurred", "focus"),
        ("angle", 9, "higher", "turned clockwise: angle -171 instead of -180", "fixture"),
        ("x", -14, "lower", "further to the left", "fixture"),
        ("y", 14, "higher", "further down", "fixture"),
        ("fit", -0.06, "lower", "further from the mean good part", "still the same part"),
    ],
)
def test_a_changed_condition_is_named_with_what_to_look_after(name, by, direction, words, cause):
    rng = np.random.default_rng(4)
    calibration = calibrated(rng.gamma(2, 1, 100))
    scores = raw(calibration, rng.gamma(2, 1, 60))
    report = watched(calibration, rows(rng, 80), scores, rows(rng, 60, **{name: by})).report()
    changes = [finding for finding in report.findings if finding.is_change]
    assert [(change.name, change.direction) for change in changes] == [(name, direction)]
    assert report.status == "changed"
    assert report.promise_holds
    assert words in report.sentences[1]
    assert cause in report.advice[0]
    assert "Scores have not changed so far" in report.advice[1]


def test_scatter_alone_is_seen():
    rng = np.random.default_rng(5)
    calibration = calibrated(rng.gamma(2, 1, 100))
    recent = rows(rng, 150)
    recent[:, 4] *= 4
    report = watched(calibration, rows(rng, 150), raw(calibration, rng.gamma(2, 1, 150)), recent).report()
    assert [(f.name, f.direction) for f in report.findings if f.is_change] == [("x", "spread")]
    assert "scattered otherwise" in report.sentences[1]


def test_equal_conditions_are_equal_whatever_their_rounding():
    taken = Condition(121.3, 40.1, 0.3)
    rng = np.random.default_rng(6)
    calibration = calibrated(rng.gamma(2, 1, 60))
    reference = np.tile(taken.row().astype(np.float32), (60, 1))
    watch = DriftWatch(calibration, reference)
    for score in raw(calibration, rng.gamma(2, 1, 60)):
        watch.add(score, taken)
    chances = {finding.name: finding.chance for finding in watch.report().findings}
    assert {name: chances[name] for name in ("brightness", "contrast", "sharpness")} == {
        "brightness": 1.0,
        "contrast": 1.0,
        "sharpness": 1.0,
    }
    assert "angle" not in chances


def test_too_few_parts_and_older_files_are_said():
    rng = np.random.default_rng(7)
    calibration = calibrated(rng.gamma(2, 1, 60))
    few = watched(calibration, NONE, raw(calibration, rng.gamma(2, 1, FEWEST - 1))).report()
    assert few.status == "too few"
    assert few.findings == ()
    assert few.sentences == (
        "19 parts so far; 20 are needed before they can be compared with the calibration.",
    )
    enough = watched(calibration, NONE, raw(calibration, rng.gamma(2, 1, FEWEST))).report()
    assert "This model file is older" in enough.sentences[-1]
    nothing = DriftWatch(calibration, NONE).report()
    assert (nothing.status, nothing.count, nothing.since) == ("too few", 0, None)


def test_as_many_as_are_needed_are_compared():
    rng = np.random.default_rng(11)
    calibration = calibrated(rng.gamma(2, 1, 60))
    for known, recent, compared in ((FEWEST, FEWEST, 7), (FEWEST - 1, FEWEST, 0), (FEWEST, FEWEST - 1, 0)):
        conditions = [Condition.from_row(row) for row in rows(rng, recent)]
        watch = DriftWatch(calibration, rows(rng, known), DriftSettings(window=FEWEST))
        for number in range(FEWEST):
            taken = conditions[number] if number < recent else None
            watch.add(float(rng.uniform(0, 1)), taken, f"at {number}")
        report = watch.report()
        assert report.count == FEWEST
        assert len(report.findings) == 3 + compared
        stored = json.loads(json.dumps(watch.to_dict(), allow_nan=False))
        again = DriftWatch.from_dict(stored, calibration, watch._conditions)
        assert again.report() == report  # parts of which no condition is known are kept as such


def test_parts_at_the_limit_are_no_rejects_and_the_usual_is_one_of_the_values():
    calibration = calibrated(np.arange(1.0, 61.0))
    at_limit = watched(calibration, NONE, [1.0] * 30, window=30, odd=0.0).report()
    (rejects,) = [finding for finding in at_limit.findings if finding.name == "rejects"]
    assert (rejects.recent, rejects.chance) == (0.0, 1.0)
    above = watched(calibration, NONE, [np.nextafter(1, 2)] * 30, window=30, odd=0.0).report()
    (rejects,) = [finding for finding in above.findings if finding.name == "rejects"]
    assert rejects.recent == 30
    scores = [finding for finding in at_limit.findings if finding.name == "scores"]
    assert {finding.usual for finding in scores} == {np.sort(calibration.scores)[29]}


def test_good_parts_that_could_not_be_judged_count_on_both_sides():
    rng = np.random.default_rng(8)
    calibration = calibrated(rng.gamma(2, 1, 90), rate=0.2, refused=10)
    usual = np.append(raw(calibration, rng.gamma(2, 1, 90)), [math.inf] * 10)
    assert watched(calibration, NONE, usual, odd=0.0).report().status == "steady"
    none_found = watched(calibration, NONE, [math.inf] * 40).report()
    assert none_found.status == "changed"
    assert none_found.to_dict()["findings"][0]["recent"] is None or none_found.findings[0].recent == 40


def test_the_state_survives_storage_and_belongs_to_its_calibration():
    rng = np.random.default_rng(9)
    calibration, conditions = calibrated(rng.gamma(2, 1, 60)), rows(rng, 60)
    scores = [*raw(calibration, rng.gamma(2, 1, 50)), math.inf, *raw(calibration, 3 * rng.gamma(2, 1, 60))]
    recent = rows(rng, len(scores))
    whole = watched(calibration, conditions, scores, recent, window=40)
    part = watched(calibration, conditions, scores[:60], recent[:60], window=40)
    stored = json.loads(json.dumps(part.to_dict(), allow_nan=False))
    again = DriftWatch.from_dict(stored, Calibration.from_dict(calibration.to_dict()), conditions)
    for number in range(60, len(scores)):
        again.add(scores[number], Condition.from_row(recent[number]), f"at {number}")
    assert again.report() == whole.report()
    assert again.to_dict() == whole.to_dict()
    other = calibrated(rng.gamma(2, 1, 60))
    with pytest.raises(SpotterError, match="another calibration"):
        DriftWatch.from_dict(stored, other, conditions)
    for damage in ({"window": [[1.0]]}, {"martingale": {}}, {"settings": {"windows": 3}}, {"window": 7}):
        with pytest.raises(SpotterError, match="damaged"):
            DriftWatch.from_dict({**stored, **damage}, calibration, conditions)


@pytest.mark.parametrize(
    "wrong",
    [{"window": 19}, {"false_alarm_rate": 0.0}, {"false_alarm_rate": 0.2}, {"odd": 0.5}, {"odd": -0.1}],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ConfigError, match="drift needs"):
        DriftSettings(**wrong)


def test_the_public_api_on_pictures(spotter, data_root):
    from tests.conftest import draw_part

    rng = np.random.default_rng(10)
    good = [draw_part(rng)[0] for _ in range(30)]
    report = spotter.drift(good)
    assert report.status == "steady"
    assert [finding for finding in report.findings if finding.name == "brightness"]
    darker = spotter.drift([np.maximum(picture, 40) - 40 for picture in good])
    assert darker.status == "changed"
    assert any(line.startswith("The pictures are darker") for line in darker.sentences)
    watch = spotter.drift_watch(DriftSettings(window=25))
    for found in spotter.inspect(good):
        watch.add_inspection(found)
    assert watch.report().window == 25
    named = spotter.drift(sorted((data_root / "disc/test/good").iterdir()) * 4)
    assert named.since.endswith("000.png")
    assert dataclasses.asdict(named)["settings"]["window"] == 200
