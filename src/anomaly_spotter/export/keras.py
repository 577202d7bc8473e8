"""A detector's network as a ``.keras`` file, a TensorFlow SavedModel or a TFLite model.

What goes in is the canvas, the prepared picture; the anomaly map and the restored picture come out. Preparing the picture
and deciding stay with the package, which runs all three from the export's folder.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from typing import TYPE_CHECKING, Any

from anomaly_spotter.errors import ConfigError, SpotterError
from anomaly_spotter.models.keras_files import KERAS, SAVED_MODEL, TFLITE
from anomaly_spotter.models.keras_import import keras_module

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig
    from anomaly_spotter.export.parity import Parity
    from anomaly_spotter.spotter import Spotter

    Arrays = Mapping[str, NDArray[np.generic]]

MODELS = {"keras": KERAS, "saved_model": SAVED_MODEL, "tflite": TFLITE}
"""Format -> the file or folder that it is written to."""

_LOADING = {
    "keras": """import keras
model = keras.saving.load_model("model.keras")  # KERAS_BACKEND: tensorflow, torch or jax
found = model.predict_on_batch(canvas[None])
anomaly_map, restored = found["map"][0], found["restored"][0]""",
    "saved_model": """import tensorflow
model = tensorflow.saved_model.load("saved_model")
found = model.serve(canvas[None])
anomaly_map, restored = found["map"][0].numpy(), found["restored"][0].numpy()""",
    "tflite": """from tensorflow import lite  # or ai_edge_litert.interpreter, which is small
run = lite.Interpreter("model.tflite").get_signature_runner()
found = run(canvas=canvas[None])
anomaly_map, restored = found["map"][0], found["restored"][0]""",
}


def write_network(
    config: ModelConfig, size: tuple[int, int, int], arrays: Arrays, folder: Path, to: str
) -> Path:
    """Write the network of a fitted model into a folder; gives the file, or the folder of a SavedModel.

    Args:
        config: Settings of the model.
        size: ``(H, W, C)`` of the canvas.
        arrays: The model's arrays in the bundle.
        folder: Where.
        to: One of :data:`MODELS`.

    Raises:
        ConfigError: The model is no U-Net, its features run in PyTorch only, or Keras's backend cannot write the format.
        MissingExtraError: Keras is not installed.
        SpotterError: TensorFlow cannot convert the network.
    """
    in_keras = keras_module("models.keras_detector")
    import keras

    backend = keras.backend.backend()
    if to != "keras" and backend != "tensorflow":
        raise ConfigError(
            f"--to {to} needs Keras on TensorFlow, found {backend}; set KERAS_BACKEND=tensorflow"
        )
    batch = 1 if to == "tflite" else None  # fixed sizes run fastest on small machines
    model = in_keras.detector(config, size, arrays, batch)
    path = folder / MODELS[to]
    if to == "keras":
        model.save(path)
    elif to == "saved_model":
        with _silent():
            model.export(path, format="tf_saved_model", verbose=False)
    else:
        path.write_bytes(_converted(model, folder / "scratch"))
    return path


def _converted(model: Any, scratch: Path) -> bytes:
    import tensorflow as tf

    try:
        with _silent():
            model.export(scratch, format="tf_saved_model", verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(str(scratch))
            content: bytes = converter.convert()
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise SpotterError(
            f"TensorFlow cannot convert the network: {str(error).splitlines()[0][:200]}"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return content


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """TensorFlow tells about its stages on stdout, where scripts expect the path of the model."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def readme(spotter: Spotter, to: str, parity: Parity, description: str) -> str:
    """What stands beside the model."""
    preprocessor = spotter.preprocessor
    height, width, channels = preprocessor.height, preprocessor.width, preprocessor.channels
    colour = "grey" if channels == 1 else "RGB"
    light = "light normalisation, " if preprocessor.illumination is not None else ""
    pose = "alignment to the normal pose, " if preprocessor.aligner is not None else ""
    return f"""# {spotter.provenance.get("category", "detector")}: exported network

`{MODELS[to]}`, float32, from bundle `{spotter.identity[:16]}`.
{spotter.guarantee}

## Input
- `canvas`: `uint8 [B, {height}, {width}, {channels}]`, {colour}{", B = 1" if to == "tflite" else ""}: the prepared picture.

## Outputs
- `map` `float32 [B, {height}, {width}]`: the raw anomaly map, larger is stranger.
- `restored` `float32 [B, {height}, {width}, {channels}]`: how the part would look if it were good, in [-1, 1].

```python
import numpy as np
canvas = np.zeros(({height}, {width}, {channels}), np.uint8)  # your prepared picture
{_LOADING[to]}
```

## What is not inside
Preparing the picture ({pose}{light}resizing) and deciding (smoothing, score, limit, mask). The package does both:
`anomaly-spotter predict --bundle THIS_FOLDER PICTURE...`, or `anomaly_spotter.load("THIS_FOLDER").inspect(picture)`.
It refuses a model that names a class or an operation which the package does not write, since such a file could run code.
Without the package, load only files that you trust.

## Parity
{parity.words()[0].upper() + parity.words()[1:]}. The numbers are also in `{description}`.
"""
