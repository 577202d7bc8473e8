"""MLflow's pyfunc flavour: ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` decide as the bundle does.

MLflow imports this module by its name and hands it the ``.spot`` file, which is only read: no pickle, no code of the
model's own.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter.errors import PictureError, SpotterError
from anomaly_spotter.products import ProductSpotter, load
from anomaly_spotter.runtime import fastest_installed
from anomaly_spotter.views.terminal import inspection_to_dict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd  # type: ignore[import-untyped]
    from numpy.typing import NDArray

    from anomaly_spotter.spotter import Spotter

COLUMN = "picture"
"""The column of a data frame that holds the pictures; where there is but one, its name does not matter."""
COLUMNS = ("verdict", "score", "threshold", "p_value", "regions", "reason", "product", "notes", "error")
_LONGEST_PATH = 4096
_DATA_URI = "base64,"
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF")  # PNG, JPEG, BMP, TIFF, WebP


class PictureInspector:
    """A detector, or several products' detectors, behind MLflow's ``predict``.

    Attributes:
        detector: What was read from the bundle.
    """

    def __init__(self, detector: Spotter | ProductSpotter) -> None:
        self.detector = detector

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Decide about pictures.

        Args:
            model_input: A data frame with a column ``picture`` (or one column of any name), a sequence or a
                dictionary with that key, of file paths, picture files as bytes or base64 text (also as ``data:`` URI),
                or arrays ``uint8``/``uint16`` ``[H, W]`` or ``[H, W, C]``; or one array ``[H, W]``, ``[H, W, 3 or 4]``
                or a batch ``[B, H, W, C]``.
            params: ``threshold`` (decision limit instead of the calibrated one) and ``product`` (what all pictures
                show; recognised if not given).

        Returns:
            One row per picture: ``verdict``, ``score`` (empty where the part could not be judged, see ``reason``),
            ``threshold``, ``p_value``, ``regions`` (a list of dictionaries), ``reason``, ``product``, ``notes``; or
            ``error`` alone where the picture cannot be read.

        Raises:
            SpotterError: No pictures in ``model_input``, or an unknown product.
        """
        import pandas as pd

        asked = dict(params or {})
        with tempfile.TemporaryDirectory(prefix="anomaly-spotter-") as scratch:
            sources = [
                _source(each, Path(scratch) / str(number))
                for number, each in enumerate(_pictures(model_input))
            ]
            rows = [
                {"error": _without(str(found), scratch)}
                if isinstance(found, PictureError)
                else inspection_to_dict(found)
                for found in self._inspected(sources, asked.get("threshold"), asked.get("product"))
            ]
        return pd.DataFrame(
            {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in COLUMNS}
        )

    def _inspected(
        self, sources: Sequence[Path | NDArray[Any]], threshold: float | None, product: str | None
    ) -> Any:
        if isinstance(self.detector, ProductSpotter):
            found = self.detector.inspect_stream(
                sources, threshold=threshold, product=product or None, explain=False
            )
        elif product and product != self.detector.provenance["category"]:
            raise SpotterError(
                f"this model holds one detector, of {self.detector.provenance['category']}, not of {product}; "
                "leave the product out"
            )
        else:
            found = self.detector.inspect_stream(sources, threshold=threshold, explain=False)
        return (inspection for _, inspection in found)


def _load_pyfunc(path: str) -> PictureInspector:
    """What MLflow calls with the path of the bundle."""
    return PictureInspector(load(path, engine=fastest_installed()))


def _pictures(given: Any) -> list[Any]:
    """The pictures one by one, whichever way they came."""
    if isinstance(given, dict):
        given = _column(list(given), given)
    elif hasattr(given, "columns"):  # a data frame, whose library need not be imported to ask
        given = list(_column(list(given.columns), given))
    if isinstance(given, np.ndarray):
        is_text = given.dtype.kind in "OSU"
        is_one = not is_text and (given.ndim == 2 or (given.ndim == 3 and given.shape[-1] in (3, 4)))
        given = [given] if is_one else list(given.reshape(-1) if is_text else given)
    if isinstance(given, str | bytes):
        given = [given]
    pictures = list(given)
    if not pictures:
        raise SpotterError(
            f"no pictures given; send a column '{COLUMN}' of paths or base64 text, or an array"
        )
    return pictures


def _column(names: list[Any], table: Any) -> Any:
    if COLUMN in names:
        return table[COLUMN]
    if len(names) == 1:
        return table[names[0]]
    raise SpotterError(
        f"expected a column '{COLUMN}', found {', '.join(map(str, names)) or 'none'}; name it so"
    )


def _source(given: Any, file: Path) -> Path | NDArray[Any]:
    """A path or an array; encoded pictures are written to ``file``, so that they are read as any file is."""
    if isinstance(given, bytes | bytearray):
        file.write_bytes(given)
        return file
    if isinstance(given, Path):
        return given
    if isinstance(given, str):
        encoded = _decoded(given)
        if encoded is None:
            return Path(given)
        file.write_bytes(encoded)
        return file
    return _pixels(given)


def _pixels(given: Any) -> NDArray[Any]:
    """JSON has no ``uint8``: whole numbers in its range are taken for it."""
    try:
        pixels = np.asarray(given)
    except ValueError:
        raise SpotterError("a picture's rows differ in length; send [H, W] or [H, W, 3] numbers") from None
    if pixels.dtype in (np.int64, np.int32) and pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint8 if pixels.max() <= 255 else np.uint16)
    return pixels


def _decoded(text: str) -> bytes | None:
    """The bytes behind base64 text, ``None`` where it is a path."""
    start = text.find(_DATA_URI)
    if text.startswith("data:") and start > 0:
        text = text[start + len(_DATA_URI) :]
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    # A short word such as "part" is valid base64 too, but does not begin as a picture does.
    if found.startswith(_MAGIC):
        return found
    return text.encode() if len(text) > _LONGEST_PATH else None


def _without(message: str, scratch: str) -> str:
    """An error about an encoded picture names its number, not a temporary file."""
    return message.replace(f"{scratch}/", "picture ").replace(f"{scratch}\\", "picture ")
