"""A model in memory, shared by all requests: pictures that wait at the same time go through it together.

The engines are not called by two threads at once. Whoever comes first takes the model's lock and inspects what is
waiting, a few pictures per call, for itself and the others (micro-batching without a thread of its own).
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.inputs.decode import decode_bytes
from anomaly_spotter.products import ProductSpotter, load
from anomaly_spotter.runtime import fastest_installed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anomaly_spotter.inputs.decode import Picture
    from anomaly_spotter.scoring.inspection import Inspection
    from anomaly_spotter.spotter import Spotter

_BATCH = 8


class UnknownProductError(SpotterError):
    """A model does not know a product."""


class Wish(NamedTuple):
    """How a picture is to be inspected; see :meth:`anomaly_spotter.Spotter.inspect`."""

    product: str | None = None
    threshold: float | None = None
    explain: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    looks: Mapping[int, Picture]
    wish: Wish
    answer: Future[Inspection] = field(default_factory=Future)


class Detector:
    """A loaded model.

    Attributes:
        name: Name of its file without the suffix.
        identity: SHA-256 (hex) of what decides.
        products: What it tells apart; empty for one detector.
    """

    def __init__(self, name: str, path: Path, engine: str | None) -> None:
        self.name = name
        self.model: Spotter | ProductSpotter = load(path, engine=engine or fastest_installed())
        self.identity = self.model.identity
        several = isinstance(self.model, ProductSpotter)
        self.products = self.model.products if isinstance(self.model, ProductSpotter) else ()
        self._spotters = (
            list(self.model.spotters.values()) if isinstance(self.model, ProductSpotter) else [self.model]
        )
        self._whites = sorted({spotter.preprocessor.white_level for spotter in self._spotters})
        self._category = None if several else str(self._spotters[0].provenance.get("category"))
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()

    def spotter(self, product: str | None) -> Spotter:
        """The detector of a product, or the only one.

        Raises:
            SpotterError: There is no such product, or there are several and none is named.
        """
        self.require(product)
        if isinstance(self.model, ProductSpotter):
            if product is None:
                raise SpotterError(
                    f"the model {self.name} holds several products; name one of {', '.join(self.products)}"
                )
            return self.model.detector(product)
        return self.model

    def require(self, product: str | None) -> None:
        """See that the model knows a product.

        Raises:
            UnknownProductError: It does not.
        """
        known = self.products or (self._category,)
        if product is not None and product not in known:
            raise UnknownProductError(
                f"no product '{product}' in the model {self.name}; it knows {', '.join(map(str, known))}"
            )

    def decode(self, data: bytes, name: str, most_pixels: int) -> dict[int, Picture]:
        """A picture file as the detectors see it, by white level.

        Raises:
            PictureError: It is no picture, damaged, or too large.
        """
        return {
            white: decode_bytes(data, name=name, white_level=white, max_pixels=most_pixels)
            for white in self._whites
        }

    def inspect(self, looks: Sequence[Mapping[int, Picture]], wish: Wish) -> list[Inspection]:
        """Decide about decoded pictures, in the order given; safe from any number of threads.

        Raises:
            SpotterError: The model does not know the product, or it is broken.
        """
        self.require(wish.product)
        own = [_Waiting(look, wish) for look in looks]
        self._queue.extend(own)
        while not all(waiting.answer.done() for waiting in own):
            with self._lock:
                if not own[-1].answer.done():
                    self._serve()
        return [waiting.answer.result() for waiting in own]

    def _serve(self) -> None:
        """Answer the pictures that have waited longest, a few that want the same together."""
        batch = [self._queue.popleft()]
        while len(batch) < _BATCH and self._queue and self._queue[0].wish == batch[0].wish:
            batch.append(self._queue.popleft())
        self._answer(batch)

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            found = self._decide([waiting.looks for waiting in batch], batch[0].wish)
        except Exception as error:  # noqa: BLE001  the caller raises it
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:  # one of them is to blame, the others get their answers
                for waiting in batch:
                    self._answer([waiting])
            return
        for waiting, inspection in zip(batch, found, strict=True):
            waiting.answer.set_result(inspection)

    def _decide(self, looks: Sequence[Mapping[int, Picture]], wish: Wish) -> list[Inspection]:
        if isinstance(self.model, ProductSpotter):
            return [
                self.model.inspect_decoded(look, wish.product, threshold=wish.threshold, explain=wish.explain)
                for look in looks
            ]
        pictures = [look[self._whites[0]] for look in looks]
        return list(self.model.inspect_decoded(pictures, threshold=wish.threshold, explain=wish.explain))
