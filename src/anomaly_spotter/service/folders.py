"""Things that are a folder each, named by a time-ordered identifier, with a JSON file that says what they are."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anomaly_spotter.errors import SpotterError

ID = re.compile(r"[0-9a-f]{32}")


class Folders:
    """The folders of one kind of thing.

    Args:
        root: Where they are; made if it is missing.
        meta: Name of the JSON file in each.
        what: What each is called, for the error.
        unknown: Raised where there is none.
    """

    def __init__(self, root: Path, meta: str, what: str, unknown: type[SpotterError]) -> None:
        self.root, self._meta, self._what, self._unknown = root, meta, what, unknown
        root.mkdir(parents=True, exist_ok=True)

    def path(self, identifier: str) -> Path:
        """Where the folder is, or will be.

        Raises:
            SpotterError: The kind's own: that is no identifier.
        """
        if not ID.fullmatch(identifier):
            raise self._unknown(f"there is no {self._what} '{identifier[:40]}'")
        return self.root / identifier

    def read(self, identifier: str) -> dict[str, Any]:
        """What the JSON file says.

        Raises:
            SpotterError: The kind's own: there is none.
        """
        try:
            found: dict[str, Any] = json.loads(
                (self.path(identifier) / self._meta).read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            raise self._unknown(f"there is no {self._what} '{identifier[:40]}'") from None
        return found

    def all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Identifier and JSON of each, oldest first; what is not whole is left out."""
        for path in sorted(self.root.iterdir()):
            with contextlib.suppress(self._unknown):
                yield path.name, self.read(path.name)
