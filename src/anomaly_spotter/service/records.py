"""One inspection as it is kept: what the database holds, and the row it becomes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomaly_spotter.scoring.inspection import finite

if TYPE_CHECKING:
    from sqlalchemy import RowMapping


@dataclass(frozen=True, slots=True)
class Record:
    """A kept inspection.

    Attributes:
        id: Time-ordered identifier, 32 hexadecimal digits.
        at: When, in seconds since 1970 (UTC).
        model: Name of the model.
        bundle: SHA-256 of what the model file stands for.
        product: Whose detector judged, where the model holds several.
        verdict: ``OK`` or ``DEFECT``.
        score: Image score; ``None`` where the part could not be judged.
        threshold: The decision limit that was applied.
        p_value: How often a good part scores at least this high.
        reason: Why the part could not be judged.
        regions: Defect regions as JSON-able values, strongest first.
        notes: Remarks about the picture.
        file: Name of the picture as it was sent.
        width: Pixels per row.
        height: Rows.
        low: Pixel score that the heat map draws as black.
        high: Pixel score that the heat map draws as white.
        picture: SHA-256 of the picture's file.
        heat: SHA-256 of the heat's file.
        mask: SHA-256 of the mask's file; ``None`` where no pixel is defective.
        normal: SHA-256 of the normal look's file, where it was asked for.
        condition: Brightness, sharpness and pose of the picture, as far as they were measured.
        milliseconds: What decoding and deciding took.
        by: Who asked.
        idempotency: Digest of the caller and his idempotency key.
        position: Place of the picture among those of one request.
        review: What a person says: ``OK`` or ``DEFECT``; ``None`` until someone has looked.
        review_note: His note.
        review_by: His name.
        review_at: When, in seconds since 1970 (UTC).
    """

    id: str
    at: float
    model: str
    bundle: str
    product: str | None
    verdict: str
    score: float | None
    threshold: float
    p_value: float
    reason: str | None
    regions: list[dict[str, Any]]
    notes: list[str]
    file: str | None
    width: int
    height: int
    low: float
    high: float
    picture: str
    heat: str
    mask: str | None
    normal: str | None
    condition: dict[str, Any] | None
    milliseconds: float
    by: str
    idempotency: str | None = None
    position: int | None = None
    review: str | None = None
    review_note: str | None = None
    review_by: str | None = None
    review_at: float | None = None

    @classmethod
    def from_row(cls, row: RowMapping) -> Record:
        """Inverse of :meth:`to_row`."""
        values: dict[str, Any] = {str(column): value for column, value in row.items()}
        return cls(**{**values, "score": finite(values["score"])})

    def to_row(self) -> dict[str, Any]:
        """The values by column; a part that could not be judged has an infinite score, so that it sorts last."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "score": math.inf if self.score is None else self.score}
