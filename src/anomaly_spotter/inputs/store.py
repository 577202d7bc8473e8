"""The good pictures: checked, decoded once while memory lasts, and brought onto a canvas."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from anomaly_spotter.errors import DatasetError, PictureError
from anomaly_spotter.inputs.decode import Picture, as_picture, read_info, read_picture, white_level
from anomaly_spotter.inputs.preprocess import is_grey

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from anomaly_spotter.inputs.preprocess import Placement, Preprocessor

MEMORY_LIMIT = 2 * 2**30  # bytes of pictures kept in memory; more are decoded again, or memory-mapped
_READERS, _AHEAD = 2, 6  # decoding threads, and pictures they may be ahead
_COLOUR_SAMPLE = 16  # pictures that decide whether "auto" means grey

Source = TypeVar("Source", bound="str | Path | NDArray[Any]")


class GoodPictures(Sequence[NDArray[np.uint8]]):
    """The usable good pictures, decoded on demand; those that fit into :data:`MEMORY_LIMIT` are kept decoded.

    Attributes:
        paths: The files.
        shapes: ``(height, width)`` of each.
        skipped: Files that are left out, with the reason: unusable, or the same pixels as another one.
        notes: What decoding did to how many pictures, for example ``{"16-bit scaled to 8-bit": 320}``.
        white_level: Value that counts as white in 16-bit pictures.
        is_grey: Whether the pictures have no colour.
        fingerprints: A number for the pixels of each.
    """

    def __init__(self, white_level: int, *, is_grey: bool) -> None:
        self.white_level, self.is_grey = white_level, is_grey
        self.paths: list[Path] = []
        self.shapes: list[tuple[int, int]] = []
        self.skipped: list[tuple[Path, str]] = []
        self.notes: Counter[str] = Counter()
        self.fingerprints: list[int] = []
        self._decoded: dict[int, NDArray[np.uint8]] = {}
        self._room = MEMORY_LIMIT

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.uint8]]: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Pixels ``uint8 [H, W]`` or ``[H, W, 3]``."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        kept = self._decoded.get(range(len(self))[index])
        return read_picture(self.paths[index], white_level=self.white_level).pixels if kept is None else kept

    def add(self, path: Path, picture: Picture) -> None:
        """Take a decoded picture in."""
        if picture.pixels.nbytes <= self._room:
            self._decoded[len(self.paths)] = picture.pixels
            self._room -= picture.pixels.nbytes
        self.paths.append(path)
        self.shapes.append((picture.pixels.shape[0], picture.pixels.shape[1]))
        self.notes.update(picture.notes)
        self.fingerprints.append(int.from_bytes(_fingerprint(picture.pixels)[:8]))


def read_good(
    paths: Sequence[Path],
    *,
    skip_bad: bool = False,
    white: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GoodPictures:
    """Decode every good picture once, to know that it can be used (a small sample twice, to learn colour and depth).

    Equal pictures are kept once: calibration counts independent parts, and a copy on both sides of a split would
    make the held-out scores too good to be true.

    Args:
        paths: Good pictures.
        skip_bad: Go on without unusable pictures instead of raising.
        white: Value that counts as white in 16-bit pictures; learned from these if not given.
        progress: Called with (done, total).

    Raises:
        DatasetError: Unusable pictures, all named in one message; with ``skip_bad`` only if none is left.
    """
    bad: dict[Path, str] = {}
    usable: list[Path] = []
    for path in paths:
        try:
            read_info(path)
            usable.append(path)
        except PictureError as error:
            bad[path] = str(error)
    if not usable:
        _complain(bad, usable, skip_bad)
    good = GoodPictures(white_level(usable) if white is None else white, is_grey=_all_grey(usable))
    copies: dict[Path, str] = {}
    seen: dict[bytes, Path] = {}
    for done, (path, picture) in enumerate(read_ahead(usable, good.white_level), start=1):
        if isinstance(picture, PictureError):
            bad[path] = str(picture)
        elif (twin := seen.setdefault(_fingerprint(picture.pixels), path)) is not path:
            copies[path] = f"{path}: the same picture as {twin}; it counts once"
        else:
            good.add(path, picture)
        if progress is not None:
            progress(done, len(usable))
    _complain(bad, good.paths, skip_bad)
    good.skipped = sorted((bad | copies).items())
    return good


class Canvases(Sequence[NDArray[np.uint8]]):
    """Good pictures on the canvas ``uint8 [H, W, C]``, prepared on demand; each part is located once.

    Attributes:
        pictures: The good pictures.
        preprocessor: Brings them onto the canvas.
        chosen: Which of them are here, in order.
    """

    def __init__(
        self, pictures: GoodPictures, preprocessor: Preprocessor, chosen: Sequence[int] | None = None
    ) -> None:
        self.pictures, self.preprocessor = pictures, preprocessor
        self.chosen = range(len(pictures)) if chosen is None else chosen
        self._places: dict[int, Placement] = {}

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.uint8]]: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """A canvas, or several."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        number = self.chosen[index]
        pixels = self.pictures[number]
        return self.preprocessor.prepare(pixels, self._located(number, pixels))

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """The picture itself, ``[H, W]`` or ``[H, W, 3]``."""
        return self.pictures[self.chosen[index]]

    def place(self, index: int) -> Placement:
        """Where a picture lies on the canvas."""
        number = self.chosen[index]
        return (
            self._places[number] if number in self._places else self._located(number, self.pictures[number])
        )

    def name(self, index: int) -> str:
        """The picture's file."""
        return str(self.pictures.paths[self.chosen[index]])

    def without(self, left_out: Collection[int]) -> Canvases:
        """The same without some, which are not located again."""
        fewer = [self.chosen[index] for index in range(len(self)) if index not in left_out]
        canvases = Canvases(self.pictures, self.preprocessor, fewer)
        canvases._places = self._places
        return canvases

    def stacked(self, spill: Path) -> NDArray[np.uint8]:
        """All canvases as one array ``uint8 [N, H, W, C]``, memory-mapped to ``spill`` when they are too many.

        Raises:
            DatasetError: The disk has no room for the memory map.
        """
        shape = (len(self), self.preprocessor.height, self.preprocessor.width, self.preprocessor.channels)
        array = _allocate(shape, spill)
        for index in range(len(self)):
            array[index] = self[index]
        return array

    def _located(self, number: int, pixels: NDArray[np.uint8]) -> Placement:
        if number not in self._places:
            self._places[number] = self.preprocessor.place(pixels)
        return self._places[number]


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
