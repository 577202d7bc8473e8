"""A kept inspection as a page shows it: words, numbers and addresses of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anomaly_spotter.service.pages.charts import gauge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from anomaly_spotter.service.pages.words import Words
    from anomaly_spotter.service.records import Record


@dataclass(frozen=True, slots=True)
class Tile:
    """An inspection among many.

    Attributes:
        id: Identifier.
        name: File name of the picture, or its time.
        verdict: ``OK`` or ``DEFECT``, of the model.
        review: What a person says, if anybody has.
        score: Image score; ``None`` where the part could not be judged.
        time: When.
        thumbnail: Address of the small picture; ``None`` where it is no longer kept.
    """

    id: str
    name: str
    verdict: str
    review: str | None
    score: float | None
    time: datetime
    thumbnail: str | None

    @classmethod
    def of(cls, record: Record, *, is_kept: bool) -> Tile:
        """The tile of an inspection."""
        return cls(
            record.id,
            record.file or record.id[:8],
            record.verdict,
            record.review,
            record.score,
            moment(record.at),
            address(record, "thumbnail") if is_kept else None,
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """An inspection at full size.

    Attributes:
        id: Identifier.
        name: File name of the picture, or its time.
        model: Name of the model.
        product: Product, where the model holds several.
        time: When.
        verdict: ``OK`` or ``DEFECT``, of the model.
        threshold: Limit that was applied.
        why: The verdict's reason in a few words.
        said: Verdict and reason, for a screen reader.
        meaning: What the score says about good parts.
        gauge: The score on a scale, as SVG.
        facts: Names and values.
        regions: Defect regions: ``box``, ``area``, ``peak``.
        width: Pixels per row.
        height: Rows.
        picture: Address of the picture.
        overlay: Address of the picture with its heat map.
        review: What a person says.
        review_note: His note.
        review_by: His name.
        review_time: When, in words.
    """

    id: str
    name: str
    model: str
    product: str | None
    time: datetime
    verdict: str
    threshold: float
    why: str
    said: str
    meaning: str
    gauge: Markup
    facts: Sequence[tuple[str, str]]
    regions: Sequence[dict[str, Any]]
    width: int
    height: int
    picture: str
    overlay: str
    review: str | None
    review_note: str | None
    review_by: str | None
    review_time: str

    @classmethod
    def of(cls, record: Record, words: Words) -> Shown:
        """An inspection in the words of a language."""
        why = _why(record, words)
        return cls(
            id=record.id,
            name=record.file or words.time(moment(record.at), seconds=True),
            model=record.model,
            product=record.product,
            time=moment(record.at),
            verdict=record.verdict,
            threshold=record.threshold,
            why=why,
            said=f"{words(record.verdict)}. {why}.",
            meaning=_meaning(record, words),
            gauge=gauge(record.score, record.threshold, words),
            facts=_facts(record, words),
            regions=record.regions,
            width=record.width,
            height=record.height,
            picture=address(record, "picture"),
            overlay=address(record, "overlay"),
            review=record.review,
            review_note=record.review_note,
            review_by=record.review_by,
            review_time=words.time(None if record.review_at is None else moment(record.review_at)),
        )


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def address(record: Record, view: str) -> str:
    """Where a picture of an inspection is."""
    return f"/pictures/{record.id}/{view}"


def _why(record: Record, words: Words) -> str:
    if record.reason is not None:
        known, _, products = record.reason.partition(": ")
        return f"{words(known)}: {products}" if products else words(record.reason).capitalize()
    if record.verdict == "OK":
        return words("Looks like a good part")
    if not record.regions:
        return words("It differs from good parts as a whole")
    return words.count(
        len(record.regions), "{n} place differs from good parts", "{n} places differ from good parts"
    )


def _meaning(record: Record, words: Words) -> str:
    if record.score is None:
        return words("The part could not be judged, so it counts as a defect.")
    return words("At most {share} of good parts score this high.", share=words.percent(record.p_value))


def _facts(record: Record, words: Words) -> list[tuple[str, str]]:
    facts = [
        (words("Score"), words.number(record.score, 3)),
        (words("Limit"), words.number(record.threshold, 3)),
        (words("p-value"), words.number(record.p_value, 4)),
        (words("Picture"), f"{record.width} × {record.height}"),
        (words("Time taken"), f"{words.number(record.milliseconds, 1)} ms"),
        (words("Model"), record.model),
        (words("Inspected by"), record.by),
    ]
    if record.notes:
        facts.append((words("Remarks"), "; ".join(words(note) for note in record.notes)))
    return facts
