"""TensorBoard's event files: curves, final numbers, settings as text and figures as images, as they become known.

The records are written here and not by TensorBoard's own writer, which loads all of TensorFlow where it is installed.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomaly_spotter.errors import MissingExtraError, SpotterError
from anomaly_spotter.tracking.journal import RUNNING

if TYPE_CHECKING:
    from collections.abc import Mapping

_STRING = 7  # TensorFlow's DT_STRING
_VERSION = "brain.Event:2"  # the first record of every event file


class TensorBoardSink:
    """One run's event file, ``folder/events.out.tfevents.*``; a :class:`~anomaly_spotter.tracking.sinks.Sink`.

    Raises:
        MissingExtraError: TensorBoard is not installed.
        SpotterError: The file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._event: Any = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
            self._summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
            self._text: Any = importlib.import_module("tensorboard.plugins.text.metadata")
            records: Any = importlib.import_module("tensorboard.summary.writer.record_writer")
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in ("tensorboard", "google"):
                raise
            raise MissingExtraError(
                "TensorBoard files need TensorBoard: pip install 'anomaly-spotter[track]'"
            ) from None
        name = f"events.out.tfevents.{time.time_ns() // 1_000_000_000}.{socket.gethostname()}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / name).open("ab")
        except OSError as error:
            raise SpotterError(
                f"cannot write {folder / name}: {error.strerror}; choose another folder"
            ) from None
        self._lock = threading.Lock()  # the run and its follower both write
        self._records = records.RecordWriter(self._file)
        self._write(self._event(file_version=_VERSION))

    def parameters(self, values: Mapping[str, str]) -> None:
        """As a table."""
        self._write_text("parameters", values)

    def tags(self, values: Mapping[str, str]) -> None:
        """As a table."""
        self._write_text("origin", values)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """As scalars."""
        summary = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(self._event(step=step, summary=self._summary(value=summary)))

    def files(self, files: Mapping[str, Path | str], folder: str = "") -> None:
        """Pictures as images; other files have no place here."""
        for name, file in files.items():
            if isinstance(file, Path) and file.suffix.lower() == ".png":
                self._write_image(f"{folder}/{Path(name).stem}".strip("/"), file.read_bytes())

    def model(self, bundle: Path, tags: Mapping[str, str], register: str | None, champion: str) -> None:
        """Models have no place here."""

    def status(self, status: str) -> None:
        """The file ends with the run."""
        if status != RUNNING:
            self._file.close()

    def _write_image(self, tag: str, png: bytes) -> None:
        pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            return
        height, width = pixels.shape[:2]
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._write(self._event(summary=self._summary(value=[self._summary.Value(tag=tag, image=image)])))

    def _write_text(self, tag: str, values: Mapping[str, str]) -> None:
        rows = "".join(f"| {name} | {value} |\n" for name, value in values.items())
        value = self._summary.Value(tag=tag, metadata=self._text.create_summary_metadata(None, None))
        value.tensor.dtype = _STRING
        value.tensor.string_val.append(f"| name | value |\n|---|---|\n{rows}".encode())
        self._write(self._event(summary=self._summary(value=[value])))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        with self._lock:
            self._records.write(event.SerializeToString())
            self._file.flush()
