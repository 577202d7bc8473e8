"""Inspect pictures that were sent: decode, decide, keep the evidence, keep the record; safe to repeat by a key."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from anomaly_spotter.errors import PictureError, SpotterError
from anomaly_spotter.service.database import DatabaseAwayError, inspections, new_id
from anomaly_spotter.service.detectors import Detector, Wish
from anomaly_spotter.service.pictures import heat_file, mask_file
from anomaly_spotter.service.records import Record
from anomaly_spotter.views.files import encode_picture
from anomaly_spotter.views.terminal import inspection_to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anomaly_spotter.inputs.decode import Picture
    from anomaly_spotter.scoring.inspection import Inspection
    from anomaly_spotter.service.database import Database
    from anomaly_spotter.service.monitoring import Monitor
    from anomaly_spotter.service.pictures import PictureStore
    from anomaly_spotter.service.registry import Registry
    from anomaly_spotter.service.settings import Limits
    from anomaly_spotter.service.spool import Spool


class BusyError(SpotterError):
    """More inspections are in progress than the station takes."""


class KeyReusedError(SpotterError):
    """An idempotency key came again with other pictures."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture file as it was sent."""

    name: str | None
    data: bytes


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked about the pictures of one request.

    Attributes:
        by: Who asks.
        model: Name of a model; the active one if not given.
        product: What the pictures show, where the model holds several products.
        threshold: Decision limit instead of the calibrated one.
        explain: Also keep the normal look of the part.
        idempotency: A key under which the request may be repeated and still counts once.
    """

    by: str
    model: str | None = None
    product: str | None = None
    threshold: float | None = None
    explain: bool = False
    idempotency: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A picture that cannot be read.

    Attributes:
        file: Its name as it was sent.
        error: Why, and how to mend it.
    """

    file: str | None
    error: str


class Inspector:
    """Inspects for any number of threads at once."""

    def __init__(
        self,
        registry: Registry,
        pictures: PictureStore,
        database: Database,
        spool: Spool,
        monitor: Monitor,
        limits: Limits,
    ) -> None:
        self._registry, self._pictures = registry, pictures
        self._database, self._spool, self._monitor, self._limits = database, spool, monitor, limits
        self._places = threading.BoundedSemaphore(limits.waiting)
        self._running: set[str] = set()
        self._finished = threading.Condition()

    def inspect(self, uploads: Sequence[Upload], order: Order) -> list[Record | Refused]:
        """Inspect the pictures of one request and keep the answers, in the order given.

        Repeated under the same idempotency key, pictures that were answered before get the same answer.

        Raises:
            UnknownModelError: There is no such model.
            BusyError: Too many inspections are in progress.
            KeyReusedError: The key stood for other pictures.
            SpotterError: The model does not know the product, or the answers cannot be kept.
        """
        with self._place():
            if order.idempotency is None:
                return self._answers(uploads, order, None, {})
            key = hashlib.sha256(f"{order.by}\0{order.idempotency}".encode()).hexdigest()
            with self._alone(key):
                return self._answers(uploads, order, key, self._known(key))

    def look(self, uploads: Sequence[Upload], order: Order) -> list[Inspection | Refused]:
        """Inspect without keeping anything, for example to compare models.

        Raises:
            UnknownModelError: There is no such model.
            BusyError: Too many inspections are in progress.
            SpotterError: The model does not know the product.
        """
        with self._place():
            detector = self._registry.detector(order.model)
            decoded = [self._decoded(detector, upload) for upload in uploads]
            looks = [each for each in decoded if not isinstance(each, Refused)]
            found = iter(detector.inspect(looks, _wish(order)))
            return [each if isinstance(each, Refused) else next(found) for each in decoded]

    def again(self, records: Sequence[Record], model: str) -> list[Inspection | Refused]:
        """Let a model inspect kept pictures anew, without keeping what it says.

        Raises:
            UnknownModelError: There is no such model.
            BusyError: Too many inspections are in progress.
            PictureGoneError: One of the pictures is no longer kept.
        """
        uploads = [Upload(record.file, self._pictures.get(record.picture)) for record in records]
        return self.look(uploads, Order("", model))

    def _answers(
        self, uploads: Sequence[Upload], order: Order, key: str | None, known: Mapping[int, Record]
    ) -> list[Record | Refused]:
        for position, record in known.items():
            same = position < len(uploads) and _digest(uploads[position].data) == record.picture
            if not same:
                raise KeyReusedError(
                    "this Idempotency-Key stood for other pictures; use a new key for new pictures"
                )
        if len(known) == len(uploads):
            return [known[position] for position in range(len(uploads))]
        detector = self._registry.detector(order.model)
        detector.require(order.product)
        started = time.perf_counter()
        decoded: list[Mapping[int, Picture] | Refused | Record] = [
            known[position] if position in known else self._decoded(detector, upload)
            for position, upload in enumerate(uploads)
        ]
        looks = [each for each in decoded if not isinstance(each, Refused | Record)]
        found = iter(detector.inspect(looks, _wish(order)) if looks else [])
        taken = 1e3 * (time.perf_counter() - started) / max(1, len(looks))
        answers: list[Record | Refused] = []
        fresh: list[Record] = []
        for position, (upload, each) in enumerate(zip(uploads, decoded, strict=True)):
            if isinstance(each, Refused | Record):
                answers.append(each)
                continue
            record = self._record(upload, next(found), detector, order, taken, key, position)
            fresh.append(record)
            answers.append(record)
        try:
            if fresh:
                self._spool.write(fresh)
        except IntegrityError:  # another station on this database was faster
            return self._answers(uploads, order, key, self._known(key or ""))
        for record in fresh:
            self._monitor.count(record)
        return answers

    def _decoded(self, detector: Detector, upload: Upload) -> dict[int, Picture] | Refused:
        name = upload.name or "picture"
        if len(upload.data) > self._limits.picture_bytes:
            return Refused(
                upload.name,
                f"{name}: {len(upload.data)} bytes exceed the limit of {self._limits.picture_bytes}; make it smaller",
            )
        try:
            return detector.decode(upload.data, name, self._limits.picture_pixels)
        except PictureError as error:
            return Refused(upload.name, str(error))

    def _record(
        self,
        upload: Upload,
        found: Inspection,
        detector: Detector,
        order: Order,
        milliseconds: float,
        key: str | None,
        position: int,
    ) -> Record:
        """Keep the evidence; the record itself is written by the caller, after it."""
        mask = mask_file(found)
        values = inspection_to_dict(found)
        return Record(
            id=new_id(),
            at=round(time.time(), 6),  # what the API shows can be asked for again
            model=detector.name,
            bundle=detector.identity,
            product=found.product,
            verdict=found.verdict.value,
            score=values["score"],
            threshold=found.threshold,
            p_value=found.p_value,
            reason=found.reason,
            regions=values["regions"],
            notes=values["notes"],
            file=upload.name,
            width=found.picture.shape[1],
            height=found.picture.shape[0],
            low=found.display_range[0],
            high=found.display_range[1],
            picture=self._pictures.put(upload.data),
            heat=self._pictures.put(heat_file(found)),
            mask=None if mask is None else self._pictures.put(mask),
            normal=None if found.normal is None else self._pictures.put(encode_picture(found.normal)),
            condition=None if found.condition is None else found.condition.to_dict(),
            milliseconds=round(milliseconds, 3),
            by=order.by,
            idempotency=key,
            position=None if key is None else position,
        )

    def _known(self, key: str) -> dict[int, Record]:
        """The answers that were given under a key; while the database is away, those that wait on disk."""
        rows = list(self._spool.find(key))
        try:
            with self._database.read() as connection:
                query = select(inspections).where(inspections.c.idempotency == key)
                rows += [Record.from_row(row) for row in connection.execute(query).mappings()]
        except DatabaseAwayError:
            pass
        return {record.position: record for record in rows if record.position is not None}

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            self._monitor.refused()
            raise BusyError(
                f"{self._limits.waiting} inspections are in progress, as many as this station takes; try again soon"
            )
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Let a request wait while another one with its key runs."""
        with self._finished:
            self._finished.wait_for(lambda: key not in self._running)
            self._running.add(key)
        try:
            yield
        finally:
            with self._finished:
                self._running.discard(key)
                self._finished.notify_all()


def _wish(order: Order) -> Wish:
    return Wish(order.product, order.threshold, order.explain)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
