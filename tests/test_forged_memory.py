"""A bundle whose hashes are right and whose memory is not: one line, on every engine, at the latest with the first picture."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from anomaly_spotter import Spotter
from anomaly_spotter.bundle import Bundle, read_bundle
from anomaly_spotter.errors import BundleError
from tests.conftest import draw_part, write_png
from tests.test_products import CONFIG

DAMAGES = {
    "exemplars of another format": lambda a: a | {"exemplars": np.zeros_like(a["exemplars"])},
    "exemplars cut": lambda a: a | {"exemplars": a["exemplars"][:-100]},
    "ends beyond the exemplars": lambda a: a | {"exemplar_ends": a["exemplar_ends"] + 10**6},
    "no exemplars": lambda a: {name: value for name, value in a.items() if name != "exemplars"},
    "origins too few": lambda a: a | {"origins": a["origins"][:-1]},
    "no origins": lambda a: {name: value for name, value in a.items() if name != "origins"},
    "places too few": lambda a: a | {"bank": a["bank"][:-1], "centre": a["centre"][:-1]},
    "counts beyond the range": lambda a: a | {"bank": np.full_like(a["bank"], 91)},
    "origins flat": lambda a: a | {"origins": a["origins"].ravel()},
    "origins of no exemplar": lambda a: a | {"origins": a["origins"] + 10**6},
    "origins below zero": lambda a: a | {"origins": a["origins"] - [[10**6, 0]]},
    "projection of other features": lambda a: a | {"mean": a["mean"][:-1], "components": a["components"][:-1]},
    "projection to fewer": lambda a: a | {"components": a["components"][:, :-1]},
    "projection flat": lambda a: a | {"components": a["components"].ravel()},
}  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder, rng = tmp_path_factory.mktemp("memory"), np.random.default_rng(3)
    for index in range(12):
        write_png(folder / "good" / f"{index:02}.png", draw_part(rng)[0])
    return read_bundle(Spotter.fit(folder / "good", config=CONFIG).save(folder / "a.spot"))


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_in_one_line(stored, engine, damage):
    if engine != "torch":
        pytest.importorskip(engine)
    own = {
        name.removeprefix("model."): array
        for name, array in stored.arrays.items()
        if name.startswith("model.")
    }
    others = {name: array for name, array in stored.arrays.items() if not name.startswith("model.")}
    damaged = {f"model.{name}": array for name, array in DAMAGES[damage](own).items()}
    forged = dataclasses.replace(stored, arrays={**others, **damaged})
    with pytest.raises(BundleError) as caught:
        found = Spotter.from_bundle(forged, "forged.spot", engine=engine).inspect(
            draw_part(np.random.default_rng(4), defect=True)[0]
        )
        assert found.normal is not None  # looks are drawn when they are asked for
    assert "\n" not in str(caught.value)
