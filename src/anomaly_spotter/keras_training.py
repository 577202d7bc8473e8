"""Training the U-Net by Keras's ``model.fit``: what :mod:`~anomaly_spotter.training` does with Lightning.

Pictures, draws, first weights, losses, optimiser and schedule are the same, so that both frameworks go through the same
losses but for rounding. A checkpoint is written at the end of each epoch; a run that was killed goes on from there.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import torch
from keras import ops
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

from anomaly_spotter.errors import Interrupted, SpotterError
from anomaly_spotter.files import write_atomic
from anomaly_spotter.lessons import material
from anomaly_spotter.models import keras_unet
from anomaly_spotter.models.compiled import CompiledModel
from anomaly_spotter.models.keras_detector import KerasSession, detector
from anomaly_spotter.models.keras_import import keras_version
from anomaly_spotter.models.unet import UNet, UNetModel
from anomaly_spotter.processes import requested_by_ctrl_c
from anomaly_spotter.training import SEGMENTATION_WEIGHT, TrainingResult, progress_bar, refuse_diverged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.config import SpotterConfig, TrainingConfig
    from anomaly_spotter.lessons import Material

_POLICIES = {"auto": "float32", "fp32": "float32", "bf16": "mixed_bfloat16"}
_BEST, _LAST = "best.safetensors", "last.safetensors"
_RISE = 0.2  # share of the steps in which the one-cycle rate rises
_FIRST, _FINAL = 1 / 25, 1 / 25e4  # of its peak; PyTorch's
_MOMENTA = (0.95, 0.85)  # of its beginning and end, and of its peak; PyTorch's
_MOMENTUM, _DECAY, _ROUNDING = 0.9, 0.999, 1e-8  # of Adam; PyTorch's


def train_unet(
    pictures: NDArray[np.uint8],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    config: SpotterConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    show_progress: bool = True,
    spill: Path | None = None,  # noqa: ARG001  for other processes, which Keras does not start
) -> TrainingResult:
    """Train the autoencoder on good canvas pictures, as :func:`anomaly_spotter.training.train_unet`.

    Under ``training.precision=auto`` it computes in float32; ``bf16`` takes Keras's policy ``mixed_bfloat16``.

    Raises:
        Interrupted: Ctrl-C before the first epoch ended.
        ConfigError: The features run in PyTorch only.
        SpotterError: Training diverged, or a checkpoint cannot be written or read.
    """
    settings, size = config.training, pictures.shape[1:]
    lessons = material(pictures, train, validation, config)
    network = keras_unet.build(size, config.model, _POLICIES[settings.precision])
    first = _first_weights(lessons, size[2], config)
    keras_unet.load(network, {name: value.numpy() for name, value in first.state_dict().items()})
    steps = len(lessons.batches)
    _compile(network, settings, steps)
    book = _Book(network, run_dir, settings, steps, show=show_progress)
    if resume:
        book.restore()
    drawn = _Drawn(lessons, training=True)
    interrupted = False
    if not book.is_over():
        with book.bar, requested_by_ctrl_c(book.stop):
            try:
                network.fit(
                    drawn,
                    validation_data=_Drawn(lessons, training=False),
                    epochs=settings.epochs,
                    initial_epoch=len(book.history),
                    callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=drawn.begin), book],
                    shuffle=False,
                    verbose=0,
                )
            except Interrupted:
                interrupted = True
                if not book.history:
                    raise
    refuse_diverged(book.history)
    _restore(run_dir / _BEST, _variables(network))
    model = _fitted(network, first, lessons, [np.asarray(pictures[index]) for index in validation], config)
    return TrainingResult(model, book.history, interrupted, book.pictures_per_second, keras_version())


def _first_weights(lessons: Material, channels: int, config: SpotterConfig) -> UNet:
    """The network that training in PyTorch begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return UNet(channels, config.model, lessons.reference)


def _fitted(
    network: keras.Model,
    twin: UNet,
    lessons: Material,
    good: list[NDArray[np.uint8]],
    config: SpotterConfig,
) -> CompiledModel:
    """The detector, run by Keras; ``twin`` tells how much each kind of evidence varies, and in which layout it is kept."""
    twin.load_state_dict(
        {name: torch.from_numpy(np.array(value)) for name, value in keras_unet.weights(network).items()}
    )
    arrays = UNetModel.fit(twin, config.model, lessons.features, good).state()
    size = good[0].shape
    session = KerasSession(detector(config.model, size, arrays))
    return CompiledModel(config.model, size, arrays, {"network": session})


def _compile(network: keras.Model, settings: TrainingConfig, steps: int) -> None:
    total = steps * settings.epochs
    rate, momentum = settings.learning_rate, _steady
    if settings.schedule == "one_cycle":
        rate = _OneCycle(total, rate * _FIRST, rate, rate * _FINAL)
        momentum = _OneCycle(total, _MOMENTA[0], _MOMENTA[1], _MOMENTA[0])
    losses = {"picture": "mae" if settings.loss == "l1" else "mse", "marked": _focal, "features": _surprise}
    weights = {"picture": 1.0, "marked": SEGMENTATION_WEIGHT, "features": 1.0}
    names = list(network.output)
    network.compile(
        optimizer=_Adam(rate, momentum),
        loss={name: losses[name] for name in names},
        loss_weights={name: weights[name] for name in names},
        jit_compile=keras.backend.backend() == "jax",  # XLA computes convolutions on processors more slowly
    )
    network.optimizer.build(network.trainable_variables)
    # The sums of the losses are made now: made within the first step, TensorFlow would trace that step twice.
    blank = {name: np.ones((1, *each.shape[1:]), np.float32) for name, each in network.output.items()}
    network.compute_loss(y=blank, y_pred=blank)


def _focal(mask: Any, logits: Any) -> Any:
    """As in :mod:`~anomaly_spotter.training`."""
    cross_entropy = ops.binary_crossentropy(mask, ops.cast(logits, "float32"), from_logits=True)
    return ops.mean(ops.square(1 - ops.exp(-cross_entropy)) * cross_entropy)


def _surprise(seen: Any, expected: Any) -> Any:
    """Squared distance of features as a share of their variance."""
    apart = ops.square(ops.cast(expected, "float32") - seen)
    return ops.mean(apart) / ops.mean(ops.square(seen))


def _steady(_: Any) -> float:
    return _MOMENTUM


class _OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """From ``first`` to ``peak`` to ``final`` along half waves (Smith & Topin 2019), by the number of the step."""

    def __init__(self, steps: int, first: float, peak: float, final: float) -> None:
        self.first, self.peak, self.final = first, peak, final
        self.turn, self.end = _RISE * steps - 1, steps - 1

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rising = _half_wave(self.first, self.peak, step / max(self.turn, 1e-6))
        falling = _half_wave(self.peak, self.final, (step - self.turn) / (self.end - self.turn))
        return ops.where(step <= self.turn, rising, falling)


def _half_wave(start: float, end: float, share: Any) -> Any:
    return end + (start - end) / 2 * (1 + ops.cos(math.pi * share))


class _Adam(keras.optimizers.Adam):  # type: ignore[misc]
    """Adam as PyTorch counts it: rounding term after the correction, and a momentum that the schedule may move."""

    def __init__(self, rate: Any, momentum: Callable[[Any], Any]) -> None:
        super().__init__(rate, name="adam")
        self.momentum = momentum

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Change all variables; what is the same for all of them is computed once."""
        step = ops.cast(self.iterations + 1, "float32")
        self.kept = ops.cast(self.momentum(self.iterations), "float32")
        # 1 - beta ** step, which float32 would round at the first steps
        self.mean_share = -ops.expm1(step * ops.log(self.kept))
        self.square_share = -ops.expm1(step * math.log(_DECAY))
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Change one variable."""
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        self.assign_add(mean, (gradient - mean) * (1 - self.kept))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - _DECAY))
        spread = ops.sqrt(ops.divide(square, self.square_share)) + _ROUNDING
        self.assign_sub(variable, learning_rate * ops.divide(mean, self.mean_share) / spread)


class _Drawn(keras.utils.PyDataset):  # type: ignore[misc]
    """The batches of an epoch, channels last."""

    def __init__(self, lessons: Material, *, training: bool) -> None:
        super().__init__()
        self.lessons = lessons
        self.loader = lessons.batches if training else lessons.validation
        self.begin(0)

    def begin(self, epoch: int, *_: object, **__: object) -> None:
        """Draw the batches of this epoch from here on."""
        self.loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        self.keys = list(self.loader.sampler)

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, number: int) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        size = int(self.loader.batch_size or 1)
        triples = [self.loader.dataset[key] for key in self.keys[number * size : (number + 1) * size]]
        corrupted, good, mask = self.loader.collate_fn(triples)
        targets = {"picture": good}
        if self.lessons.is_marking:
            targets["marked"] = mask
        if (seen := self.lessons.seen(good)) is not None:
            targets["features"] = seen
        return _channels_last(corrupted), {name: _channels_last(each) for name, each in targets.items()}


def _channels_last(batch: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(batch.numpy().transpose(0, 2, 3, 1))


class _Book(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps history and checkpoints, stops early or when asked to, and draws the progress bar."""

    def __init__(
        self, network: keras.Model, run_dir: Path, settings: TrainingConfig, steps: int, *, show: bool
    ) -> None:
        super().__init__()
        self.network, self.run_dir, self.settings = network, run_dir, settings
        self.history: list[dict[str, float]] = []
        self.stop = ctypes.c_bool(False)
        self.seconds = self.started = 0.0
        self.steps, self.steps_done = steps, 0
        self.bar = progress_bar(show=show)

    @property
    def pictures_per_second(self) -> float:
        return self.steps_done * self.settings.batch_size / self.seconds if self.seconds else 0.0

    def is_over(self) -> bool:
        """Whether the validation loss has not become better for as long as the settings allow, or is lost."""
        losses = [row["val_loss"] for row in self.history]
        if not losses or self.settings.patience is None:
            return False
        if not math.isfinite(losses[-1]):
            return True
        waited = len(losses) - 1 - int(np.argmin(losses))
        return waited >= self.settings.patience

    def restore(self) -> None:
        """Go on from the last finished epoch, if there is one.

        Raises:
            SpotterError: The checkpoint is damaged.
        """
        path = self.run_dir / _LAST
        if path.is_file():
            self.history = json.loads(_restore(path, self._state())["history"])

    def on_train_begin(self, *_: object, **__: object) -> None:
        total = self.settings.epochs * self.steps
        done = len(self.history) * self.steps
        self.task = self.bar.add_task("training", total=total, completed=done, epoch="training", loss="")

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.started = time.perf_counter()

    def on_test_begin(self, *_: object, **__: object) -> None:
        self.seconds += time.perf_counter() - self.started

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        self.steps_done += 1
        self.bar.advance(self.task)
        if self.stop.value:
            raise Interrupted

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row = {
            "epoch": epoch + 1,
            "train_loss": float(logs["loss"]),
            "val_loss": float(logs["val_loss"]),
            "learning_rate": float(ops.convert_to_numpy(self.network.optimizer.learning_rate)),
        }
        # A loss that is not a number is smaller than none; the first epoch counts, so that there is a best one.
        is_best = not self.history or (
            math.isfinite(row["val_loss"])
            and not any(before["val_loss"] <= row["val_loss"] for before in self.history)
        )
        self.history.append(row)
        arrays = {name: ops.convert_to_numpy(variable) for name, variable in self._state().items()}
        content = save_arrays(arrays, metadata={"history": json.dumps(self.history)})
        # "best" stands before "last": a kill between the two writes then only repeats the epoch.
        for name in (_BEST, _LAST) if is_best else (_LAST,):
            write_atomic(self.run_dir / name, content)
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        write_atomic(self.run_dir / "history.jsonl", lines.encode())
        self.bar.update(
            self.task,
            epoch=f"epoch {row['epoch']:>3} of {self.settings.epochs}",
            loss=f"validation loss {row['val_loss']:.4f}",
        )
        if self.is_over():
            self.network.stop_training = True

    def _state(self) -> dict[str, Any]:
        """Everything that a run needs to go on."""
        optimizer = self.network.optimizer.variables
        return {
            **_variables(self.network),
            **{f"optimizer.{number:04}": variable for number, variable in enumerate(optimizer)},
        }


def _variables(network: keras.Model) -> dict[str, Any]:
    return {f"network.{number:04}": variable for number, variable in enumerate(network.variables)}


def _restore(path: Path, variables: dict[str, Any]) -> dict[str, str]:
    """Set variables from a checkpoint, and give what is written beside them.

    Raises:
        SpotterError: It is damaged.
    """
    try:
        with safe_open(path, "numpy") as stored:
            for name, variable in variables.items():
                variable.assign(stored.get_tensor(name))
            return dict(stored.metadata())
    except (SafetensorError, OSError, ValueError, TypeError):
        raise SpotterError(f"the checkpoint {path} is damaged; train again without --resume") from None
