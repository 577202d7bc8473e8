"""Checkpoints of a training run: each written whole or not at all, and one clear line when one is damaged."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.files import write_atomic


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning writes to the system's temporary folder and moves, which is a copy where that is another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            SpotterError: The file cannot be written.
        """
        if storage_options is not None:
            raise TypeError("checkpoints are plain files; storage options have no meaning here")
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomic(Path(path), buffer.getvalue())


def keep_checkpoint(run_dir: Path, name: str, monitor: str | None) -> ModelCheckpoint:
    """Keep ``run_dir/name.ckpt``: of the epoch with the lowest ``monitor``, or of the last epoch."""
    return ModelCheckpoint(
        run_dir, filename=name, monitor=monitor, save_on_train_epoch_end=True, enable_version_counter=False
    )


def resumable(run_dir: Path) -> str | None:
    """The checkpoint that a run goes on from, if there is one.

    Raises:
        SpotterError: It is damaged.
    """
    last = run_dir / "last.ckpt"
    if not last.is_file():
        return None
    read_checkpoint(last)  # a damaged one is named here, not in a traceback of Lightning's
    return str(last)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint as plain tensors and values; runs no code from it.

    Raises:
        SpotterError: It is damaged.
    """
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        raise SpotterError(f"the checkpoint {path} is damaged; train again without --resume") from None
    return found
