"""The EfficientNet-Lite family (Tan & Le, ICML 2019; the Lite variants of 2020) as a table, up to stride 16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STRIDES = (4, 8, 16)


@dataclass(frozen=True, slots=True)
class Variant:
    """One member of the family: blocks as (kernel, stride, expansion, channels), and its weights."""

    widths: tuple[int, int, int, int, int]
    repeats: tuple[int, int, int, int, int]
    file: str
    sha256: str

    def blocks(self) -> list[tuple[int, int, int, int]]:
        """All blocks up to stride 16, in order."""
        stages = zip(
            (3, 3, 5, 3, 5), (1, 2, 2, 2, 1), (1, 6, 6, 6, 6), self.widths, self.repeats, strict=True
        )
        return [
            (kernel, stride if first else 1, expansion, width)
            for kernel, stride, expansion, width, repeats in stages
            for first in [True] + [False] * (repeats - 1)
        ]

    def taps(self) -> list[int]:
        """Numbers of the last blocks at each of :data:`STRIDES`."""
        strides = np.cumprod([2, *(stride for _, stride, _, _ in self.blocks())])[1:]
        return [int(np.flatnonzero(strides == stride)[-1]) for stride in STRIDES]


VARIANTS = {
    "lite0": Variant(
        (16, 24, 40, 80, 112),
        (1, 2, 2, 3, 3),
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": Variant(
        (16, 24, 40, 80, 112),
        (1, 3, 3, 4, 4),
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": Variant(
        (16, 24, 48, 88, 120),
        (1, 3, 3, 4, 4),
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
