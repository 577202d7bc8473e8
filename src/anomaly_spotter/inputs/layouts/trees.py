"""Layouts that are trees of folders: MVTec AD, MVTec LOCO, BTAD, KolektorSDD and SDD2, and the plain folder.

Each reader takes one category's folder and yields its samples; each ``is_...`` says whether a folder looks like that
layout. Only names are looked at; KolektorSDD's labels are the exception, as its names do not say what is defective.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomaly_spotter.errors import DatasetError, PictureError
from anomaly_spotter.inputs.decode import read_info, read_mask
from anomaly_spotter.inputs.layouts.dataset import (
    GOOD,
    Sample,
    Split,
    has_pictures,
    list_folders,
    list_pictures,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KOLEKTOR_TEST_EVERY = 5
"""KolektorSDD has no split of its own: the good parts of every 5th item go to the test."""


# --- MVTec AD: train/good, test/<kind>, ground_truth/<kind> -----------------------------------------------------------


def is_mvtec(folder: Path) -> bool:
    """``train/good``, and nothing that only MVTec LOCO has."""
    return (folder / "train" / "good").is_dir() and not is_loco(folder)


def read_mvtec(folder: Path) -> Iterator[Sample]:
    """Masks are ``ground_truth/<kind>/NNN_mask.png`` or ``NNN.png``; a picture may have none."""
    yield from _read_kinds(folder, "train")
    yield from _read_kinds(folder, "test")


# --- MVTec LOCO: as MVTec AD, with validation/good and a folder of masks for every picture ----------------------------


def is_loco(folder: Path) -> bool:
    """``train/good``, and ``validation/good`` or LOCO's names for its kinds."""
    test = folder / "test"
    return (folder / "train" / "good").is_dir() and (
        (folder / "validation" / "good").is_dir()
        or (test / "logical_anomalies").is_dir()
        or (test / "structural_anomalies").is_dir()
    )


def read_loco(folder: Path) -> Iterator[Sample]:
    """The validation pictures are good and count as training; masks are ``ground_truth/<kind>/NNN/*.png``."""
    yield from _read_kinds(folder, "train")
    yield from (Sample(path, "train", GOOD) for path in list_pictures(folder / "validation" / "good"))
    yield from _read_kinds(folder, "test")


# --- BTAD: train/ok, test/ok|ko, ground_truth/ko ----------------------------------------------------------------------


def is_btad(folder: Path) -> bool:
    """``train/ok``."""
    return (folder / "train" / "ok").is_dir()


def read_btad(folder: Path) -> Iterator[Sample]:
    """``ok`` is good, ``ko`` a defect of kind ``ko``; a mask has its picture's stem, whatever its suffix."""
    yield from _read_kinds(folder, "train", good="ok")
    yield from _read_kinds(folder, "test", good="ok")


# --- KolektorSDD: kosNN/PartM.jpg + PartM_label.bmp; KolektorSDD2: train|test/NNNNN.png + NNNNN_GT.png ----------------


def is_kolektor(folder: Path) -> bool:
    """``kosNN`` folders with ``*_label.*`` files, or ``train`` with ``*_GT.png`` files."""
    return any(_kolektor_items(folder)) or any((folder / "train").glob("*_GT.png"))


def read_kolektor(folder: Path) -> Iterator[Sample]:
    """A picture is a defect (kind ``defect``) if any pixel of its label is not zero.

    KolektorSDD comes without a split: defects go to the test, and of the items ``kosNN``, in order, every 5th item's
    good pictures too, so that an item's good pictures stay together. KolektorSDD2 is read as it is split.
    """
    for index, item in enumerate(_kolektor_items(folder), start=1):
        good_split: Split = "train" if index % KOLEKTOR_TEST_EVERY else "test"
        yield from _read_labelled(item, "_label", good_split, "test")
    yield from _read_labelled(folder / "train", "_GT", "train", "train")
    yield from _read_labelled(folder / "test", "_GT", "test", "test")


def _kolektor_items(folder: Path) -> list[Path]:
    return [
        item for item in list_folders(folder) if item.name.startswith("kos") and any(item.glob("*_label.*"))
    ]


def _read_labelled(folder: Path, suffix: str, good_split: Split, defect_split: Split) -> Iterator[Sample]:
    pictures = list_pictures(folder)
    labels = {path.stem.removesuffix(suffix): path for path in pictures if path.stem.endswith(suffix)}
    for path in pictures:
        if path.stem.endswith(suffix):
            continue
        label = labels.get(path.stem)
        if label is not None and _marks_a_defect(label):
            yield Sample(path, defect_split, "defect", (label,))
        else:
            yield Sample(path, good_split, GOOD)


def _marks_a_defect(label: Path) -> bool:
    try:
        info = read_info(label)
        return bool(read_mask([label], (info.height, info.width)).any())
    except PictureError as error:
        raise DatasetError(f"a label cannot be read: {error}") from error


# --- a plain folder ---------------------------------------------------------------------------------------------------


def is_folder(folder: Path) -> bool:
    """Any picture in or below it."""
    return has_pictures(folder)


def read_folder(folder: Path) -> Iterator[Sample]:
    """Every picture in and below the folder is a good training picture."""
    yield from (Sample(path, "train", GOOD) for path in list_pictures(folder))


# --- shared -----------------------------------------------------------------------------------------------------------


def _read_kinds(folder: Path, split: Split, *, good: str = GOOD) -> Iterator[Sample]:
    """``<split>/<kind>/*`` with masks from ``ground_truth/<kind>``."""
    for kind in list_folders(folder / split):
        masks = _masks_by_picture(folder / "ground_truth" / kind.name) if split == "test" else {}
        for path in list_pictures(kind):
            key = path.relative_to(kind).with_suffix("").as_posix()
            yield Sample(path, split, GOOD if kind.name == good else kind.name, masks.get(key, ()))


def _masks_by_picture(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Masks by the picture they belong to (relative path without suffix).

    ``NNN_mask.png`` and ``NNN.png`` belong to ``NNN`` (the former wins), the files in ``NNN/`` together as well.
    """
    own: dict[str, tuple[Path, ...]] = {}
    marked: dict[str, tuple[Path, ...]] = {}
    many: dict[str, tuple[Path, ...]] = {}
    for path in list_pictures(folder):
        relative = path.relative_to(folder)
        stem = relative.with_suffix("").as_posix()
        own[stem] = (path,)
        if stem.endswith("_mask"):
            marked[stem.removesuffix("_mask")] = (path,)
        if len(relative.parts) > 1:
            parent = relative.parent.as_posix()
            many[parent] = (*many.get(parent, ()), path)
    return many | own | marked
