"""Good pictures on the canvas, each decoded once: in memory, or memory-mapped on disk when they are too many."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from anomaly_spotter.errors import DatasetError, PictureError
from anomaly_spotter.inputs.decode import Picture, as_picture, read_info, read_picture, white_level
from anomaly_spotter.inputs.preprocess import Preprocessor, is_grey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.config import PreprocessingConfig

MEMORY_LIMIT = 2 * 2**30  # bytes of canvas pictures that are kept in memory; more are memory-mapped
_READERS, _AHEAD = 2, 6  # decoding threads, and pictures they may be ahead
_COLOUR_SAMPLE = 16  # pictures that decide whether "auto" means grey

Source = TypeVar("Source", bound="str | Path | NDArray[Any]")


@dataclass(frozen=True, slots=True)
class PictureStore:
    """Prepared good pictures and what is needed to map back to them.

    Attributes:
        pictures: ``uint8 [N, H, W, C]`` on the canvas, in memory or memory-mapped.
        shapes: ``(height, width)`` of each original picture.
        paths: The files, in the same order.
        skipped: Files that are not in ``pictures``, with the reason: unusable, or the same pixels as another one.
        notes: What decoding did to how many pictures, for example ``{"16-bit scaled to 8-bit": 320}``.
        preprocessor: The geometry fitted on these pictures.
    """

    pictures: NDArray[np.uint8]
    shapes: tuple[tuple[int, int], ...]
    paths: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...]
    notes: dict[str, int]
    preprocessor: Preprocessor


def load_store(
    paths: Sequence[Path],
    config: PreprocessingConfig,
    spill: Path,
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PictureStore:
    """Fit the geometry and decode every good picture once (a small sample twice, to learn colour and bit depth).

    Equal pictures are kept once: calibration counts independent parts, and a copy on both sides of the split would
    make the held-out scores too good to be true.

    Args:
        paths: Good pictures.
        config: Preprocessing settings.
        spill: File for the memory map, made only when the pictures exceed :data:`MEMORY_LIMIT`.
        skip_bad: Go on without unusable pictures instead of raising.
        progress: Called with (done, total).

    Raises:
        DatasetError: Unusable pictures, all named in one message; with ``skip_bad`` only if none is left. Or the disk
            has no room for the memory map.
    """
    bad: dict[Path, str] = {}
    sizes: dict[Path, tuple[int, int]] = {}
    for path in paths:
        try:
            info = read_info(path)
            sizes[path] = (info.width, info.height)
        except PictureError as error:
            bad[path] = str(error)
    usable = list(sizes)
    if not usable:
        _complain(bad, usable, skip_bad)
    preprocessor = Preprocessor.fit(
        config,
        list(sizes.values()),
        is_grey=config.colour == "auto" and _all_grey(usable),
        white_level=white_level(usable),
    )
    shape = (len(usable), preprocessor.height, preprocessor.width, preprocessor.channels)
    pictures = _allocate(shape, spill)
    shapes: list[tuple[int, int]] = []
    kept: list[Path] = []
    copies: dict[Path, str] = {}
    seen: dict[bytes, Path] = {}
    notes: Counter[str] = Counter()
    decoded = read_ahead(usable, preprocessor.white_level)
    for done, (path, picture) in enumerate(decoded, start=1):
        if isinstance(picture, PictureError):
            bad[path] = str(picture)
        elif (twin := seen.setdefault(_fingerprint(picture.pixels), path)) is not path:
            copies[path] = f"{path}: the same picture as {twin}; it counts once"
        else:
            notes.update(picture.notes)
            pictures[len(kept)] = preprocessor.prepare(picture.pixels)
            shapes.append((picture.pixels.shape[0], picture.pixels.shape[1]))
            kept.append(path)
        if progress is not None:
            progress(done, len(usable))
    _complain(bad, kept, skip_bad)
    return PictureStore(
        pictures[: len(kept)],
        tuple(shapes),
        tuple(kept),
        tuple(sorted((bad | copies).items())),
        dict(notes),
        preprocessor,
    )


def _fingerprint(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def read_ahead(sources: Iterable[Source], white: int) -> Iterator[tuple[Source, Picture | PictureError]]:
    """Decode files and arrays in order on background threads, a few ahead; failures come as values."""
    remaining = iter(sources)
    with ThreadPoolExecutor(_READERS) as pool:
        pending = deque((source, pool.submit(_read, source, white)) for source in islice(remaining, _AHEAD))
        while pending:
            source, future = pending.popleft()
            yield source, future.result()
            pending.extend((source, pool.submit(_read, source, white)) for source in islice(remaining, 1))


def _read(source: str | Path | NDArray[Any], white: int) -> Picture | PictureError:
    try:
        if isinstance(source, np.ndarray):
            return as_picture(source, white_level=white)
        return read_picture(source, white_level=white)
    except PictureError as error:
        return error


def _all_grey(paths: Sequence[Path]) -> bool:
    chosen = np.unique(np.linspace(0, len(paths) - 1, _COLOUR_SAMPLE).astype(int))
    decoded = read_ahead([paths[index] for index in chosen], 65535)
    return all(isinstance(picture, PictureError) or is_grey(picture.pixels) for _, picture in decoded)


def _allocate(shape: tuple[int, ...], spill: Path) -> NDArray[np.uint8]:
    if int(np.prod(shape, dtype=np.int64)) <= MEMORY_LIMIT:
        return np.empty(shape, dtype=np.uint8)
    spill.parent.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(spill.parent).free
    if (
        needed > free
    ):  # writing into the hole of a sparse file on a full disk kills the process without a word
        raise DatasetError(
            f"{spill.parent} has {free / 2**30:.1f} GiB free, the prepared pictures need {needed / 2**30:.1f}; "
            "free some space or choose another --out"
        )
    return np.memmap(spill, dtype=np.uint8, mode="w+", shape=shape)


def _complain(bad: dict[Path, str], usable: Sequence[Path], skip_bad: bool) -> None:
    if bad and not (skip_bad and usable):
        listed = "; ".join(bad.values())
        raise DatasetError(
            f"{len(bad)} of {len(bad) + len(usable)} good pictures cannot be used: {listed}. "
            "Mend or remove them, or go on without them by --skip-bad"
        )
