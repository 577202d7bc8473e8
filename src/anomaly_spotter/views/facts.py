"""Evaluation JSON to the sentences and table rows of the report. What is missing is told as a dash, never guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from anomaly_spotter.scoring.inspection import Verdict
from anomaly_spotter.views.lettering import clean
from anomaly_spotter.views.wording import (
    DASH,
    as_number,
    duration,
    likely_range,
    number,
    percent,
    plural,
    whole,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anomaly_spotter.evaluation import PictureResult

BASELINE_ALARM = 0.8  # a trivial baseline this good means that the test set has a shortcut
BASELINE_MARGIN = 0.02  # closer to the model than this is no lead

GLOSSARY = (
    ("Image score", "How strange a picture is to the detector. 0 is a typical good part; 1 is the decision limit set at calibration. It has no upper end."),
    ("Decision limit", "A part whose score is above it is called DEFECT. It is set with held-out good pictures alone; no defect and no test label is used."),
    ("Calibration", "Good pictures that the detector did not learn from. Their scores show how high good parts score by chance, and so where the limit belongs."),
    ("p-value", "How often a good part scores at least this high. 0.01 means one good part in a hundred."),
    ("False reject rate", "Share of good parts that are called DEFECT."),
    ("Recall", "Share of defective parts that are called DEFECT: the defects found."),
    ("Precision", "Share of true defects among everything called DEFECT. It depends on how many defective parts the test set holds, and is lower on a line where defects are rare."),
    ("F1", "One number for recall and precision together (their harmonic mean)."),
    ("F1_max", "The best F1 that any limit could have reached, found by looking at the test labels. An upper bound, not a result."),
    ("AUROC", "Chance that a defective part scores higher than a good one, both drawn at random. 0.5 is guessing, 1 is perfect. It needs no limit."),
    ("Average precision", "Precision averaged over all recalls. Like AUROC it needs no limit; it is stricter where one class is rare."),
    ("AUPRO", "How completely defect areas are covered, each area counting the same whatever its size, averaged over false alarm rates up to 30 % (or 5 %) of the good pixels."),
    ("Trivial baseline", "A number any script can read off a picture, such as its mean brightness. If it tells good from defective, the test pictures give the answer away and the test proves little."),
)  # fmt: skip

_BASELINES = {
    "mean_grey": "Mean grey level",
    "file_size": "File size",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
}


class Row(NamedTuple):
    """One measure: its name, what it means, its value at the calibrated limit, and the best with hindsight."""

    name: str
    meaning: str
    value: str
    hindsight: str = ""


class Baseline(NamedTuple):
    """One bar of the baseline table; ``strength`` in [0.5, 1] is the AUROC in its better direction."""

    name: str
    auroc: float
    strength: float
    alarm: bool
    is_model: bool = False


class Kind(NamedTuple):
    """One kind of defect; ``recall`` in [0, 1] or ``None``, the rest as shown."""

    name: str
    recall: float | None
    found: str
    share: str
    auroc: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts of right and wrong decisions; rates come from the summary where there are no pictures to count."""

    defects: int
    found: int
    good: int
    rejected: int
    recall: float | None
    false_reject_rate: float | None

    @classmethod
    def of(cls, pictures: Sequence[PictureResult], image: Mapping[str, Any]) -> Outcome:
        """Count the decisions about ``pictures``."""
        called = [(row.is_defect, row.verdict is Verdict.DEFECT) for row in pictures]
        defects, good = sum(truth for truth, _ in called), sum(not truth for truth, _ in called)
        found, rejected = called.count((True, True)), called.count((False, True))
        recall = found / defects if defects else as_number(image.get("recall"))
        rate = rejected / good if good else as_number(image.get("false_reject_rate"))
        return cls(defects, found, good, rejected, recall, rate)

    def headline(self) -> str:
        """The result in one or two sentences."""
        if self.defects and self.good:
            return (
                f"Found {whole(self.found)} of {plural(self.defects, 'defective part')} "
                f"and rejected {whole(self.rejected)} of {plural(self.good, 'good part')}."
            )
        if self.defects:
            return f"Found {whole(self.found)} of {plural(self.defects, 'defective part')}. No good parts were tested."
        if self.good:
            return f"Rejected {whole(self.rejected)} of {plural(self.good, 'good part')}. No defective parts were tested."
        if self.recall is None and self.false_reject_rate is None:
            return "Nothing was measured: there are no test pictures."
        return f"Found {percent(self.recall)} of the defects and rejected {percent(self.false_reject_rate)} of the good parts."

    def certainty(self) -> str:
        """What so many test pictures can and cannot show; empty without any."""
        parts = []
        if span := likely_range(self.found, self.defects):
            parts.append(
                f"the true share of defects found lies between {percent(span[0])} and {percent(span[1])}"
            )
        if span := likely_range(self.rejected, self.good):
            parts.append(
                f"the true share of good parts rejected between {percent(span[0])} and {percent(span[1])}"
            )
        return f"With this many test parts, {' and '.join(parts)} (95\u00a0% confidence)." if parts else ""

    def observed_false_rejects(self) -> str:
        """The test's own word on the promise; empty without good test parts."""
        if not self.good:
            return ""
        return f"In this test: {whole(self.rejected)} of {plural(self.good, 'good part')} rejected ({percent(self.rejected / self.good)})."


def section(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the summary, empty where it is missing or ``None``."""
    found = summary.get(name)
    return found if isinstance(found, Mapping) else {}


def key_figures(summary: Mapping[str, Any], outcome: Outcome) -> list[tuple[str, str, str]]:
    """The figures at the top: label, value, note."""
    image, pixel, timing = section(summary, "image"), section(summary, "pixel"), section(summary, "timing")
    speed, timed = as_number(timing.get("ms_per_picture")), as_number(timing.get("pictures"))
    found = f"{outcome.found} of {outcome.defects}" if outcome.defects else "recall"
    rejected = f"{outcome.rejected} of {outcome.good}" if outcome.good else "false reject rate"
    place = "no masks in the test set" if image and not pixel else "AUPRO, 1 is perfect"
    return [
        ("Defects found", percent(outcome.recall), found),
        ("Good parts rejected", percent(outcome.false_reject_rate), rejected),
        ("Ranking of parts", number(image.get("auroc")), "image AUROC, 1 is perfect"),
        ("Finding the place", number(pixel.get("aupro")), place),
        (
            "Time per picture",
            DASH if speed is None else f"{speed:.3g}\u00a0ms",
            f"measured on {whole(timed)} pictures" if timed else "",
        ),
    ]


def metric_groups(summary: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """The table of measures, by group."""
    image, pixel = section(summary, "image"), section(summary, "pixel")
    groups = [
        ("Decisions about parts", [
            Row("Recall", "defective parts that were found", percent(image.get("recall"))),
            Row("Precision", "rejected parts that are defective", percent(image.get("precision"))),
            Row("F1", "recall and precision in one number", number(image.get("f1")), number(image.get("f1_max"))),
            Row("False reject rate", "good parts that were rejected", percent(image.get("false_reject_rate"))),
            Row("Decision limit", "scores above it are called DEFECT", number(image.get("threshold")), number(image.get("f1_max_threshold"))),
        ]),
        ("Ranking of parts, without any limit", [
            Row("AUROC", "chance that a defect scores above a good part", number(image.get("auroc"))),
            Row("Average precision", "precision over all recalls", number(image.get("average_precision"))),
        ]),
    ]  # fmt: skip
    if pixel:
        groups.append(("Finding the place, in pixels", [
            Row("Recall", "defect pixels that were drawn", percent(pixel.get("recall"))),
            Row("Precision", "drawn pixels that are defective", percent(pixel.get("precision"))),
            Row("F1", "recall and precision in one number", number(pixel.get("f1")), number(pixel.get("f1_max"))),
            Row("AUROC", "ranking of pixels, without any limit", number(pixel.get("auroc"))),
            Row("AUPRO", "coverage of defect areas, up to 30\u00a0% false alarms", number(pixel.get("aupro"))),
            Row("AUPRO 5\u00a0%", "the same, up to 5\u00a0% false alarms", number(pixel.get("aupro_05"))),
        ]))  # fmt: skip
    return groups


def baselines(summary: Mapping[str, Any]) -> list[Baseline]:
    """The model and the trivial baselines, model first; empty where nothing was measured."""
    image = section(summary, "image")
    model = as_number(image.get("auroc"))
    rows = []
    for key, value in section(image, "baselines").items():
        if (auroc := as_number(value)) is not None:
            strength = max(auroc, 1 - auroc)
            close = model is not None and strength >= model - BASELINE_MARGIN
            rows.append(Baseline(_baseline_name(key), auroc, strength, strength >= BASELINE_ALARM or close))
    rows.sort(key=lambda row: (-row.strength, row.name))
    return (
        [Baseline("This detector", model, max(model, 0.5), False, True), *rows] if model is not None else rows
    )


def baseline_warnings(summary: Mapping[str, Any]) -> list[str]:
    """Plain words for every trivial baseline that does too well."""
    model = as_number(section(summary, "image").get("auroc"))
    sentences = []
    for row in baselines(summary):
        if not row.alarm:
            continue
        sentence = f"{row.name} alone separates good from defective test pictures with an AUROC of {row.strength:.3f}"
        if model is not None and row.strength >= model:
            sentence += f", no worse than the detector ({model:.3f})"
        elif model is not None and row.strength >= model - BASELINE_MARGIN:
            sentence += f", almost as well as the detector ({model:.3f})"
        sentences.append(
            f"{sentence}. The test pictures give part of the answer away; read the figures with care."
        )
    return sentences


def kinds(summary: Mapping[str, Any]) -> list[Kind]:
    """One row per kind of defect, the least found first."""
    rows = []
    for name, values in section(summary, "per_kind").items():
        if isinstance(values, Mapping):
            recall, count = as_number(values.get("recall")), as_number(values.get("count"))
            found = DASH
            if recall is not None and count is not None:
                found = f"{whole(round(recall * count))} of {whole(count)}"
            rows.append(
                Kind(clean(str(name)), recall, found, percent(recall, 0), number(values.get("auroc")))
            )
    return sorted(rows, key=lambda row: (-1.0 if row.recall is None else row.recall, row.name))


def story(summary: Mapping[str, Any], outcome: Outcome) -> str:
    """What was learned from what, in one sentence or two."""
    bundle = section(summary, "bundle")
    counts = section(bundle, "train_counts")
    known = {name: int(value) for name in counts if (value := as_number(counts[name])) is not None}
    parts = []
    if "train" in known:
        parts.append(f"The detector learned from {plural(known['train'], 'good picture')}")
        if known.get("validation"):
            parts[-1] += f", with {whole(known['validation'])} more to tell when to stop"
        if bundle.get("model") in ("memory", "gaussian"):
            parts[-1] += ", and set the decision limit by the same ones, each left out in turn"
        elif known.get("calibration"):
            parts[-1] += f" and {whole(known['calibration'])} more to set the decision limit"
        parts[-1] += "; it has seen no defect."
    if outcome.good or outcome.defects:
        parts.append(
            f"It was tested on {plural(outcome.good, 'good picture')} and {whole(outcome.defects)} defective."
        )
    return " ".join(parts)


def provenance(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of (label, value): what a reader needs to make the same detector again."""
    bundle, data = section(summary, "bundle"), section(summary, "data")
    counts = section(bundle, "train_counts")
    versions, evaluated = section(bundle, "versions"), section(summary, "evaluated")
    tested = ", ".join(
        f"{clean(str(name))} {whole(count)}" for name, count in section(data, "counts").items()
    )
    trained = ", ".join(f"{clean(str(name))} {whole(count)}" for name, count in counts.items())
    return [
        ("Detector", [
            ("Preset", _text(bundle.get("preset"))),
            ("Model", _text(bundle.get("model"))),
            ("Trained", _moment(bundle)),
            ("Training time", duration(bundle.get("fit_seconds"))),
            ("Epochs", whole(bundle.get("epochs")) + (", stopped by hand" if bundle.get("interrupted") is True else "")),
            ("Seed", _text(bundle.get("seed"))),
        ]),
        ("Data", [
            ("Category", _text(data.get("category", bundle.get("category")))),
            ("Good pictures used", trained or DASH),
            ("Training data, SHA-256", _text(bundle.get("data_sha256"))),
            ("Test pictures", tested or DASH),
            ("Test data, SHA-256", _text(data.get("sha256"))),
        ]),
        ("Software", [
            ("Anomaly Spotter", _text(bundle.get("version"))),
            ("Source commit", _text(bundle.get("commit"))),
            ("Machine", _text(bundle.get("machine"))),
            ("Libraries", ", ".join(f"{name} {version}" for name, version in versions.items()) or DASH),
        ]),
        ("This measurement", [
            ("Made", _moment(evaluated)),
            ("Anomaly Spotter", _text(evaluated.get("version"))),
            ("Source commit", _text(evaluated.get("commit"))),
            ("Machine", _text(evaluated.get("machine"))),
        ]),
    ]  # fmt: skip


def _moment(origin: Mapping[str, Any]) -> str:
    return _text(origin.get("created")).replace("T", " ").replace("+00:00", " UTC")


def settings(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every setting of the detector as ``section.name`` and value."""
    return _flat(section(section(summary, "bundle"), "config"))


def left_out(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Pictures that could not be used: ``skipped`` of the training data, ``unreadable`` of the test data."""
    bundle = section(summary, "bundle")
    groups = [
        ("Training", _lines(bundle.get("skipped"))),
        ("Test", _lines(summary.get("unreadable"))),
    ]
    return [(name, lines) for name, lines in groups if lines]


def decision(row: PictureResult) -> tuple[str, str, str, str, str]:
    """Path, kind, verdict, score, p-value of one test picture."""
    return short_path(row.path), clean(row.kind), row.verdict.value, number(row.score), number(row.p_value)


def short_path(path: Path | None) -> str:
    """Folder and file name; enough to find a picture in its data set."""
    return "picture without a file" if path is None else clean("/".join(path.parts[-2:]))


def _baseline_name(key: str) -> str:
    name = clean(key.removesuffix("_auroc"))
    return _BASELINES.get(name, name.replace("_", " ").capitalize())


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        rows += (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else [(f"{prefix}{key}", _text(value))]
        )
    return rows


def _lines(value: object) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [
        ": ".join(str(part) for part in item.values()) if isinstance(item, Mapping) else str(item)
        for item in value
    ]


def _text(value: object) -> str:
    return DASH if value is None or value == "" else clean(str(value))
