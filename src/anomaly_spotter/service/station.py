"""The parts of one running station, put together; what the REST API and the pages call."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from anomaly_spotter.errors import ConfigError
from anomaly_spotter.files import clear_parts
from anomaly_spotter.service.accounts import Accounts
from anomaly_spotter.service.audit import AuditLog
from anomaly_spotter.service.database import Database
from anomaly_spotter.service.datasets import Datasets
from anomaly_spotter.service.disk import Disk
from anomaly_spotter.service.drifting import DriftMonitor
from anomaly_spotter.service.history import History
from anomaly_spotter.service.inspecting import Inspector
from anomaly_spotter.service.jobs import Jobs
from anomaly_spotter.service.monitoring import Monitor
from anomaly_spotter.service.pictures import PictureStore
from anomaly_spotter.service.registry import Registry
from anomaly_spotter.service.retention import Retention
from anomaly_spotter.service.spool import Spool

if TYPE_CHECKING:
    from anomaly_spotter.service.settings import StationSettings


class Station:
    """Everything behind the addresses.

    Attributes:
        settings: What it was started with.
        database: Connections.
        models: The model files.
        pictures: The files of pictures.
        spool: Inspections that wait for the database.
        monitor: Counters.
        inspector: Inspects.
        history: What was inspected.
        accounts: Users and keys.
        audit: Who changed what.
        retention: Removes old pictures.
        datasets: Pictures to train from.
        jobs: Training and recalibration.
        drift: Whether calibrations hold.
        is_closing: Whether whoever waits for news should go.
        csrf: The token of browsers while the station is open.
    """

    def __init__(self, settings: StationSettings) -> None:
        self.settings = settings
        clear_parts(settings.data)  # of a station that was killed
        self.database = Database(settings.database_url)
        self.models = Registry(settings)
        disk = Disk(settings.data, settings.limits.free_bytes)
        self.pictures = PictureStore(settings.data / "pictures", disk)
        self.spool = Spool(self.database, settings.data / "spool")
        self.monitor = Monitor(self.database, self.models, settings.recent)
        self.monitor.watch(
            "anomaly_spotter_waiting_inspections",
            "Inspections on disk until the database is back.",
            self.spool.__len__,
        )
        self.monitor.watch(
            "anomaly_spotter_picture_room_bytes",
            "Disk space that pictures may still take; below zero nothing is inspected.",
            disk.room,
        )
        self.inspector = Inspector(
            self.models, self.pictures, self.database, self.spool, self.monitor, settings.limits
        )
        self.history = History(self.database, self.spool)
        self.accounts = Accounts(self.database)
        self.audit = AuditLog(self.database)
        self.retention = Retention(settings, self.database, self.pictures, self.audit)
        self.datasets = Datasets(settings)
        self.jobs = Jobs(settings, self.models, self.datasets, self.history, self.pictures, self.audit)
        self.drift = DriftMonitor(self.database, self.models, self.jobs)
        self.monitor.collect(self.drift)
        self.is_closing = False
        self.csrf = secrets.token_urlsafe(32)
        if not settings.is_loopback and not self.accounts.exist():
            self.close()
            raise ConfigError(
                f"{settings.host} can be reached from other machines, and nobody has credentials; "
                "make some by 'anomaly-spotter access add-key' or 'add-user', or leave --host out"
            )

    def is_open(self) -> bool:
        """Whether whoever sits at this machine may do everything: no credentials, and no way in from elsewhere."""
        return self.settings.is_loopback and not self.accounts.exist()

    def close(self) -> None:
        """Stop what runs in the background and close the connections."""
        self.is_closing = True
        self.jobs.close()
        self.retention.close()
        self.spool.close()
        self.database.close()
