"""Alignment on real screws: learned from some good pictures, tried on others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from anomaly_spotter.inputs.alignment import Aligner, Reason, fit_aligner

if TYPE_CHECKING:
    from pathlib import Path


def _read(paths: list[Path]) -> list[np.ndarray]:
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]


@pytest.fixture(scope="module")
def screws(real_data: Path) -> list[np.ndarray]:
    return _read(sorted((real_data / "mvtec_ad/screw/train/good").iterdir())[::4])


@pytest.fixture(scope="module")
def aligner(screws: list[np.ndarray]) -> Aligner:
    return fit_aligner("template", screws[::2])[0]


def _aligned(aligner: Aligner, pictures: list[np.ndarray]) -> np.ndarray:
    return np.stack(
        [
            cv2.warpAffine(
                picture,
                aligner.locate(picture).matrix,
                aligner.frame,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for picture in pictures
        ]
    )


def _sharpness(aligned: np.ndarray) -> float:
    """Mean of the steepest hundredth of the mean picture."""
    down, right = np.gradient(aligned.mean(axis=0))
    steepness = np.sort(np.hypot(down, right), axis=None)
    return float(steepness[-steepness.size // 100 :].mean())


def test_unseen_screws_are_aligned_sharply(aligner: Aligner, screws: list[np.ndarray]) -> None:
    outline_only = fit_aligner("foreground", screws[::2])[0]
    unseen = screws[1::2]

    aligned = _aligned(aligner, unseen)

    assert _sharpness(aligned) > 1.5 * _sharpness(_aligned(outline_only, unseen))
    flat = aligned.reshape(len(aligned), -1).astype(np.float64)
    similarities = np.corrcoef(flat)[np.triu_indices(len(flat), 1)]
    assert similarities.mean() > 0.85
    assert similarities.min() > 0.5  # no screw lies the wrong way round


def test_good_and_defective_screws_are_found(
    aligner: Aligner, screws: list[np.ndarray], real_data: Path
) -> None:
    test = real_data / "mvtec_ad/screw/test"
    good = screws[1::2] + _read(sorted((test / "good").iterdir()))
    defective = _read(sorted((test / "manipulated_front").iterdir())[::3])

    assert [aligner.locate(picture).reason for picture in good] == [None] * len(good)
    assert sum(aligner.locate(picture).reason is not None for picture in defective) <= 1


def test_what_cannot_be_judged_is_said_why(aligner: Aligner, screws: list[np.ndarray]) -> None:
    for first, second in zip(screws[1:12:2], screws[3:14:2], strict=True):
        pose = aligner.locate(first)
        middle = pose.matrix @ [aligner.frame[0] / 2, aligner.frame[1] / 2, 1]
        halved = np.ascontiguousarray(first[:, int(middle[0]) :])
        assert aligner.locate(halved).reason is Reason.CUT
        assert aligner.locate(np.hstack([first, second])).reason is Reason.SEVERAL
        assert aligner.locate(np.full_like(first, int(np.median(first)))).reason is Reason.NO_PART
