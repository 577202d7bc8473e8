"""What the operator of a station sets: folders, database, address and limits. Read once, at the edge."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

MEBIBYTE = 2**20
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Limits(BaseModel):
    """What one request may ask for; whatever is larger is refused before it is read or unpacked.

    Attributes:
        upload_bytes: Body of an inspection, or of anything else that is no model and no data set.
        picture_bytes: One picture.
        picture_pixels: Width x height of one picture, checked in its header.
        pictures: Pictures in one inspection.
        waiting: Inspections in progress at once; more are answered 503 with ``Retry-After``.
        model_bytes: An uploaded model file.
        dataset_bytes: An uploaded archive, or pictures, for training.
        dataset_files: Files in it.
        dataset_parts: Pictures in one form, each of which takes an open file; more come as an archive.
        unpacked_bytes: What an archive may unpack to.
        compression: How many times larger than packed a file in an archive may be, at most.
        jobs: Jobs that may wait.
        free_bytes: Space on the disk that pictures, data sets and training leave free, or 5 % of it where that is less.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    upload_bytes: int = Field(default=256 * MEBIBYTE, gt=0)
    picture_bytes: int = Field(default=64 * MEBIBYTE, gt=0)
    picture_pixels: int = Field(default=50_000_000, gt=0)
    pictures: int = Field(default=64, gt=0)
    waiting: int = Field(default=128, gt=0)
    model_bytes: int = Field(default=2048 * MEBIBYTE, gt=0)
    dataset_bytes: int = Field(default=4096 * MEBIBYTE, gt=0)
    dataset_files: int = Field(default=20_000, gt=0)
    dataset_parts: int = Field(default=500, gt=0)
    unpacked_bytes: int = Field(default=16_384 * MEBIBYTE, gt=0)
    compression: int = Field(default=100, gt=0)
    jobs: int = Field(default=16, gt=0)
    free_bytes: int = Field(default=1024 * MEBIBYTE, ge=0)


class StationSettings(BaseModel):
    """Everything that a station is started with.

    Attributes:
        models: Folder of model files (``*.spot``).
        data: Folder for the inspected pictures, jobs, uploaded data sets, and the SQLite database.
        database: SQLAlchemy URL; SQLite in ``data`` if not given.
        datasets: Folder below which training may read pictures that lie on the server; none if not given.
        host: Address to listen on.
        port: Port to listen on; 0 lets the system choose.
        hosts: Names under which browsers may call the station, besides loopback and ``host``.
        engine: What runs the models, as for :meth:`anomaly_spotter.Spotter.load`; the fastest if not given.
        loaded_models: Models that stay in memory.
        session_hours: How long a login lasts.
        recent: Newest inspections that the monitor and the drift watch look at.
        keep_days: Pictures older than this are removed; ``None`` keeps them.
        keep_bytes: The oldest pictures are removed while all together are larger than this; ``None`` keeps them.
        keep_reviewed: Keep the pictures of inspections that a person has reviewed in either case.
        pages: Serve the web pages too, not only the REST API.
        limits: See :class:`Limits`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Path
    data: Path
    database: str = ""
    datasets: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    hosts: tuple[str, ...] = ()
    engine: str | None = None
    loaded_models: int = Field(default=4, ge=1)
    session_hours: float = Field(default=12.0, gt=0)
    recent: int = Field(default=500, ge=10)
    keep_days: int | None = Field(default=None, ge=1)
    keep_bytes: int | None = Field(default=None, gt=0)
    keep_reviewed: bool = True
    pages: bool = True
    limits: Limits = Limits()

    @property
    def database_url(self) -> str:
        """Where the inspections are kept."""
        return self.database or f"sqlite:///{(self.data / 'station.db').absolute()}"

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach the station."""
        return self.host in LOOPBACK
