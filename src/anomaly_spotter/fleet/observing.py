"""What someone who watches many categories being processed is told, for example a tracker; by default nobody watches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomaly_spotter.config import SpotterConfig
    from anomaly_spotter.spotter import Spotter


class Observed(Protocol):
    """One category's work."""

    def trained(self, spotter: Spotter, bundle: Path) -> None:
        """The detector was fitted and written."""

    def evaluated(self, result: Mapping[str, Any], report: Path) -> None:
        """It was measured: the evaluation JSON, and the folder of its report."""


Observe = Callable[[str, "SpotterConfig", Path, bool], AbstractContextManager[Observed]]
"""Called when the work on a category begins, with its name, its settings, the file where its epochs are written, and
whether it goes on with interrupted work; the context ends with the work, by an exception where it failed."""


class _Nobody:
    def trained(self, spotter: Spotter, bundle: Path) -> None:
        """Not told to anybody."""

    def evaluated(self, result: Mapping[str, Any], report: Path) -> None:
        """Not told to anybody."""


def unobserved(*_: object) -> AbstractContextManager[Observed]:
    """Nobody watches."""
    return nullcontext(_Nobody())
