"""Made-up inspections and test results: drawn, never photographed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_spotter.evaluation import PictureResult
from anomaly_spotter.scoring.inspection import Inspection, Region, Verdict

MakeInspection = Callable[..., Inspection]


@pytest.fixture(scope="session")
def make_inspection() -> MakeInspection:
    """``make(rows, columns, colour=False, defect=True, normal=False, source=None)``: a part with or without a bright spot."""

    def make(
        rows: int = 96,
        columns: int = 128,
        *,
        colour: bool = False,
        defect: bool = True,
        normal: bool = False,
        source: Path | None = Path("crack/000.png"),
        **changes: object,
    ) -> Inspection:
        rng = np.random.default_rng(rows * 10_007 + columns)
        shape = (rows, columns, 3) if colour else (rows, columns)
        picture = rng.integers(90, 150, shape).astype(np.uint8)
        y, x = np.mgrid[:rows, :columns]
        radius = max(1.0, min(rows, columns) / 8)
        distance = np.hypot(y - rows // 2, x - columns // 2)
        anomaly_map = np.where(distance <= radius, 3.0 - distance / radius, 0.1).astype(np.float32)
        mask = anomaly_map > 1
        if not defect:
            anomaly_map, mask = np.full_like(anomaly_map, 0.1), np.zeros_like(mask)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        regions = tuple(
            Region(
                area=int(mask.sum()),
                box=tuple(cv2.boundingRect(contour)),
                centroid=(float(columns // 2), float(rows // 2)),
                peak=3.0,
                peak_position=(columns // 2, rows // 2),
                mean_score=2.0,
                contour=contour.reshape(-1, 2).astype(np.int32),
            )
            for contour in contours
        )
        values = {
            "verdict": Verdict.DEFECT if defect else Verdict.OK,
            "score": 3.0 if defect else 0.4,
            "threshold": 1.0,
            "p_value": 0.012 if defect else 0.5,
            "anomaly_map": anomaly_map,
            "mask": mask,
            "regions": regions,
            "picture": picture,
            "normal": picture[:, ::-1].copy() if normal else None,
            "source": source,
        }
        return Inspection(**(values | changes))

    return make


@pytest.fixture(scope="session")
def results() -> list[PictureResult]:
    """40 good, 30 cracked and 20 bent parts, with some wrong decisions of both sorts."""
    rng = np.random.default_rng(7)
    rows = []
    for kind, count, mean in (("good", 40, 0.5), ("bent", 20, 1.1), ("crack", 30, 2.0)):
        for index, score in enumerate(rng.normal(mean, 0.35, count)):
            verdict = Verdict.DEFECT if score > 1 else Verdict.OK
            rows.append(
                PictureResult(
                    Path(f"test/{kind}/{index:03}.png"), kind, kind != "good", verdict, float(score), 0.2
                )
            )
    return rows
