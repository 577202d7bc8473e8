"""What MLflow's pyfunc flavour takes as pictures, without MLflow."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import pandas as pd
import pytest

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.products import ProductSpotter
from anomaly_spotter.tracking.flavour import COLUMNS, PictureInspector, _load_pyfunc
from tests.conftest import draw_part


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    rng = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("pictures")
    pictures = [draw_part(rng, defect=defect)[0] for defect in (False, True)]
    for number, picture in enumerate(pictures):
        (folder / f"{number}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        (folder / f"{number}.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    return sorted(folder.iterdir())


def test_every_form_of_a_picture_gives_the_bundles_verdict(spotter, files):
    inspector = PictureInspector(spotter)
    expected = [found.score for found in spotter.inspect(files)]
    raw = [file.read_bytes() for file in files]
    text = [base64.b64encode(each).decode() for each in raw]
    forms = [
        [str(file) for file in files],
        files,
        raw,
        text,
        [f"data:image/png;base64,{each}" for each in text],
        np.array(text),
        {"picture": text},
        pd.DataFrame({"picture": raw, "station": 7}),
        [cv2.imread(str(file), cv2.IMREAD_UNCHANGED).tolist() for file in files],
    ]
    for given in forms:
        answer = inspector.predict(given)
        assert list(answer.columns) == list(COLUMNS)
        assert list(answer["score"]) == pytest.approx(expected)
    one = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
    assert list(inspector.predict(one)["score"]) == pytest.approx(expected[:1])


def test_deep_pictures_keep_their_depth(spotter, files):
    deep = cv2.imread(str(files[1]), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 257
    encoded = base64.b64encode(cv2.imencode(".png", deep)[1].tobytes()).decode()
    inspector = PictureInspector(spotter)
    (from_file,) = inspector.predict([encoded])["score"]
    (from_numbers,) = inspector.predict([deep.tolist()])["score"]
    assert from_file == pytest.approx(spotter.inspect(deep).score)
    assert from_numbers == pytest.approx(from_file)


def test_what_cannot_be_read_has_its_row(spotter, files):
    broken = base64.b64encode(files[0].read_bytes()[:60]).decode()
    answer = PictureInspector(spotter).predict([str(files[0]), "part", broken, "x" * 9000])
    assert answer["verdict"].isna().tolist() == [False, True, True, True]
    assert answer["error"][1].startswith("part:")
    assert answer["error"][2].startswith("picture 2:")
    assert "anomaly-spotter-" not in " ".join(answer["error"][1:])


def test_wrong_input_is_named(spotter):
    inspector = PictureInspector(spotter)
    with pytest.raises(SpotterError, match="no pictures given"):
        inspector.predict([])
    with pytest.raises(SpotterError, match="expected a column 'picture', found a, b"):
        inspector.predict(pd.DataFrame({"a": ["x"], "b": ["y"]}))
    with pytest.raises(SpotterError, match="differ in length"):
        inspector.predict([[[1, 2], [3]]])
    with pytest.raises(SpotterError, match="not of nut"):
        inspector.predict(["a.png"], {"product": "nut"})


def test_only_the_bundle_is_read(bundle, spotter, files):
    inspector = _load_pyfunc(str(bundle))
    expected = [found.verdict.value for found in spotter.inspect(files)]
    assert list(inspector.predict(files)["verdict"]) == expected
    assert not isinstance(inspector.detector, ProductSpotter)
