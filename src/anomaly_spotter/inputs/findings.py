"""What an audit finds, as values, as JSON, and in plain words."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHORTCUT_AUROC = 0.8
"""From here on a trivial statistic that separates good from defective pictures is called a shortcut."""
CHANCE_DEVIATIONS = 2.0
"""An AUROC counts if it is this many standard deviations from what two groups of the same kind would show."""


def is_beyond_chance(auroc: float, first: int, second: int) -> bool:
    """Whether two groups of so many pictures hardly show this AUROC if nothing tells them apart."""
    chance = math.sqrt((first + second + 1) / (12 * first * second))
    return abs(auroc - 0.5) >= CHANCE_DEVIATIONS * chance


@dataclass(frozen=True, slots=True)
class Fault:
    """A file and what is wrong with it, in one line."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two pictures that show the same part.

    Attributes:
        first: A training picture.
        second: The other one, from the training or the test pictures.
        is_across: Whether ``second`` is a test picture.
        correlation: Of their fine detail; exactly 1 if the files are equal byte for byte.
    """

    first: Path
    second: Path
    is_across: bool
    correlation: float


@dataclass(frozen=True, slots=True)
class Separation:
    """How well one trivial statistic tells two groups of pictures apart.

    Attributes:
        statistic: ``mean_grey``, ``contrast``, ``sharpness`` or ``file_size``.
        first: Name of a group: ``train/good`` or ``test/good``.
        second: Name of the other: ``test/good`` or ``test defects``.
        first_mean: Mean of the statistic in the first group.
        second_mean: Mean in the second.
        auroc: 0.5 (not at all) to 1 (perfectly), in whichever direction separates.
        is_second_higher: The direction: whether the second group tends to the larger values.
        is_significant: Whether so many pictures hardly show this ``auroc`` by chance.
    """

    statistic: str
    first: str
    second: str
    first_mean: float
    second_mean: float
    auroc: float
    is_second_higher: bool
    is_significant: bool


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found in a data set.

    Attributes:
        root: The data set's folder.
        category: Its name.
        layout: Its layout.
        counts: Pictures per split and kind, ``{"train": {"good": 320}, ...}``.
        sizes: Pictures per size, ``{"512x522": 1}`` (width x height), most frequent first.
        modes: Pictures per mode as stored, ``{"L": 480}``, most frequent first.
        notes: Pictures per remark of the decoder, ``{"EXIF orientation 6 applied": 3}``.
        broken: Pictures that cannot be read.
        exact_duplicates: Files equal byte for byte, inside training and between training and test.
        near_duplicates: The same part again, likewise, without the exact ones.
        missing_masks: Test pictures of a defect without a mask.
        misfitting_masks: Masks that cannot be read or have another size than their picture.
        empty_masks: Pictures of a defect whose mask marks nothing.
        masks_for_good: Good pictures whose mask marks something.
        shortcuts: ``test/good`` against the test defects, one for each statistic.
        shifts: ``train/good`` against ``test/good``, one for each statistic.
    """

    root: Path
    category: str
    layout: str
    counts: dict[str, dict[str, int]]
    sizes: dict[str, int]
    modes: dict[str, int]
    notes: dict[str, int]
    broken: tuple[Fault, ...]
    exact_duplicates: tuple[Duplicate, ...]
    near_duplicates: tuple[Duplicate, ...]
    missing_masks: tuple[Path, ...]
    misfitting_masks: tuple[Fault, ...]
    empty_masks: tuple[Path, ...]
    masks_for_good: tuple[Path, ...]
    shortcuts: tuple[Separation, ...]
    shifts: tuple[Separation, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """All of it that matters, in plain words, one finding each."""
        return tuple(_describe(self))

    def to_json(self) -> dict[str, Any]:
        """The same as plain values for ``json.dumps``; paths are relative to ``root``."""
        plain: dict[str, Any] = _plain(asdict(self), self.root)
        return plain | {"root": str(self.root), "warnings": list(self.warnings)}


# --- in plain words ---------------------------------------------------------------------------------------------------

_WORDS = {  # statistic: its name, "the first group is ...", when larger and when smaller; how a value is written
    "mean_grey": ("Mean grey", "brighter", "darker", "{:.0f}"),
    "contrast": ("Contrast", "richer in contrast", "poorer in contrast", "{:.1f}"),
    "sharpness": ("Sharpness", "sharper", "less sharp", "{:.0f}"),
    "file_size": ("File size", "larger", "smaller", "{:.0f} bytes"),
}


def _describe(audit: Audit) -> Iterator[str]:
    yield from _describe_files(audit)
    yield from _describe_duplicates(audit)
    yield from _describe_masks(audit)
    shifts = {shift.statistic: shift for shift in audit.shifts}
    for shortcut in audit.shortcuts:
        shift = shifts.pop(shortcut.statistic, None)
        if _is_striking(shortcut):
            yield _shortcut_sentence(shortcut, shift)
        elif shift is not None and _is_striking(shift):
            yield _shift_sentence(shift)
    for shift in shifts.values():  # a test without defects
        if _is_striking(shift):
            yield _shift_sentence(shift)


def _describe_files(audit: Audit) -> Iterator[str]:
    if audit.broken:
        yield f"{_count(audit.broken, 'picture')} cannot be read, for example {audit.broken[0].reason}."
    if len(audit.sizes) > 1:
        yield f"The pictures have {len(audit.sizes)} sizes: {_list(audit.sizes)}."
    grey = {mode for mode in audit.modes if mode[0] in "1LI"}
    if grey and set(audit.modes) - grey:
        yield f"Grey and colour pictures are mixed: {_list(audit.modes)}."


def _describe_duplicates(audit: Audit) -> Iterator[str]:
    for is_across, where, harm in (
        (True, "between training and test", "they make the test easier than the real thing"),
        (False, "inside training", "calibration takes them for independent parts"),
    ):
        exact = [pair for pair in audit.exact_duplicates if pair.is_across == is_across]
        near = [pair for pair in audit.near_duplicates if pair.is_across == is_across]
        if exact:
            yield f"{_count(exact, 'exact duplicate')} {where}, for example {_pair(audit, exact)}; {harm}."
        if near:
            yield (
                f"{_count(near, 'near duplicate')} {where} (the same part pictured again), "
                f"for example {_pair(audit, near)}; {harm}."
            )


def _describe_masks(audit: Audit) -> Iterator[str]:
    defects = sum(n for kind, n in audit.counts.get("test", {}).items() if kind != "good")
    if audit.missing_masks and len(audit.missing_masks) == defects:
        yield "No test defect has a mask; only whole pictures can be judged, not where the defect is."
    elif audit.missing_masks:
        yield (
            f"{_count(audit.missing_masks, 'test defect')} of {defects} without a mask, "
            f"for example {_name(audit, audit.missing_masks[0])}."
        )
    if audit.misfitting_masks:
        yield f"{_count(audit.misfitting_masks, 'mask')} of no use, for example {audit.misfitting_masks[0].reason}."
    if audit.empty_masks:
        yield (
            f"{_count(audit.empty_masks, 'defect')} with an empty mask, "
            f"for example {_name(audit, audit.empty_masks[0])}."
        )
    if audit.masks_for_good:
        yield (
            f"{_count(audit.masks_for_good, 'good picture')} with a mask that marks a defect, "
            f"for example {_name(audit, audit.masks_for_good[0])}."
        )


def _is_striking(separation: Separation) -> bool:
    return separation.auroc >= SHORTCUT_AUROC and separation.is_significant


def _shortcut_sentence(shortcut: Separation, shift: Separation | None) -> str:
    label, larger, smaller, form = _WORDS[shortcut.statistic]
    text = (
        f"{label} alone separates good from defective test pictures (AUROC {shortcut.auroc:.2f}): "
        f"{shortcut.first} is {smaller if shortcut.is_second_higher else larger} "
        f"({form.format(shortcut.first_mean)}) than the defects ({form.format(shortcut.second_mean)})"
    )
    if shift is not None and _is_striking(shift):
        text += (
            f" and {smaller if not shift.is_second_higher else larger} than {shift.first} "
            f"({form.format(shift.first_mean)})"
        )
    return f"{text}; a score that leans on {label.lower()} will look better than it is."


def _shift_sentence(shift: Separation) -> str:
    label, larger, smaller, form = _WORDS[shift.statistic]
    return (
        f"{label} tells good test pictures from good training pictures (AUROC {shift.auroc:.2f}): "
        f"{shift.second} is {larger if shift.is_second_higher else smaller} "
        f"({form.format(shift.second_mean)}) than {shift.first} ({form.format(shift.first_mean)}); "
        "they were not taken alike, and false alarms may follow."
    )


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _list(table: dict[str, int], limit: int = 5) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in list(table.items())[:limit])
    return shown + (", ..." if len(table) > limit else "")


def _pair(audit: Audit, pairs: Sequence[Duplicate]) -> str:
    return f"{_name(audit, pairs[0].first)} and {_name(audit, pairs[0].second)}"


def _name(audit: Audit, path: Path) -> str:
    return Path(os.path.relpath(path, audit.root)).as_posix()


def _plain(value: Any, root: Path) -> Any:
    if isinstance(value, Path):
        return Path(os.path.relpath(value, root)).as_posix()
    if isinstance(value, dict):
        return {key: _plain(each, root) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, root) for each in value]
    return value
