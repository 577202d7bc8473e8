"""What the drift watch says, in plain words: what has changed, since when, how sure that is, and what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomaly_spotter.scoring.martingale import Evidence

NO_CONDITIONS = (
    "This model file is older and does not tell how its good pictures were taken: light, sharpness and pose were not "
    "compared. Extend, recalibrate or train it again, and they will be."
)

_NOUNS = {
    "brightness": ("brightness", "brighter", "darker", "grey levels"),
    "contrast": ("contrast", "richer in contrast", "paler", "grey levels"),
    "sharpness": ("sharpness", "sharper or noisier", "more blurred", ""),
    "angle": ("angle", "turned clockwise", "turned counter-clockwise", "degrees"),
    "x": ("horizontal position", "further to the right", "further to the left", "pixels"),
    "y": ("vertical position", "further down", "further up", "pixels"),
    "fit": ("fit of the outline", "closer to the mean good part", "further from the mean good part", ""),
}
_CAUSES = {
    "brightness": "lamp, exposure and stray light",
    "contrast": "lamp, exposure and stray light",
    "sharpness": "focus, dirt on the lens, vibration and exposure time",
    "angle": "fixture, feed and camera mount",
    "x": "fixture, feed and camera mount",
    "y": "fixture, feed and camera mount",
    "fit": "focus, and whether this is still the same part",
}


def window(status: str, count: int, since: str | None, rate: float, odd: int, fewest: int) -> str:
    """What was compared, and how sure that is."""
    if count < fewest:
        return (
            f"{_parts(count)} so far; {fewest} are needed before they can be compared with the calibration."
        )
    start = "" if since is None else f" (from {since} on)"
    result = {
        "steady": "look like those of the calibration",
        "changed": "were compared with the calibration",
    }[status]
    return (
        f"The last {_parts(count)}{start} {result}. If nothing changes, at most {_percent(rate)} of such windows give "
        f"a false alarm, even if up to {odd} of the parts are defects."
    )


def finding(name: str, direction: str, usual: float, recent: float, chance: float, count: int) -> str:
    """One test of a window in a sentence."""
    sure = f"if nothing had changed, this would be seen {_seldom(chance)}"
    if name == "rejects":
        return f"{recent:.0f} of {count} parts are rejected where about {_rounded(usual)} are to be expected; {sure}."
    if name == "scores":
        what = {"higher": "look stranger", "lower": "look more normal"}[direction]
        return f"Parts {what} to the detector than at calibration: median score {recent:.3g} instead of {usual:.3g}; {sure}."
    noun, more, less, unit = _NOUNS[name]
    values = f"{recent:.3g} instead of {usual:.3g}{f' {unit}' if unit else ''} (medians)"
    if direction == "spread":
        return (
            f"The {noun} of the pictures is scattered otherwise than that of the good ones: {values}; {sure}."
        )
    return f"The pictures are {more if direction == 'higher' else less}: {noun} {values}; {sure}."


def alarm(evidence: Evidence, at: str | None, began: str | None, rate: float) -> str:
    """The martingale's alarm in a sentence."""
    trend = "rising" if evidence.direction > 0 else "falling"
    return (
        f"Part by part, scores are {trend}: the alarm went off at {_part(evidence.alarm or 0, at)}, and the evidence "
        f"grew from {_part(evidence.began + 1, began)} on. The chance that this test ever gives a false alarm is at most "
        f"{_percent(rate)}."
    )


def advice(status: str, changes: Mapping[str, str], direction: int, fewest: int) -> tuple[str, ...]:
    """What to do.

    Args:
        status: Of the report.
        changes: Direction by name of what has changed in the window.
        direction: Of the martingale's alarm, 0 without one.
        fewest: Parts that are needed.
    """
    if status == "too few":
        return (f"Inspect at least {fewest} parts.",)
    if status == "steady":
        return ("Nothing to do: the calibration holds as far as can be told.",)
    causes = list(dict.fromkeys(_CAUSES[name] for name in changes if name in _CAUSES))
    lines = []
    if causes:
        lines.append(f"First check {'; '.join(causes)}. Set right what has changed, and inspect anew.")
    scores = changes.get("scores")
    if "rejects" in changes or scores == "higher" or direction > 0:
        lines.append(
            "The promised false reject rate no longer holds for parts like these. Review the rejected ones. If they are "
            "defects, production has changed and the detector is right. If they are good, recalibrate from good parts "
            "of now that a person has reviewed (recalibrate --good FOLDER), or teach them to the detector (extend --good "
            "FOLDER)."
        )
    if scores == "lower" or direction < 0:
        lines.append(
            "If the detector has learned from these very pictures, that is why. Otherwise send a known defect through: "
            "a detector that sees less, out of focus for example, finds less. Then recalibrate from reviewed good parts."
        )
    if not any(name in changes for name in ("scores", "rejects")) and direction == 0:
        lines.append(
            "Scores have not changed so far, but the promise was made for pictures like those of the calibration. If the "
            "new state is meant to stay, recalibrate from reviewed good parts."
        )
    return tuple(lines)


def _parts(count: int) -> str:
    return f"{count} part{'' if count == 1 else 's'}"


def _part(number: int, label: str | None) -> str:
    return f"part {number}" if label is None else f"part {number} ({label})"


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _rounded(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _seldom(chance: float) -> str:
    if chance < 1e-6:
        return "less than once in a million windows"
    if chance > 0.5:
        return "in most windows"
    return f"in at most 1 of {math.floor(1 / chance):,} windows"
