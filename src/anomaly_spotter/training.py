"""The training loop's glue around Lightning: data, loss, early stopping, checkpoints, resume, progress.

Every random draw is a function of (seed, epoch, picture), and a checkpoint is written at the end of each epoch.
A run that was killed and resumed therefore ends with the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import math
import os
import signal
import threading
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import lightning as L  # noqa: N812  the library's own convention
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.nn import functional

from anomaly_spotter.checkpoints import AtomicCheckpoints, keep_checkpoint, read_checkpoint, resumable
from anomaly_spotter.errors import ConfigError, Interrupted, SpotterError
from anomaly_spotter.files import write_atomic
from anomaly_spotter.lessons import (
    Corrupted,
    learned_features,
    loader,
    mean_picture,
    seen_features,
    whole_draws,
)
from anomaly_spotter.models.unet import UNet, UNetModel
from anomaly_spotter.processes import (
    LOST,
    is_lost_peer,
    member,
    requested_by_ctrl_c,
    starts_others,
    together,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from anomaly_spotter.config import SpotterConfig, TrainingConfig
    from anomaly_spotter.models.base import InspectingModel
    from anomaly_spotter.models.features import PatchFeatures

    _Triple = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]
    _Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

SEGMENTATION_WEIGHT = 5.0  # brings the focal loss to the size of the restoration loss


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained network and how it came about.

    Attributes:
        model: The network with the weights of the best epoch.
        history: One row per finished epoch: ``epoch``, ``train_loss``, ``val_loss``, ``learning_rate``.
        interrupted: Whether Ctrl-C ended the run early.
        pictures_per_second: Training throughput of all processes, augmentation included, validation excluded.
        framework: What trained it.
    """

    model: InspectingModel
    history: list[dict[str, float]]
    interrupted: bool
    pictures_per_second: float
    framework: str = f"torch {torch.__version__}"


def train_unet(
    pictures: NDArray[np.uint8],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    config: SpotterConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    show_progress: bool = True,
    spill: Path | None = None,
) -> TrainingResult:
    """Train the autoencoder on good canvas pictures.

    Args:
        pictures: ``uint8 [N, H, W, C]``, in memory or memory-mapped; never copied as a whole.
        train: Indices of the pictures to learn from.
        validation: Indices of those held out for early stopping and the choice of the best epoch.
        config: The whole configuration.
        run_dir: Checkpoints and the history go here.
        resume: Continue after the last finished epoch found in ``run_dir``.
        show_progress: Draw a progress bar with the time remaining on the terminal.
        spill: Where processes that are started here find the pictures; a file in ``run_dir`` if not given.

    Raises:
        Interrupted: Ctrl-C before the first epoch ended.
        ConfigError: The processes or the precision that the settings ask for cannot be had.
        SpotterError: Training diverged, or a checkpoint cannot be written or read.
    """
    settings = config.training
    module = _Restoration(
        mean_picture(pictures, train), learned_features(pictures, train, config), config, len(train)
    )
    run = _Run(module, train, validation, config, run_dir, resume, show_progress)
    if starts_others(settings):
        file = _on_disk(pictures, spill or run_dir / "pictures.u8")
        ended = together(partial(_run_on, run, file, pictures.shape), settings)
    else:
        ended = run(pictures, ctypes.c_bool(False))
    if ended.interrupted and not ended.history:
        raise Interrupted
    refuse_diverged(ended.history)
    module.load_state_dict(read_checkpoint(run_dir / "best.ckpt")["state_dict"])
    return TrainingResult(
        UNetModel.fit(
            module.network.cpu().float(),
            config.model,
            module.features,
            [np.asarray(pictures[index]) for index in validation],
        ),
        ended.history,
        ended.interrupted,
        ended.pictures_per_second,
    )


def refuse_diverged(history: list[dict[str, float]]) -> None:
    """Refuse a training of which no epoch is usable.

    Raises:
        SpotterError: No validation loss is finite.
    """
    if not any(math.isfinite(row["val_loss"]) for row in history):
        raise SpotterError(
            "training diverged: no validation loss is finite; use a smaller training.learning_rate"
        )


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a run ended; the same in every process that took part."""

    history: list[dict[str, float]]
    interrupted: bool
    pictures_per_second: float


@dataclass(frozen=True, slots=True)
class _Run:
    """What each process of a training does."""

    module: _Restoration
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    config: SpotterConfig
    run_dir: Path
    resume: bool
    show_progress: bool

    def __call__(self, pictures: NDArray[np.uint8], stop: ctypes.c_bool) -> _Ended:
        """Train ``module`` on ``uint8 [N, H, W, C]`` until it is ready, or a stop is requested."""
        settings, here = self.config.training, member()
        show = self.show_progress and here.rank == 0
        book = _Book(self.run_dir / "history.jsonl", settings, show)
        callbacks: list[Callback] = [book, _StopRequest(stop)]
        if settings.patience is not None:
            callbacks.append(
                _EarlyStopping("val_loss", patience=settings.patience, check_on_train_epoch_end=True)
            )
        # "best" stands before "last": a kill between the two writes then only repeats the epoch.
        callbacks += [
            keep_checkpoint(self.run_dir, "best", monitor="val_loss"),
            keep_checkpoint(self.run_dir, "last", monitor=None),
        ]
        with _quiet(), _environment_kept(), requested_by_ctrl_c(stop):
            trainer = L.Trainer(
                # Apple's graphics processor trains alone.
                accelerator="auto" if here.count == 1 or torch.cuda.is_available() else "cpu",
                devices=here.devices,
                num_nodes=here.count // here.devices,
                strategy="auto" if here.count == 1 else settings.strategy,
                sync_batchnorm=here.count > 1 and torch.cuda.is_available(),  # PyTorch has it for CUDA only
                precision=_precision(settings),
                max_epochs=settings.epochs,
                callbacks=callbacks,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                deterministic="warn",
                use_distributed_sampler=False,
                plugins=[AtomicCheckpoints()],
            )
            try:
                trainer.fit(
                    self.module,
                    loader(Corrupted(pictures, self.train, self.config), settings, training=True),
                    loader(
                        Corrupted(pictures, self.validation, self.config, fixed=True),
                        settings,
                        training=False,
                    ),
                    ckpt_path=resumable(self.run_dir) if self.resume else None,
                    weights_only=True,
                )
            except Interrupted:
                pass
            except RuntimeError as error:
                if here.count > 1 and is_lost_peer(error):
                    raise SpotterError(LOST) from None
                raise
            finally:
                book.bar.stop()
        return _Ended(book.history, stop.value, book.pictures_per_second)


def _run_on(run: _Run, file: Path, shape: tuple[int, ...], stop: ctypes.c_bool) -> _Ended:
    """A run on pictures that another process has prepared."""
    return run(np.memmap(file, dtype=np.uint8, mode="r", shape=shape), stop)


def _on_disk(pictures: NDArray[np.uint8], spill: Path) -> Path:
    """The file where other processes find the pictures."""
    if isinstance(pictures, np.memmap) and pictures.filename is not None:
        return Path(pictures.filename)
    try:
        pictures.tofile(spill)
    except OSError as error:
        raise SpotterError(f"cannot write {spill}: {error.strerror or error}; free some space") from None
    return spill


def _precision(settings: TrainingConfig) -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    if settings.precision == "fp16":
        if not torch.cuda.is_available():
            raise ConfigError("training.precision=fp16 needs a CUDA graphics card; use auto, bf16 or fp32")
        return "16-mixed"
    return "bf16-mixed" if wants_bf16(settings) else "32-true"


def wants_bf16(settings: TrainingConfig) -> bool:
    """Whether training runs under bf16 autocast: asked for, or ``auto`` on a processor with bf16 instructions."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    # Before torch 2.6 the capabilities cannot be asked for; fp32 is right everywhere, only slower.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


class _Restoration(L.LightningModule):
    """Restore the good picture from its corrupted copy (from itself when the corruption strength is 0).

    A segmentation learns beside it where the copy was corrupted (Zavrtanik et al., *DRAEM*, ICCV 2021), and the
    expected features to be those of the good picture (Batzner et al., *EfficientAD*, WACV 2024).
    """

    def __init__(
        self, reference: torch.Tensor, features: PatchFeatures | None, config: SpotterConfig, pictures: int
    ) -> None:
        super().__init__()
        self.settings = config.training
        self.features = features  # no module of its own: never trained, not part of the checkpoints
        batch = self.settings.batch_size * self.settings.devices * self.settings.nodes
        self.steps = -(-whole_draws(pictures, self.settings) // batch)
        self.losses = [0.0, 0.0]
        # The same everywhere; sending it fails where it is grey and channels_last (torch 2.13).
        self._ddp_params_and_buffers_to_ignore = ["network.reference"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            self.network = UNet(reference.shape[1], config.model, reference)
        self.layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]

    def setup(self, stage: str) -> None:
        # Principal components may differ in sign from one processor to another: all compare with the first one's.
        self.features = self.trainer.strategy.broadcast(self.features)

    def training_step(self, batch: _Batch, _: int) -> torch.Tensor:
        return self._loss(batch)

    def on_validation_epoch_start(self) -> None:
        self.losses = [0.0, 0.0]

    def validation_step(self, batch: _Batch, _: int) -> None:
        self.losses[0] += len(batch[0]) * float(self._loss(batch))
        self.losses[1] += len(batch[0])

    def on_validation_epoch_end(self) -> None:
        total, pictures = _summed(self.trainer, self.losses)
        self.log("val_loss", total / pictures)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)
        if self.settings.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.settings.learning_rate,
            total_steps=self.steps * self.settings.epochs,
            pct_start=0.2,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: _Batch) -> torch.Tensor:
        corrupted, good, mask = (part.contiguous(memory_format=self.layout) for part in batch)
        restored = self.network(corrupted)
        distance = functional.l1_loss if self.settings.loss == "l1" else functional.mse_loss
        loss = distance(restored.picture.float(), good)
        if restored.marked is not None:
            loss = loss + SEGMENTATION_WEIGHT * _focal_loss(restored.marked.float(), mask)
        if restored.features is not None and self.features is not None:
            loss = loss + _surprise(restored.features.float(), seen_features(good, self.features))
        return loss


def _surprise(expected: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Squared distance of features as a share of their variance."""
    return (expected - seen).square().mean() / seen.square().mean()


def _focal_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Lin et al., *Focal loss for dense object detection* (ICCV 2017), exponent 2: defects are few among many pixels."""
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    return ((1 - torch.exp(-cross_entropy)).square() * cross_entropy).mean()


def _summed(trainer: L.Trainer, values: list[float]) -> list[float]:
    """Sums over all processes."""
    own = torch.tensor(values, device=trainer.strategy.root_device)
    return cast("list[float]", trainer.strategy.reduce(own, reduce_op="sum").tolist())


class _EarlyStopping(EarlyStopping):
    """Remembers across a resume that it had already stopped; Lightning restores the count but trains on."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class _StopRequest(Callback):
    """A request ends the run between two steps, in all processes after the same one."""

    def __init__(self, stop: ctypes.c_bool) -> None:
        self.stop = stop

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            # Lightning's own handler waits for the other processes, which torchrun ends as well.
            signal.signal(signal.SIGTERM, _end_as_lost)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.strategy.reduce_boolean_decision(self.stop.value, all=False):
            self.stop.value = True
            raise Interrupted


def progress_bar(*, show: bool) -> Progress:
    """On stderr: ``epoch``, bar, time elapsed and remaining, ``loss``; the named are fields of its task."""
    return Progress(
        TextColumn("{task.fields[epoch]}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=Console(stderr=True),
        disable=not show,
    )


def _end_as_lost(*_: object) -> None:
    raise SpotterError(LOST)


class _Book(Callback):
    """Keeps the history (one JSON line per epoch, so a kill loses nothing) and draws the progress bar."""

    def __init__(self, path: Path, settings: TrainingConfig, show: bool) -> None:
        self.path, self.settings = path, settings
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.pictures = 0
        self.bar = progress_bar(show=show)

    @property
    def pictures_per_second(self) -> float:
        return self.pictures / self.seconds if self.seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.start()
        total = self.settings.epochs * int(trainer.num_training_batches)
        self.task = self.bar.add_task(
            "training", total=total, completed=trainer.global_step, epoch="training", loss=""
        )

    def on_train_epoch_start(self, *_: object) -> None:
        self.losses: list[float] = []
        self.started = time.perf_counter()

    def on_validation_start(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.started

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.pictures += len(batch[0]) * trainer.world_size
        self.bar.advance(self.task)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        total, steps = _summed(trainer, [sum(self.losses), len(self.losses)])
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": total / steps,
            "val_loss": float(trainer.callback_metrics["val_loss"]),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
        }
        self.history.append(row)
        if trainer.is_global_zero:
            write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in self.history).encode())
        self.bar.update(
            self.task,
            epoch=f"epoch {row['epoch']:>3} of {self.settings.epochs}",
            loss=f"validation loss {row['val_loss']:.4f}",
        )


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Lightning sets variables for whole processes, which other work in this one must not find."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice (more workers, tips) is about other machines and hides our own messages."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
