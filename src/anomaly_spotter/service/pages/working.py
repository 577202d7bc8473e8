"""A training job as its page shows it: how far it is, its curves, and the report on what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomaly_spotter.service.jobs import ENDED
from anomaly_spotter.service.pages.charts import Line, lines, score_histogram
from anomaly_spotter.service.pages.scores import (
    calibration_scores,
    detectors,
    limit_of,
    promise_of,
    promise_words,
)
from anomaly_spotter.service.pages.shown import moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from markupsafe import Markup

    from anomaly_spotter.service.jobs import JobInfo
    from anomaly_spotter.service.pages.words import Words
    from anomaly_spotter.service.station import Station

STATE_WORDS = {
    "queued": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "interrupted",
}
STAGE_WORDS = {
    "reading": "Reading the pictures",
    "aligning": "Aligning the parts",
    "choosing": "Trying methods",
    "learning": "Learning good parts",
    "training": "Training the network",
    "scoring": "Scoring good parts",
}


@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job.

    Attributes:
        id: Identifier.
        name: What it makes.
        time: When it was asked for.
        state: In words.
        outcome: The state by its name.
        is_over: Whether nothing will happen any more.
        stage: What it is doing, in words.
        share: How far that is, 0 to 1; ``None`` where it is not known.
        done_of: The same as numbers.
        running: For how long, in words.
        model: Name of the new model.
        error: Why it failed.
    """

    id: str
    name: str
    time: datetime
    state: str
    outcome: str
    is_over: bool
    stage: str
    share: float | None
    done_of: str
    running: str
    model: str | None
    error: str | None


def shown_job(job: JobInfo, words: Words) -> ShownJob:
    """A job in the words of a language."""
    progress = job.progress if job.state == "running" else None
    passed = None if job.started is None else (job.ended or time.time()) - job.started
    return ShownJob(
        id=job.id,
        name=_name(job),
        time=moment(job.created),
        state=words(STATE_WORDS[job.state]),
        outcome=job.state,
        is_over=job.state in ENDED,
        stage=_stage(job, words),
        share=progress["done"] / max(1, progress["total"]) if progress else None,
        done_of=f"{progress['done']} / {progress['total']}" if progress else "",
        running=words("Running for {time}.", time=words.duration(passed)) if passed is not None else "",
        model=job.model,
        error=job.error,
    )


def curves(events: Sequence[Mapping[str, Any]], words: Words) -> Markup | None:
    """Errors by epoch, where a network is trained."""
    epochs = [event for event in events if event["event"] == "epoch"]
    if not epochs:
        return None
    last = epochs[-1]["epoch"]
    step = max(1, last // 8)
    names = {
        "train_loss": ("error on the training pictures", ""),
        "val_loss": ("error on held-out good pictures", "second"),
    }
    drawn = [
        Line(words(text), [(event["epoch"], event.get(key)) for event in epochs], style)
        for key, (text, style) in names.items()
    ]
    marks = [(float(epoch), str(epoch)) for epoch in range(step, last + 1, step)]
    return lines(drawn, words, label=words("Learning curve: error by epoch"), x_labels=marks)


def report(station: Station, job: JobInfo, words: Words) -> dict[str, Any] | None:
    """What came of a finished job; ``None`` where its model is no longer there."""
    name = job.model or ""
    info = next(
        (model for model in station.models.list() if model.name == name and model.error is None), None
    )
    if info is None:
        return None
    manifest = station.models.manifest(name)
    scores, own = calibration_scores(manifest), detectors(manifest)
    took = None if job.started is None or job.ended is None else job.ended - job.started
    facts = [
        (words("Model"), name),
        (words("Method"), ", ".join(dict.fromkeys(product.kind for product in info.products))),
        (
            words("Good pictures"),
            words.number(sum(product.good_pictures.get("train", 0) for product in info.products)),
        ),
        (words("Calibrated on"), words.number(len(scores))),
        (words("Size"), words.size(info.bytes)),
        (words("Time taken"), words.duration(took)),
    ]
    return {
        "promise": " ".join(promise_words(promise_of(each), words) for each in own),
        "is_kept": all(promise_of(each).is_kept for each in own),
        "is_active": info.is_active,
        "scores": score_histogram(scores, [], limit_of(manifest), words),
        "facts": facts,
    }


def _name(job: JobInfo) -> str:
    return job.model or job.title.partition(" ")[2].rpartition(" from ")[0] or job.title.partition(" ")[2]


def _stage(job: JobInfo, words: Words) -> str:
    if job.state == "queued":
        return words("Waiting for the job before")
    if job.progress is None:
        return words("Starting")
    product, _, stage = job.progress["stage"].rpartition(": ")
    text = words(STAGE_WORDS[stage]) if stage in STAGE_WORDS else stage
    return f"{product}: {text}" if product else text
