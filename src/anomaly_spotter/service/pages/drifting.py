"""Whether a model's calibration still holds, in plain words, and the offer to recalibrate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomaly_spotter.service.jobs import FEWEST_REVIEWED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly_spotter.scoring.drift import DriftReport, Finding
    from anomaly_spotter.service.pages.words import Words
    from anomaly_spotter.service.station import Station

CHANGE_WORDS = {
    (
        "brightness",
        "higher",
    ): "The pictures are brighter than those of the training: {recent} instead of {usual} grey levels.",
    (
        "brightness",
        "lower",
    ): "The pictures are darker than those of the training: {recent} instead of {usual} grey levels.",
    (
        "contrast",
        "higher",
    ): "The pictures are richer in contrast than those of the training: {recent} instead of {usual} grey levels.",
    (
        "contrast",
        "lower",
    ): "The pictures are paler than those of the training: {recent} instead of {usual} grey levels.",
    (
        "sharpness",
        "higher",
    ): "The pictures are sharper or noisier than those of the training: {recent} instead of {usual}.",
    (
        "sharpness",
        "lower",
    ): "The pictures are more blurred than those of the training: {recent} instead of {usual}.",
    ("angle", "higher"): "The parts lie turned clockwise: {recent} instead of {usual} degrees.",
    ("angle", "lower"): "The parts lie turned counter-clockwise: {recent} instead of {usual} degrees.",
    ("x", "higher"): "The parts lie further to the right: {recent} instead of {usual} pixels.",
    ("x", "lower"): "The parts lie further to the left: {recent} instead of {usual} pixels.",
    ("y", "higher"): "The parts lie further down: {recent} instead of {usual} pixels.",
    ("y", "lower"): "The parts lie further up: {recent} instead of {usual} pixels.",
    (
        "scores",
        "higher",
    ): "Parts look stranger than at calibration: median score {recent} instead of {usual}.",
    (
        "scores",
        "lower",
    ): "Parts look more normal than at calibration: median score {recent} instead of {usual}.",
    (
        "rejects",
        "higher",
    ): "{recent} of the last {window} parts were rejected; about {usual} were to be expected.",
    ("fit", "higher"): "The outline of the parts fits better than at training: {recent} instead of {usual}.",
    ("fit", "lower"): "The outline of the parts fits worse than at training: {recent} instead of {usual}.",
}
NAME_WORDS = {
    "brightness": "Brightness",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "angle": "Angle",
    "x": "Horizontal position",
    "y": "Vertical position",
    "fit": "Fit of the outline",
}
CAUSE_WORDS = {
    "brightness": "Check lamp, exposure and stray light.",
    "contrast": "Check lamp, exposure and stray light.",
    "sharpness": "Check focus, dirt on the lens, vibration and exposure time.",
    "angle": "Check fixture, feed and camera mount.",
    "x": "Check fixture, feed and camera mount.",
    "y": "Check fixture, feed and camera mount.",
    "fit": "Check the focus, and whether this is still the same part.",
}


@dataclass(frozen=True, slots=True)
class ShownDrift:
    """What page Monitor says about the calibration.

    Attributes:
        state: ``ok``, ``alarm``, ``notice`` (changed, but the promise still holds) or ``unknown``.
        title: In a few words.
        sentences: What was found and what to do.
        offer: What recalibration would do; empty where nothing has changed.
        can_recalibrate: Whether there are enough reviewed good parts.
        conditions: Light, focus and pose against the training pictures.
    """

    state: str
    title: str
    sentences: Sequence[str]
    offer: str
    can_recalibrate: bool
    conditions: Sequence[dict[str, Any]]


def shown_drift(station: Station, model: str, product: str | None, words: Words) -> ShownDrift:
    """The newest report on a model's drift, in the words of a language."""
    report = station.drift.report(model, product)
    state, title = _title(report, words)
    sentences = [*_findings(report, words), *_advice(report, words)]
    offer, enough = "", False
    if report.status == "changed":
        found = len(station.jobs.reviewed_good(model, product))
        enough = found >= FEWEST_REVIEWED
        offer = _offer(found, words)
    return ShownDrift(state, title, sentences, offer, enough, _conditions(report, words))


def _title(report: DriftReport, words: Words) -> tuple[str, str]:
    if report.status == "steady":
        return "ok", words("The calibration holds")
    if report.status == "too few":
        return "unknown", words("Too few parts yet to say whether the calibration holds")
    if report.promise_holds:
        return "notice", words("Something has changed")
    return "alarm", words("The calibration no longer holds")


def _findings(report: DriftReport, words: Words) -> list[str]:
    if report.status == "too few":
        from anomaly_spotter.scoring.drift import FEWEST

        return [words("{count} of {fewest} parts inspected.", count=report.count, fewest=FEWEST)]
    if report.status == "steady":
        if not any(each.name in NAME_WORDS for each in report.findings):
            return [
                words("The last {window} parts look like those of the calibration.", window=report.window)
            ]
        return [
            words(
                "The last {window} parts look like those of the calibration, and the pictures like those of the training.",
                window=report.window,
            )
        ]
    found = [_finding(each, report.window, words) for each in report.findings if each.is_change]
    if report.evidence.alarm is not None:
        rising = report.evidence.direction > 0
        found.append(
            words("Part by part, scores keep rising.")
            if rising
            else words("Part by part, scores keep falling.")
        )
    sure = words(
        "If nothing had changed, an alarm like this would come in at most {rate} of such comparisons.",
        rate=words.percent(report.settings.false_alarm_rate),
    )
    return [*found, sure]


def _finding(finding: Finding, window: int, words: Words) -> str:
    is_count = finding.name == "rejects"
    values = {
        "recent": words.number(finding.recent) if is_count else _value(finding.recent, words),
        "usual": _value(finding.usual, words),
        "window": window,
    }
    if finding.direction == "spread":
        return words("{name} varies otherwise than at training.", name=words(NAME_WORDS[finding.name]))
    return words(CHANGE_WORDS[finding.name, finding.direction], **values)


def _advice(report: DriftReport, words: Words) -> list[str]:
    if report.status != "changed":
        return []
    changed = [finding.name for finding in report.findings if finding.is_change]
    causes = dict.fromkeys(CAUSE_WORDS[name] for name in changed if name in CAUSE_WORDS)
    advice = [words(cause) for cause in causes]
    if not report.promise_holds:
        advice.append(
            words(
                "More good parts may be rejected now than was promised. Review the rejected parts: if they are defects, "
                "production has changed and the detector is right; if they are good, recalibrate."
            )
        )
    return advice


def _offer(found: int, words: Words) -> str:
    if found < FEWEST_REVIEWED:
        return words(
            "Recalibration needs {needed} good parts that a person has confirmed; {found} are there. Confirm more in the "
            "history.",
            needed=FEWEST_REVIEWED,
            found=found,
        )
    return words(
        "Sets the limit anew from {found} good parts that a person has confirmed. This becomes a new version of the "
        "model; the old one is kept.",
        found=found,
    )


def _conditions(report: DriftReport, words: Words) -> list[dict[str, Any]]:
    return [
        {
            "name": words(NAME_WORDS[finding.name]),
            "training": _value(finding.usual, words),
            "now": _value(finding.recent, words),
            "is_off": finding.is_change,
        }
        for finding in sorted(
            report.findings,
            key=lambda each: list(NAME_WORDS).index(each.name) if each.name in NAME_WORDS else 99,
        )
        if finding.name in NAME_WORDS
    ]


def _value(value: float, words: Words) -> str:
    """Three significant digits."""
    size = abs(value)
    return words.number(value, 0 if size >= 100 else 1 if size >= 10 else 2)
