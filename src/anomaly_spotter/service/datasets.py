"""Pictures to train from: uploaded ones, kept in folders of their own, and folders that lie on the server.

An archive is looked through before anything is unpacked: how many files, how large, how densely packed, and where each
would go. Only pictures are taken out of it, under names of their own, whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from anomaly_spotter.errors import DatasetError, SpotterError
from anomaly_spotter.files import safe_name, write_json
from anomaly_spotter.inputs.decode import PICTURE_SUFFIXES
from anomaly_spotter.inputs.layouts import find_categories, load_dataset
from anomaly_spotter.service.database import new_id
from anomaly_spotter.service.disk import Disk
from anomaly_spotter.service.folders import Folders

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomaly_spotter.inputs.layouts import Dataset
    from anomaly_spotter.service.settings import StationSettings

_FILES, _META = "files", "dataset.json"
_CHUNK = 2**20
_ENCRYPTED = 0x1
_DRIVE = re.compile(r"[A-Za-z]:")


class UnknownDatasetError(SpotterError):
    """There is no data set, or no folder, of that name."""


class TooLargeError(SpotterError):
    """An upload, or what it would unpack to, is larger than the station takes."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """An uploaded data set.

    Attributes:
        id: Identifier.
        name: What it was called.
        by: Who uploaded it.
        created: When, in seconds since 1970 (UTC).
        pictures: How many.
        bytes: How large they are together.
        categories: Categories found in it; none where all pictures are good ones of one part.
    """

    id: str
    name: str
    by: str
    created: float
    pictures: int
    bytes: int
    categories: tuple[str, ...]


class Datasets:
    """Where training finds its pictures."""

    def __init__(self, settings: StationSettings) -> None:
        self._folders = Folders(settings.data / "datasets", _META, "data set", UnknownDatasetError)
        self._server, self._limits = settings.datasets, settings.limits
        self._disk = Disk(self._folders.root, settings.limits.free_bytes)
        for unfinished in self._folders.root.glob(".*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def add_archive(self, archive: Path, name: str, by: str) -> DatasetInfo:
        """Unpack the pictures of a zip file.

        Raises:
            DatasetError: It is no zip file, damaged, leads out of its folder, or holds no pictures.
            TooLargeError: It holds too many files, or would unpack to too much.
            StorageError: The disk would be too full.
        """
        try:
            with zipfile.ZipFile(archive) as packed:
                members = self._members(packed)
                return self._add(lambda folder: self._unpack(packed, members, folder), name, by)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DatasetError(
                f"the archive cannot be unpacked ({error}); send a zip file of pictures"
            ) from None

    def add_pictures(self, files: Sequence[tuple[str | None, IO[bytes]]], name: str, by: str) -> DatasetInfo:
        """Keep good pictures that were sent one by one, each with its name.

        Raises:
            DatasetError: There are none.
            StorageError: The disk would be too full.
        """
        total = sum(source.seek(0, os.SEEK_END) for _, source in files)
        self._disk.require(total, "the pictures are not kept; free some space")

        def write(folder: Path) -> None:
            for number, (sent, source) in enumerate(files):
                suffix = PurePosixPath(sent or "").suffix.lower()
                if suffix in PICTURE_SUFFIXES:
                    source.seek(0)
                    target = folder / f"{number:05}_{safe_name(PurePosixPath(sent or '').stem)[:100]}{suffix}"
                    with target.open("wb") as file:
                        shutil.copyfileobj(source, file)

        return self._add(write, name, by)

    def list(self) -> tuple[DatasetInfo, ...]:
        """All uploaded data sets, oldest first."""
        return tuple(_described(values) for _, values in self._folders.all())

    def get(self, identifier: str) -> DatasetInfo:
        """An uploaded data set.

        Raises:
            UnknownDatasetError: There is none.
        """
        return _described(self._folders.read(identifier))

    def delete(self, identifier: str) -> None:
        """Delete an uploaded data set; models that were trained from it stay.

        Raises:
            UnknownDatasetError: There is none.
        """
        self.get(identifier)
        shutil.rmtree(self._folders.path(identifier))

    def files(self, identifier: str) -> Path:
        """The folder with the pictures of an uploaded data set.

        Raises:
            UnknownDatasetError: There is none.
        """
        self.get(identifier)
        return self._folders.path(identifier) / _FILES

    def folders(self) -> tuple[str, ...]:
        """Folders on the server that training may read, relative to the one the station was started with."""
        if self._server is None or not self._server.is_dir():
            return ()
        root = self._server.resolve()
        below = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        deeper = [
            path
            for parent in below
            for path in sorted(parent.iterdir())
            if path.is_dir() and not path.name.startswith(".")
        ]
        return tuple(
            path.relative_to(root).as_posix()
            for path in sorted(below + deeper)
            if path.resolve().is_relative_to(root)
        )

    def folder(self, name: str) -> Path:
        """A folder on the server.

        Raises:
            UnknownDatasetError: It is not there, or not below the one the station was started with.
        """
        if self._server is None:
            raise UnknownDatasetError("this station reads no folders; start it with --datasets FOLDER")
        root = self._server.resolve()
        try:
            path = (root / name).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            path = None
        if path is None or not path.is_relative_to(root) or not path.is_dir():
            raise UnknownDatasetError(
                f"there is no folder '{name[:100]}' among those that this station reads"
            )
        return path

    def place(self, dataset: str | None, folder: str | None) -> Path:
        """Where the pictures of an uploaded data set, or of a folder on the server, are.

        Raises:
            UnknownDatasetError: There is none.
            DatasetError: Both are named, or neither.
        """
        if (dataset is None) == (folder is None):
            raise DatasetError("name a data set or a folder, one of them")
        return self.files(dataset) if dataset is not None else self.folder(folder or "")

    def audit(self, place: Path, category: str | None = None) -> dict[str, Any]:
        """What is wrong with pictures before anything is learned from them, as JSON-able values without full paths.

        Raises:
            DatasetError: There is no such category, or there are no pictures.
        """
        from anomaly_spotter.inputs.audit import audit

        found = audit(self.dataset(place, category))
        values = {**found.to_json(), "root": place.name, "warnings": list(found.warnings)}
        shown: dict[str, Any] = json.loads(without_folders(json.dumps(values), place))
        return shown

    def dataset(self, place: Path, category: str | None = None) -> Dataset:
        """The pictures as training sees them.

        Raises:
            DatasetError: There is no such category, or there are no pictures.
        """
        if category is not None and (safe_name(category) != category or category.startswith(".")):
            raise DatasetError(f"there is no category '{category[:60]}'")
        return load_dataset(place, category)

    def _add(self, write: Callable[[Path], object], name: str, by: str) -> DatasetInfo:
        identifier = new_id()
        part = self._folders.root / f".{identifier}"
        files = part / _FILES
        try:
            files.mkdir(parents=True)
            write(files)
            pictures = [path for path in files.rglob("*") if path.is_file()]
            if not pictures:
                raise DatasetError("no pictures; expected PNG, JPEG, BMP, TIFF or WebP files")
            made = DatasetInfo(
                identifier,
                name[:200],
                by,
                time.time(),
                len(pictures),
                sum(path.stat().st_size for path in pictures),
                tuple(find_categories(files)),
            )
            write_json(part / _META, asdict(made))
            part.rename(self._folders.path(identifier))
        except OSError as error:
            raise SpotterError(f"the pictures cannot be kept: {error.strerror}; free some space") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return made

    def _members(self, packed: zipfile.ZipFile) -> tuple[tuple[zipfile.ZipInfo, PurePosixPath], ...]:
        """The pictures of an archive, and where each goes, after every check that needs no unpacking."""
        limits, entries = self._limits, packed.infolist()
        if len(entries) > limits.dataset_files:
            raise TooLargeError(
                f"the archive holds {len(entries)} files, the limit is {limits.dataset_files}"
            )
        members: dict[PurePosixPath, zipfile.ZipInfo] = {}
        total = 0
        for entry in entries:
            target = _inside(entry)
            if target is None:
                continue
            if entry.file_size > limits.compression * max(1, entry.compress_size) + 4096:
                raise TooLargeError(
                    f"{entry.filename[:60]} unpacks to more than {limits.compression} times its size; pictures do not"
                )
            total += entry.file_size
            if total > limits.unpacked_bytes:
                raise TooLargeError(f"the archive unpacks to more than {limits.unpacked_bytes} bytes")
            if target in members:
                raise DatasetError(f"the archive holds {entry.filename[:60]} twice; pack it again")
            members[target] = entry
        self._disk.require(total, "the archive is not unpacked; free some space")
        return tuple((entry, target) for target, entry in members.items())

    def _unpack(
        self, packed: zipfile.ZipFile, members: Sequence[tuple[zipfile.ZipInfo, PurePosixPath]], folder: Path
    ) -> None:
        for entry, target in members:
            path = folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            left = entry.file_size
            with packed.open(entry) as source, path.open("xb") as file:
                while chunk := source.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise TooLargeError(f"{entry.filename[:60]} is larger than the archive says")
                    file.write(chunk)


def without_folders(text: str, *folders: Path) -> str:
    """JSON without where on the server the folders are; what is named in them stays."""
    for folder in folders:
        text = text.replace(json.dumps(f"{folder}{os.sep}")[1:-1], "")
    return text


def _described(values: dict[str, Any]) -> DatasetInfo:
    return DatasetInfo(**{**values, "categories": tuple(values["categories"])})


def _inside(entry: zipfile.ZipInfo) -> PurePosixPath | None:
    """Where a member goes below the data set's folder; ``None`` for one that is left out.

    Raises:
        DatasetError: It is a link, encrypted, or leads elsewhere.
    """
    name = entry.filename.replace("\\", "/")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or _DRIVE.match(name):
        raise DatasetError(
            f"the archive holds {entry.filename[:60]!r}, which leads out of its folder; pack it again"
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DatasetError(
            f"the archive holds the link {entry.filename[:60]!r}; pack the pictures themselves"
        )
    if entry.flag_bits & _ENCRYPTED:
        raise DatasetError("the archive is encrypted; pack it without a password")
    is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    if entry.is_dir() or is_hidden or PurePosixPath(name).suffix.lower() not in PICTURE_SUFFIXES:
        return None
    return PurePosixPath(*(safe_name(part)[:150] for part in parts[:-1]), safe_name(parts[-1])[-150:])
