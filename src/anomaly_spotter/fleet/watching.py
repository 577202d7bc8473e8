"""A folder that a camera drops pictures into: each is inspected once, when it is complete, across restarts.

What is done is known from the results themselves: a picture whose result file names its size and time of change is not
taken again. The result file is written last and atomically, so a pulled plug costs at most the picture at hand, which is
then inspected again. Nothing in the watched folder is moved or changed.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlparse

from anomaly_spotter.errors import ConfigError, PictureError, SpotterError
from anomaly_spotter.extras import needed
from anomaly_spotter.files import write_json
from anomaly_spotter.inputs.layouts.dataset import list_pictures
from anomaly_spotter.scoring.inspection import Verdict
from anomaly_spotter.views.files import write_picture
from anomaly_spotter.views.overlay import mask_picture, overlay
from anomaly_spotter.views.terminal import inspection_to_dict

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from anomaly_spotter.scoring.inspection import Inspection

    Inspect = Callable[[Sequence[Path]], Iterator[tuple[Any, Inspection | PictureError]]]

UNREADABLE = "UNREADABLE"
_RESULT = ".json"
_ATTEMPTS, _PAUSE = 3, 0.5  # of a message, and seconds between them
_TIMEOUT = 5.0


class _Stamp(NamedTuple):
    """How a file looked: the same twice means that nobody is writing any more."""

    size: int
    changed: int


class Messenger(Protocol):
    """Tells another system about each verdict."""

    def send(self, message: dict[str, Any]) -> None:
        """Deliver one message.

        Raises:
            OSError: It could not be delivered.
        """
        ...


@dataclass
class Watch:
    """Watching one folder.

    Attributes:
        inspect: Inspects files in order.
        folder: Where pictures arrive; folders in it count too.
        out: Where results go, as ``NAME.json``, and ``NAME_overlay.png`` and ``NAME_mask.png`` for a DEFECT.
        settle: Seconds a file must have stayed as it is before it counts as complete.
        patience: Seconds after which a complete file that cannot be read is reported as unreadable.
        messengers: Told about each result.
        counts: Results since the start, by verdict.
    """

    inspect: Inspect
    folder: Path
    out: Path
    settle: float = 0.5
    patience: float = 10.0
    messengers: Sequence[Messenger] = ()
    counts: Counter[str] = field(default_factory=Counter)
    _done: dict[str, _Stamp] = field(default_factory=dict)
    _seen: dict[Path, tuple[_Stamp, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise SpotterError(f"{self.folder} is no folder; name the one the camera writes to")
        if self.out.resolve().is_relative_to(self.folder.resolve()):
            raise SpotterError(f"{self.out} lies in the watched folder; results must go elsewhere")
        self._done = dict(_finished(self.out))

    def run(
        self,
        report: Callable[[dict[str, Any]], None],
        stop: threading.Event,
        *,
        interval: float = 0.2,
        once: bool = False,
    ) -> None:
        """Inspect what is and what comes, until ``stop`` is set, or until nothing is left if ``once``.

        Args:
            report: Given each result, as in its file.
            stop: Ends the watch between two pictures.
            interval: Seconds between two looks at the folder.
            once: Return as soon as every file that is there is done.

        Raises:
            SpotterError: A result cannot be written.
        """
        while not stop.is_set():
            waiting, ready = self._look()
            for path in ready:
                if stop.is_set():
                    return
                result = self._inspected(path)
                if result is not None:
                    report(result)
                else:
                    waiting += 1
            if once and not waiting:
                return
            stop.wait(interval)

    def _look(self) -> tuple[int, list[Path]]:
        """How many new files are still being written, and those that are complete."""
        now, ready, waiting = time.monotonic(), [], 0
        seen: dict[Path, tuple[_Stamp, float]] = {}
        for path in list_pictures(self.folder):
            stamp = _stamp(path)
            if stamp is None or self._done.get(self._name(path)) == stamp:
                continue
            before, since = self._seen.get(path, (None, now))
            seen[path] = (stamp, since if before == stamp else now)
            if now - seen[path][1] >= self.settle and stamp.size > 0:
                ready.append(path)
            else:
                waiting += 1
        self._seen = seen
        return waiting, sorted(ready, key=lambda path: (seen[path][0].changed, path))

    def _inspected(self, path: Path) -> dict[str, Any] | None:
        """The result of a file; ``None`` while it cannot be read but may yet become readable."""
        stamp, since = self._seen[path]
        ((_, found),) = self.inspect([path])
        if isinstance(found, PictureError):
            if time.monotonic() - since < self.patience:
                return None
            result: dict[str, Any] = {"path": str(path), "verdict": UNREADABLE, "error": str(found)}
        else:
            result = inspection_to_dict(found)
            self._draw(path, found)
        result["file"] = {"size": stamp.size, "changed_ns": stamp.changed}
        result["undelivered"] = [
            reason for messenger in self.messengers if (reason := _delivered(messenger, result))
        ]
        write_json(self.out / f"{self._name(path)}{_RESULT}", result)
        self._done[self._name(path)] = stamp
        self.counts[str(result["verdict"])] += 1
        return result

    def _draw(self, path: Path, found: Inspection) -> None:
        if found.verdict is Verdict.DEFECT:
            name = self._name(path)
            write_picture(self.out / f"{name}_overlay.png", overlay(found))
            if found.mask.any():
                write_picture(self.out / f"{name}_mask.png", mask_picture(found))

    def _name(self, path: Path) -> str:
        """Of the results: the picture's path below the folder, its suffix included, so that a.png and a.jpg differ."""
        return path.relative_to(self.folder).as_posix()


class Webhook:
    """POSTs each result as JSON."""

    def __init__(self, url: str) -> None:
        if urlparse(url).scheme not in ("http", "https"):
            raise ConfigError(f"a webhook needs an address with http:// or https://, not {url}")
        self._url = url

    def send(self, message: dict[str, Any]) -> None:
        """See :class:`Messenger`."""
        request = urllib.request.Request(  # noqa: S310  the scheme is checked above
            self._url, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310
            pass


class Mqtt:
    """Publishes each result as JSON, at least once (quality of service 1)."""

    def __init__(self, address: str) -> None:
        parts = urlparse(address)
        topic = parts.path.strip("/")
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic:
            raise ConfigError(f"MQTT needs mqtt://HOST[:PORT]/TOPIC (or mqtts://), not {address}")
        with needed("mqtt", "MQTT needs paho-mqtt", "paho"):
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        self._topic = topic
        self._client = Client(CallbackAPIVersion.VERSION2)
        if parts.username:
            self._client.username_pw_set(parts.username, parts.password)
        if parts.scheme == "mqtts":
            self._client.tls_set()
        try:
            self._client.connect(parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883))
        except OSError as error:
            raise SpotterError(
                f"no MQTT broker at {parts.hostname}: {error}; start it or leave --mqtt out"
            ) from None
        self._client.loop_start()

    def send(self, message: dict[str, Any]) -> None:
        """See :class:`Messenger`."""
        published = self._client.publish(self._topic, json.dumps(message), qos=1)
        try:
            published.wait_for_publish(_TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise OSError(str(error)) from None
        if not published.is_published():
            raise OSError("the broker did not confirm")


def _delivered(messenger: Messenger, message: dict[str, Any]) -> str | None:
    """``None``, or why a message could not be delivered after several attempts; inspection goes on either way."""
    reason = ""
    for attempt in range(_ATTEMPTS):
        try:
            messenger.send(message)
        except (OSError, urllib.error.URLError) as error:
            reason = f"{type(messenger).__name__}: {error}"
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE)
        else:
            return None
    return reason


def _finished(out: Path) -> Iterator[tuple[str, _Stamp]]:
    """The pictures with a result, by name."""
    for path in sorted(out.rglob(f"*{_RESULT}")) if out.is_dir() else ():
        try:
            file = json.loads(path.read_text(encoding="utf-8"))["file"]
            stamp = _Stamp(int(file["size"]), int(file["changed_ns"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not one of ours
        yield path.relative_to(out).as_posix().removesuffix(_RESULT), stamp


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:  # gone, or not ours to see
        return None
    return _Stamp(found.st_size, found.st_mtime_ns)
