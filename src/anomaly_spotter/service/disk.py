"""The disk below a station: whatever keeps files there leaves a reserve for the database and for what else is there."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from anomaly_spotter.errors import SpotterError

if TYPE_CHECKING:
    from pathlib import Path

_SHARE = 0.05  # of a disk is left free at most, however small it is


class StorageError(SpotterError):
    """The disk does not take what is to be kept."""


class Disk:
    """Room on the disk of a folder.

    Args:
        folder: Anything on that disk; it must be there.
        reserve: Bytes to leave free, or 5 % of the disk where that is less.
    """

    def __init__(self, folder: Path, reserve: int) -> None:
        self._folder, self._reserve = folder, reserve

    def room(self) -> int:
        """Bytes that may still be taken; negative where the disk is fuller than it should be."""
        disk = shutil.disk_usage(self._folder)
        return disk.free - min(self._reserve, int(disk.total * _SHARE))

    def require(self, size: int, consequence: str) -> None:
        """See that ``size`` bytes may be taken.

        Args:
            size: Bytes; 0 asks whether anything may be.
            consequence: What does not happen without, and what mends it.

        Raises:
            StorageError: The disk is nearly full, or would be.
        """
        room = self.room()
        if room < 0:
            raise StorageError(f"the disk is nearly full, so {consequence}")
        if size > room:
            raise StorageError(
                f"{size} bytes would leave too little of the disk, which may take {room} more, so {consequence}"
            )
