"""What every layout yields: a data set as a list of samples, and the rules for what counts as a picture file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.decode import PICTURE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

Split = Literal["train", "test"]
GOOD = "good"
"""The kind of every sample without a defect."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of a data set.

    Attributes:
        path: The picture.
        split: ``train`` or ``test``.
        kind: ``good`` or the kind of defect.
        masks: Mask pictures whose union marks the defect; empty if there are none.
    """

    path: Path
    split: Split
    kind: str
    masks: tuple[Path, ...] = ()

    @property
    def is_defect(self) -> bool:
        """Whether the picture shows a defect."""
        return self.kind != GOOD


@dataclass(frozen=True, slots=True)
class Dataset:
    """The samples of one category.

    Attributes:
        root: The category's folder (for a manifest: the manifest's folder).
        category: Its name.
        layout: The layout it was read with.
        samples: Every sample, training before test, otherwise in the order of their paths.
    """

    root: Path
    category: str
    layout: str
    samples: tuple[Sample, ...]

    @property
    def train(self) -> tuple[Sample, ...]:
        """The good training samples; defects in the training split are left out."""
        return tuple(sample for sample in self.samples if sample.split == "train" and not sample.is_defect)

    @property
    def test(self) -> tuple[Sample, ...]:
        """Every test sample, good and defective."""
        return tuple(sample for sample in self.samples if sample.split == "test")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind that occurs, ``good`` first, then the defects by name."""
        return tuple(sorted({sample.kind for sample in self.samples}, key=lambda kind: (kind != GOOD, kind)))

    def digest(self) -> str:
        """Fingerprint the data: SHA-256 (hex) over every relative path, split, kind and file content, masks included.

        Where the data lies does not matter. Every file is read (streamed) on every call; one that cannot be read counts
        as such, since naming it is the business of whoever needs its pixels.
        """
        lines = sorted(
            "\t".join(
                [
                    sample.split,
                    sample.kind,
                    *(self._fingerprint(path) for path in (sample.path, *sample.masks)),
                ]
            )
            for sample in self.samples
        )
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def _fingerprint(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            content = "unreadable"
        return f"{Path(os.path.relpath(path, self.root)).as_posix()}\t{content}"


def is_visible(path: Path) -> bool:
    """Whether a file or folder counts: not hidden, and no left-over of an archive program."""
    return not path.name.startswith(".") and path.name != "__MACOSX"


def walk_pictures(folder: Path) -> Iterator[Path]:
    """Yield the picture files in and below ``folder``, in no useful order; nothing if it does not exist.

    Raises:
        DatasetError: A folder in it cannot be read.
    """
    for here, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if is_visible(Path(name))]
        for name in files:
            path = Path(here, name)
            if path.suffix.lower() in PICTURE_SUFFIXES and is_visible(path):
                yield path


def list_pictures(folder: Path) -> list[Path]:
    """The picture files in and below ``folder``, sorted by path; empty if it does not exist."""
    return sorted(walk_pictures(folder))


def list_folders(folder: Path) -> list[Path]:
    """The visible folders directly in ``folder``, sorted; empty if it does not exist.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        return sorted(child for child in folder.iterdir() if is_visible(child) and child.is_dir())
    except OSError as error:
        _refuse(error)
        return []


def has_pictures(folder: Path) -> bool:
    """Whether any picture file lies in or below ``folder``."""
    return any(True for _ in walk_pictures(folder))


def _refuse(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise DatasetError(
            f"{error.filename}: cannot be read ({error.strerror}); check the path and its permissions"
        )
