"""Training throughput: bf16 autocast + channels_last against plain fp32 in the default memory layout, in one run.

    python benchmarks/training_speed.py [--preset default] [--json FILE]

All variants train the same network on the same pictures with the same draws. Each is warmed up first, and they are
measured in turn, so that a drifting machine speed meets all. Where the precision ``auto`` does not take bf16, the
processor has no instructions for it and it is left out: emulated, it is many times slower.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from anomaly_spotter import provenance
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.training import train_unet, wants_bf16

VARIANTS = {
    "bf16 autocast, channels_last": {"precision": "bf16", "channels_last": True},
    "fp32, channels_last": {"precision": "fp32", "channels_last": True},
    "fp32, default layout": {"precision": "fp32", "channels_last": False},
}


def pictures_per_second(preset: str, variant: dict[str, object], epochs: int) -> float:
    training = {**variant, "epochs": epochs, "pictures_per_epoch": 64, "patience": None, "batch_size": 16}
    config = SpotterConfig.load(preset, overrides={"training": training}, environment={})
    side, channels = config.preprocessing.long_side, 3 if config.preprocessing.colour == "rgb" else 1
    pictures = np.random.default_rng(0).integers(0, 256, (64, side, side, channels), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as run_dir:
        result = train_unet(pictures, np.arange(64), np.arange(2), config, Path(run_dir), show_progress=False)
    return result.pictures_per_second


def measure(preset: str, rounds: int, *, bf16: bool) -> dict[str, float]:
    variants = {name: variant for name, variant in VARIANTS.items() if bf16 or variant["precision"] != "bf16"}
    for variant in variants.values():
        pictures_per_second(preset, variant, epochs=1)
    measured: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            measured[name].append(pictures_per_second(preset, variant, epochs=2))
    return {name: statistics.median(values) for name, values in measured.items()}


def gflop_per_picture(preset: str) -> float:
    """Forwards and backwards, with the share of the two validation pictures."""
    with FlopCounterMode(display=False) as counter:
        pictures_per_second(preset, VARIANTS["fp32, default layout"], epochs=1)
    return counter.get_total_flops() / 64 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", action="append", help="repeatable; default and seed if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = {"provenance": provenance.stamp(), "presets": {}, "gflop_per_picture": {}}
    for preset in arguments.preset or ["unet", "seed"]:
        bf16 = wants_bf16(SpotterConfig.load(preset, environment={}).training)
        medians = measure(preset, arguments.rounds, bf16=bf16)
        plain = medians["fp32, default layout"]
        print(f"{preset} ('auto' precision on this machine: {'bf16' if bf16 else 'fp32'})")
        for name, value in medians.items():
            print(f"  {name:<30} {value:8.1f} pictures/s   {value / plain:5.2f} x plain")
        report["presets"][preset] = medians
        if arguments.json:  # an epoch more, which only the file tells of
            report["gflop_per_picture"][preset] = gflop_per_picture(preset)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
