"""Quality of the U-Net trained by Keras beside PyTorch: same preset, pictures, draws and first weights, on the sample.

Run as ``python benchmarks/quality/frameworks.py``; ``KERAS_BACKEND`` names Keras's backend. Writes
``benchmarks/quality/results/frameworks.json`` after each training, and goes on with one that was broken off, and
``frameworks.md`` beside it: each number's difference between the frameworks, next to its spread over the seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.files import write_atomic, write_json
from anomaly_spotter.inputs.sample import write_sample
from anomaly_spotter.provenance import stamp
from anomaly_spotter.spotter import Spotter

RESULTS = Path(__file__).parent / "results" / "frameworks.json"
SAMPLE = {"train": 80, "test_good": 24, "per_kind": 8, "size": 192}
FRAMEWORKS = ("torch", "keras")
MEASURES = {
    "AUROC of pictures": ("image", "auroc"),
    "F1 of verdicts": ("image", "f1"),
    "AUROC of pixels": ("pixel", "auroc"),
    "AUPRO 0.3": ("pixel", "aupro"),
}
Cell = dict[str, Any]


def settings(asked: argparse.Namespace) -> list[str]:
    """On top of the preset ``unet``; both frameworks compute in fp32."""
    return [
        f"preprocessing.long_side={asked.side}",
        "preprocessing.alignment=none",
        f"training.epochs={asked.epochs}",
        f"training.pictures_per_epoch={asked.pictures}",
        f"training.batch_size={asked.batch}",
        "training.precision=fp32",
        "calibration.false_reject_rate=0.05",
    ]


def trained(root: Path, category: str, framework: str, seed: int, overrides: list[str]) -> Cell:
    own = [f"training.framework={framework}", f"training.seed={seed}"]
    config = SpotterConfig.load("unet", overrides=overrides + own, environment={})
    spotter = Spotter.fit(root, category, config=config)
    summary = spotter.evaluate(root, category).summary
    return {
        "category": category,
        "framework": framework,
        "seed": seed,
        "trained_by": spotter.provenance.get("framework", "torch"),
        "train_sha256": spotter.provenance["data_sha256"],
        "test_sha256": summary["data"]["sha256"],
        "losses": [[row["train_loss"], row["val_loss"]] for row in spotter.provenance["history"]],
        "measures": {name: summary[part][key] for name, (part, key) in MEASURES.items()},
    }


def table(cells: list[Cell]) -> str:
    """One row per category and number, of the seeds that both frameworks have trained."""
    heads = (
        "category",
        "number",
        "seeds",
        "PyTorch, mean (range)",
        "Keras, mean (range)",
        "difference of the means",
        "largest difference of one seed",
        "range over seeds, the larger",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for category in dict.fromkeys(cell["category"] for cell in cells):
        by_framework = [
            {
                cell["seed"]: cell["measures"]
                for cell in cells
                if (cell["category"], cell["framework"]) == (category, framework)
            }
            for framework in FRAMEWORKS
        ]
        seeds = sorted(by_framework[0].keys() & by_framework[1].keys())
        for name in MEASURES if seeds else ():
            torch, keras = ([found[seed][name] for seed in seeds] for found in by_framework)
            apart = sum(keras) / len(keras) - sum(torch) / len(torch)
            paired = max(abs(one - other) for one, other in zip(torch, keras, strict=True))
            spread = max(max(values) - min(values) for values in (torch, keras))
            shown_spread = f"{spread:.4f}" if len(seeds) > 1 else "-"  # one seed says nothing about noise
            shown = [f"{sum(v) / len(v):.4f} ({min(v):.4f} to {max(v):.4f})" for v in (torch, keras)]
            row = [category, name, len(seeds), *shown, f"{apart:+.4f}", f"{paired:.4f}", shown_spread]
            lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--categories", default="hazelnut,fabric")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--pictures", type=int, default=96, help="Per epoch.")
    parser.add_argument("--batch", type=int, default=8)
    asked = parser.parse_args()
    categories, overrides = asked.categories.split(","), settings(asked)
    result = {"measured": stamp(), "preset": "unet", "sample": SAMPLE, "settings": overrides, "cells": []}
    if RESULTS.is_file() and (before := json.loads(RESULTS.read_text()))["settings"] == overrides:
        result = before
    cells: list[Cell] = result["cells"]
    known = {(cell["category"], cell["framework"], cell["seed"]) for cell in cells}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_sample(root, categories, **SAMPLE)
        for seed in map(int, asked.seeds.split(",")):  # outermost: what is broken off has whole pairs
            for category in categories:
                for framework in FRAMEWORKS:
                    if (category, framework, seed) in known:
                        continue
                    cells.append(trained(root, category, framework, seed, overrides))
                    print(
                        {key: cells[-1][key] for key in ("category", "framework", "seed", "measures")},
                        flush=True,
                    )
                    write_json(RESULTS, result)
                    write_atomic(RESULTS.with_suffix(".md"), table(cells).encode())


if __name__ == "__main__":
    main()
