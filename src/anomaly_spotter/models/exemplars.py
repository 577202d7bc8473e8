"""Good pictures kept with a model, reduced and compressed, so that it can show the nearest normal patch it compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

from anomaly_spotter.errors import BundleError
from anomaly_spotter.inputs.preprocess import LONGEST_SIDE
from anomaly_spotter.models.cells import STRIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_LARGEST = 64 * 2**20  # bytes of all exemplars in memory
_QUALITY = 85  # JPEG


@dataclass(frozen=True)
class Exemplars:
    """Reduced good pictures, all of one size.

    Attributes:
        files: ``uint8``, JPEG files one after the other.
        ends: ``int64 [K]``, where each file ends.
        canvas: ``(height, width, channels)`` of the canvas they were reduced from.
    """

    files: NDArray[np.uint8]
    ends: NDArray[np.int64]
    canvas: tuple[int, int, int]

    @classmethod
    def collect(cls, canvases: Iterable[NDArray[np.uint8]], count: int) -> Self:
        """Keep ``count`` canvas pictures ``uint8 [H, W, C]``, reduced until all fit into bounded memory."""
        files: list[bytes] = []
        shape = (0, 0, 0)
        for canvas in canvases:
            shape = (canvas.shape[0], canvas.shape[1], canvas.shape[2])
            files.append(_reduced(canvas, shape, count))
        return cls._of(files, shape)

    def extended(self, kept: Iterable[int], canvases: Iterable[NDArray[np.uint8]], count: int) -> Self:
        """Some of these, and reduced canvas pictures behind them, ``count`` in all."""
        same_size = _cell(self.canvas, count) == _cell(self.canvas, len(self.ends))
        files = [
            self._file(number).tobytes() if same_size else _reduced(self._decoded(number), self.canvas, count)
            for number in kept
        ]
        return self._of([*files, *(_reduced(canvas, self.canvas, count) for canvas in canvases)], self.canvas)

    @classmethod
    def _of(cls, files: Sequence[bytes], canvas: tuple[int, int, int]) -> Self:
        ends = np.cumsum([len(file) for file in files], dtype=np.int64)
        return cls(np.frombuffer(b"".join(files), dtype=np.uint8), ends, canvas)

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild from :meth:`state`.

        Raises:
            BundleError: An array is missing, or they do not fit together.
        """
        try:
            height, width, channels = (int(side) for side in np.array(state["exemplar_canvas"]))
            files, ends = np.array(state["exemplars"], np.uint8), np.array(state["exemplar_ends"], np.int64)
            sane = max(height, width) <= LONGEST_SIDE and min(height, width) >= STRIDE and channels in (1, 3)
            if (
                not sane
                or ends.ndim != 1
                or not (np.diff(ends, prepend=0) > 0).all()
                or ends[-1:] > len(files)
            ):
                raise ValueError(
                    f"{len(ends)} files in {len(files)} bytes, of {height} x {width} x {channels}"
                )
            return cls(files, ends, (height, width, channels))
        except (KeyError, ValueError) as error:
            raise BundleError(f"the model's exemplars do not fit ({error}); use the original file") from None

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        return {
            "exemplars": self.files,
            "exemplar_ends": self.ends,
            "exemplar_canvas": np.array(self.canvas, np.int64),
        }

    def canvases(self) -> list[NDArray[np.uint8]]:
        """All of them in the canvas size, ``uint8 [H, W, C]`` each."""
        size = (self.canvas[1], self.canvas[0])
        return [
            np.asarray(cv2.resize(self._decoded(number), size), np.uint8).reshape(self.canvas)
            for number in range(len(self.ends))
        ]

    def shown(
        self, patches: NDArray[np.int64], places: NDArray[np.int64], origins: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """A canvas picture of what a memory's patches look like.

        Args:
            patches: ``int64 [h * w]``, the patch for each cell.
            places: ``int64 [h * w]``, the place it was found at.
            origins: ``int64 [K, 2]``, the exemplar of each patch, and its cell there (-1: the place itself).

        Raises:
            BundleError: A patch comes from an exemplar, or a place in it, that there is not.
        """
        size = (self.canvas[0] // STRIDE, self.canvas[1] // STRIDE)
        if origins.ndim != 2 or origins.shape[1] != 2 or len(origins) <= patches.max():
            raise BundleError("the origins of the model's patches do not fit; use the original file")
        chosen = origins[patches]
        cells = np.where(chosen[:, 1] < 0, places, chosen[:, 1])
        if chosen[:, 0].min() < 0 or chosen[:, 0].max() >= len(self.ends) or cells.max() >= size[0] * size[1]:
            raise BundleError("the origins of the model's patches do not fit; use the original file")
        return self.compose(chosen[:, 0].reshape(size), cells.reshape(size))

    def compose(self, pictures: NDArray[np.int64], cells: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Assemble a canvas picture from patches of the exemplars.

        Each patch reaches one cell over its own and the overlaps are averaged, so that seams do not show.

        Args:
            pictures: ``int64 [h, w]``, which exemplar each cell is taken from.
            cells: ``int64 [h, w]``, which of its cells, row by row.

        Returns:
            ``uint8 [H, W, C]`` of the canvas size.
        """
        tiles = self._tiles  # [K, h, w, cell, cell, C]
        rows, columns = np.divmod(cells, tiles.shape[2])
        height, width = cells.shape
        total = np.zeros((height, width, *tiles.shape[3:]), np.float32)
        weights = np.zeros((height, width, 1, 1, 1), np.float32)
        for dy, dx in np.ndindex(3, 3):
            weight = (1, 2, 1)[dy] * (1, 2, 1)[dx]
            # The cell at (y + dy - 1, x + dx - 1) is shown by the neighbour of the patch chosen for (y, x).
            to_y, to_x = _overlap(height, dy - 1), _overlap(width, dx - 1)
            from_y, from_x = _overlap(height, 1 - dy), _overlap(width, 1 - dx)
            source_y = np.clip(rows[from_y, from_x] + dy - 1, 0, tiles.shape[1] - 1)
            source_x = np.clip(columns[from_y, from_x] + dx - 1, 0, tiles.shape[2] - 1)
            total[to_y, to_x] += np.float32(weight) * tiles[pictures[from_y, from_x], source_y, source_x]
            weights[to_y, to_x] += weight
        blended = np.rint(total / weights).astype(np.uint8)
        cell, channels = tiles.shape[3], tiles.shape[5]
        reduced = blended.transpose(0, 2, 1, 3, 4).reshape(height * cell, width * cell, channels)
        size = (self.canvas[1], self.canvas[0])
        return np.asarray(cv2.resize(reduced, size, interpolation=cv2.INTER_LINEAR), np.uint8).reshape(
            self.canvas
        )

    @cached_property
    def _tiles(self) -> NDArray[np.uint8]:
        cell = _cell(self.canvas, len(self.ends))
        height, width = self.canvas[0] // STRIDE, self.canvas[1] // STRIDE
        tiles = np.empty((len(self.ends), height, width, cell, cell, self.canvas[2]), np.uint8)
        for number in range(len(self.ends)):
            decoded = self._decoded(number)
            if decoded.shape != (height * cell, width * cell, self.canvas[2]):
                raise BundleError("an exemplar of the model is damaged; use the original file")
            picture = decoded.reshape(height, cell, width, cell, self.canvas[2])
            tiles[number] = picture.transpose(0, 2, 1, 3, 4)
        return tiles

    def _file(self, number: int) -> NDArray[np.uint8]:
        return self.files[self.ends[number - 1] if number else 0 : self.ends[number]]

    def _decoded(self, number: int) -> NDArray[np.uint8]:
        flag = cv2.IMREAD_GRAYSCALE if self.canvas[2] == 1 else cv2.IMREAD_COLOR
        decoded = cv2.imdecode(self._file(number), flag)
        if decoded is None:
            raise BundleError("an exemplar of the model is damaged; use the original file")
        return np.ascontiguousarray(decoded.reshape(*decoded.shape[:2], -1)[:, :, ::-1], np.uint8)


def _reduced(picture: NDArray[np.uint8], canvas: tuple[int, int, int], count: int) -> bytes:
    """A picture of the canvas as one of ``count`` JPEG files."""
    cell = _cell(canvas, count)
    size = (canvas[1] // STRIDE * cell, canvas[0] // STRIDE * cell)
    reduced = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    _, file = cv2.imencode(".jpg", reduced[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return file.tobytes()


def _cell(canvas: tuple[int, int, int], count: int) -> int:
    """Side of a grid cell in exemplar pixels, a power of two."""
    cell = STRIDE
    while cell > 1 and count * int(np.prod(canvas)) * (cell / STRIDE) ** 2 > _LARGEST:
        cell //= 2
    return cell


def _overlap(length: int, shift: int) -> slice:
    """Indices that stay inside after moving by ``-shift``, at their place after moving by it."""
    return slice(max(0, shift), length + min(0, shift))
