"""The training loop's glue around Lightning: data, loss, early stopping, checkpoints, resume, progress.

Every random draw is a function of (seed, epoch, picture), and a checkpoint is written at the end of each epoch.
A run that was killed and resumed therefore ends with the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import threading
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from torch.utils.data import DataLoader, Dataset, Sampler

from anomaly_spotter.checkpoints import AtomicCheckpoints, keep_checkpoint, read_checkpoint, resumable
from anomaly_spotter.errors import Interrupted, SpotterError
from anomaly_spotter.files import write_atomic
from anomaly_spotter.inputs.augment import augment
from anomaly_spotter.inputs.preprocess import to_network
from anomaly_spotter.inputs.synthetic import corrupt
from anomaly_spotter.models.features import PatchFeatures, extractor, levels
from anomaly_spotter.models.unet import UNet, UNetModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.config import SpotterConfig, TrainingConfig

    _Triple = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]
    _Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_CLEAN_SHARE = 0.2  # of the pictures a segmentation learns from; it must also see parts without a defect
_SEGMENTATION_WEIGHT = 5.0  # brings the focal loss to the size of the restoration loss
_HALF_WHITE = 127.5
_PROJECTION_PICTURES = 48  # pictures that the principal components of the features are learned from
_VALIDATION_EPOCH = 2**31  # a draw of its own, the same in every epoch, so that validation losses compare


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained network and how it came about.

    Attributes:
        model: The network with the weights of the best epoch.
        history: One row per finished epoch: ``epoch``, ``train_loss``, ``val_loss``, ``learning_rate``.
        interrupted: Whether Ctrl-C ended the run early.
        pictures_per_second: Training throughput of this process, augmentation included, validation excluded.
    """

    model: UNetModel
    history: list[dict[str, float]]
    interrupted: bool
    pictures_per_second: float


def train_unet(
    pictures: NDArray[np.uint8],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    config: SpotterConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    show_progress: bool = True,
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

    Raises:
        Interrupted: Ctrl-C before the first epoch ended.
        SpotterError: Training diverged, or a checkpoint cannot be written or read.
    """
    settings = config.training
    batches = _loader(_Corrupted(pictures, train, config), settings, training=True)
    features = _features(pictures, train, config)
    module = _Restoration(_reference(pictures, train), features, config, steps=len(batches))
    book, stop = _Book(run_dir / "history.jsonl", settings, show_progress), _StopRequest()
    callbacks: list[Callback] = [book, stop]
    if settings.patience is not None:
        callbacks.append(
            _EarlyStopping("val_loss", patience=settings.patience, check_on_train_epoch_end=True)
        )
    # "best" stands before "last": a kill between the two writes then only repeats the epoch.
    callbacks += [
        keep_checkpoint(run_dir, "best", monitor="val_loss"),
        keep_checkpoint(run_dir, "last", monitor=None),
    ]
    with _quiet(), stop.on_ctrl_c():
        trainer = L.Trainer(
            accelerator="auto",
            devices=1,
            precision="bf16-mixed" if wants_bf16(settings) else "32-true",
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
                module,
                batches,
                _loader(_Corrupted(pictures, validation, config, fixed=True), settings, training=False),
                ckpt_path=resumable(run_dir) if resume else None,
                weights_only=True,
            )
        except Interrupted:
            if not book.history:
                raise
        finally:
            book.bar.stop()
    if not any(math.isfinite(row["val_loss"]) for row in book.history):
        raise SpotterError(
            "training diverged: no validation loss is finite; use a smaller training.learning_rate"
        )
    module.load_state_dict(read_checkpoint(run_dir / "best.ckpt")["state_dict"])
    return TrainingResult(
        UNetModel.fit(
            module.network.cpu().float(),
            config.model,
            features,
            [np.asarray(pictures[index]) for index in validation],
        ),
        book.history,
        stop.requested,
        book.pictures_per_second,
    )


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
        self, reference: torch.Tensor, features: PatchFeatures | None, config: SpotterConfig, steps: int
    ) -> None:
        super().__init__()
        self.settings = config.training
        self.features = features  # no module of its own: never trained, not part of the checkpoints
        self.steps = steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            self.network = UNet(reference.shape[1], config.model, reference)
        self.layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]

    def training_step(self, batch: _Batch, _: int) -> torch.Tensor:
        return self._loss(batch)

    def validation_step(self, batch: _Batch, _: int) -> None:
        self.log("val_loss", self._loss(batch), batch_size=len(batch[0]))

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
            loss = loss + _SEGMENTATION_WEIGHT * _focal_loss(restored.marked.float(), mask)
        if restored.features is not None and self.features is not None:
            loss = loss + _surprise(restored.features.float(), _seen(good, self.features))
        return loss


@torch.no_grad()
def _seen(good: torch.Tensor, features: PatchFeatures) -> torch.Tensor:
    """Features of pictures in [-1, 1], ``[B, d, h, w]``."""
    grids = [features.project(features.extract(one[None])) for one in (good.float() + 1) * _HALF_WHITE]
    return torch.stack(grids).permute(0, 3, 1, 2)


def _surprise(expected: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Squared distance of features as a share of their variance."""
    return (expected - seen).square().mean() / seen.square().mean()


def _focal_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Lin et al., *Focal loss for dense object detection* (ICCV 2017), exponent 2: defects are few among many pixels."""
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    return ((1 - torch.exp(-cross_entropy)).square() * cross_entropy).mean()


class _Corrupted(Dataset[Any]):
    """(corrupted, good, mask) triples, addressed by ``(epoch, index)`` so that each draw can be repeated."""

    def __init__(
        self,
        pictures: NDArray[np.uint8],
        indices: NDArray[np.int64],
        config: SpotterConfig,
        *,
        fixed: bool = False,
    ) -> None:
        self.pictures, self.indices, self.config, self.fixed = pictures, indices, config, fixed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> _Triple:
        epoch, index = key
        strength, seed = self.config.training.corruption, self.config.training.seed
        rng = np.random.default_rng([seed, _VALIDATION_EPOCH if self.fixed else epoch, index])
        good = self._picture(index)
        if not self.fixed:
            good = augment(good, self.config.augmentation, rng)
        if not strength or ("segmentation" in self.config.model.evidence and rng.random() < _CLEAN_SHARE):
            return good, good, np.zeros(good.shape[:2], dtype=bool)
        donor = self._picture(int(rng.integers(len(self))))
        corrupted, mask = corrupt(good, donor, rng, strength)
        return corrupted, good, mask

    def _picture(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(self.pictures[self.indices[index]])


class _EpochSampler(Sampler[tuple[int, int]]):
    """Shuffled ``(epoch, index)`` keys; the order depends only on the seed and the epoch."""

    def __init__(self, count: int, draws: int, seed: int, *, shuffle: bool) -> None:
        self.count, self.draws, self.seed, self.shuffle = count, draws, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if not self.shuffle:
            yield from ((self.epoch, index) for index in range(self.count))
            return
        rng = np.random.default_rng([self.seed, self.epoch])
        rounds = -(-self.draws // self.count)
        order = np.concatenate([rng.permutation(self.count) for _ in range(rounds)])[: self.draws]
        # A picture shown twice in an epoch must not be drawn the same way twice.
        for position, index in enumerate(order.tolist()):
            yield self.epoch * rounds + position // self.count, index


def _loader(pictures: _Corrupted, settings: TrainingConfig, *, training: bool) -> DataLoader[Any]:
    draws = _draws(len(pictures), settings) if training else len(pictures)
    return DataLoader(
        pictures,
        batch_size=settings.batch_size,
        sampler=_EpochSampler(len(pictures), draws, settings.seed, shuffle=training),
        collate_fn=_collate,
        drop_last=training and draws > settings.batch_size,
    )


def _collate(triples: list[_Triple]) -> _Batch:
    """Two ``float32 [B, C, H, W]`` in [-1, 1] and the mask ``float32 [B, 1, H, W]``."""
    corrupted, good, masks = (np.stack(side) for side in zip(*triples, strict=True))
    mask = torch.from_numpy(masks[:, None].astype(np.float32))
    return torch.from_numpy(to_network(corrupted)), torch.from_numpy(to_network(good)), mask


@torch.inference_mode()
def _features(
    pictures: NDArray[np.uint8], train: NDArray[np.int64], config: SpotterConfig
) -> PatchFeatures | None:
    """The features that the network learns to expect, projected on the good pictures' principal components."""
    if "features" not in config.model.evidence:
        return None
    extract = extractor(config.model.features, pictures.shape[3], weights=config.model.weights)
    chosen = train[np.unique(np.linspace(0, len(train) - 1, _PROJECTION_PICTURES).astype(int))]
    grids = [extract(levels(np.asarray(pictures[index]))) for index in chosen]
    return PatchFeatures.fit(extract, grids, config.model.dimensions, config.training.seed)


def _reference(pictures: NDArray[np.uint8], train: NDArray[np.int64]) -> torch.Tensor:
    """The mean good picture, ``float32 [1, C, H, W]`` in [-1, 1]."""
    total = np.zeros(pictures.shape[1:], dtype=np.int64)
    for index in train:
        total += pictures[index]
    mean = np.rint(total / len(train)).astype(np.uint8)
    return torch.from_numpy(to_network(mean[None]))


def _draws(count: int, settings: TrainingConfig) -> int:
    return count if settings.pictures_per_epoch is None else settings.pictures_per_epoch


class _EarlyStopping(EarlyStopping):
    """Remembers across a resume that it had already stopped; Lightning restores the count but trains on."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class _StopRequest(Callback):
    """Ctrl-C ends the run between two steps instead of tearing through a step or a write."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def on_ctrl_c(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # signals reach only the main thread
            yield
            return
        before = signal.signal(signal.SIGINT, self._request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _request(self, *_: object) -> None:
        self.requested = True

    def on_train_batch_end(self, *_: object) -> None:
        if self.requested:
            raise Interrupted


class _Book(Callback):
    """Keeps the history (one JSON line per epoch, so a kill loses nothing) and draws the progress bar."""

    def __init__(self, path: Path, settings: TrainingConfig, show: bool) -> None:
        self.path, self.settings = path, settings
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.pictures = 0
        self.bar = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=Console(stderr=True),
            disable=not show,
        )

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
        self.pictures += len(batch[0])
        self.bar.advance(self.task)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": sum(self.losses) / len(self.losses),
            "val_loss": float(trainer.callback_metrics["val_loss"]),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
        }
        self.history.append(row)
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in self.history).encode())
        self.bar.update(
            self.task,
            epoch=f"epoch {row['epoch']:>3} of {self.settings.epochs}",
            loss=f"validation loss {row['val_loss']:.4f}",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice (more workers, tips) is about other machines and hides our own messages."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
