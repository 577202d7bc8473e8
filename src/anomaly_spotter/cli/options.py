"""Options that several verbs share, and how they become settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from anomaly_spotter.config import SpotterConfig

Data = Annotated[
    Path, typer.Option("--data", help="Data set root, folder of good pictures, or CSV manifest.")
]
Category = Annotated[str | None, typer.Option(help="Category below the data root.")]
Product = Annotated[
    str | None, typer.Option(help="Which product, where the model file holds several (its category).")
]
Layout = Annotated[
    str | None,
    typer.Option(help="mvtec, folder, csv, visa, btad, kolektor or loco; found by itself if not given."),
]
BundleFile = Annotated[Path, typer.Option("--bundle", help="Model file (.spot) written by 'train'.")]
Engine = Annotated[
    str | None,
    typer.Option(
        help="What runs the model: torch, onnxruntime, openvino, openvino-bf16, keras, or auto, the fastest that decides "
        "the same (the default where one is installed)."
    ),
]
EngineOrRay = Annotated[
    str | None,
    typer.Option(
        help="What runs the model: torch, onnxruntime, openvino, openvino-bf16, keras, or auto, the fastest that decides "
        "the same (the default where one is installed); or ray, to run that on all processors of a Ray cluster."
    ),
]
Address = Annotated[
    str | None, typer.Option(help="Of a running Ray cluster; one is started on this machine if not given.")
]
Pictures = Annotated[list[Path], typer.Argument(help="Picture files, or folders of them.")]
OptionalPictures = Annotated[
    list[Path] | None, typer.Argument(help="Picture or video files, or folders of pictures.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON to this file.")]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Settings to start from: default (chooses the model), memory, gaussian, unet, demo (quick), or seed (the "
        "original recipe). If not given, that of --model."
    ),
]
Budget = Annotated[
    float | None, typer.Option(help="Seconds for choosing and fitting, for some 300 pictures on two cores.")
]
Align = Annotated[
    str | None, typer.Option(help="Bring parts into one pose: auto, none, foreground or template.")
]
Region = Annotated[
    Path | None,
    typer.Option(help="Where defects count: PNG (white counts) or JSON polygons, drawn on --region-on."),
]
RegionOn = Annotated[
    Path | None, typer.Option(help="Picture the region was drawn on; the first good one if not given.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file with settings on top of the preset.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, e.g. training.batch_size=8. Repeatable.")
]
Framework = Annotated[
    str | None,
    typer.Option(help="What trains the U-Net: torch, or keras (KERAS_BACKEND names its backend)."),
]
Epochs = Annotated[int | None, typer.Option(help="Largest number of passes over the good pictures.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random draw.")]
Rate = Annotated[
    float | None,
    typer.Option("--false-reject-rate", help="Share of good parts that may be rejected, e.g. 0.01."),
]
Confidence = Annotated[
    float | None,
    typer.Option(help="Promise the rate with this confidence, e.g. 0.95, instead of on average."),
]
Devices = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that train a unet together: one per graphics card, or on processors."
    ),
]
Nodes = Annotated[
    int | None, typer.Option(min=1, help="Machines that train a unet together; start the command on each.")
]
Strategy = Annotated[str | None, typer.Option(help="How they train together: ddp.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unusable pictures out instead of stopping.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run to the same result.")]
Categories = Annotated[str | None, typer.Option(help="Comma-separated; all that are found if not given.")]


def names(text: str) -> list[str]:
    """``"a, b"`` as ``["a", "b"]``."""
    return [name.strip() for name in text.split(",") if name.strip()]


def load_config(
    preset: str | None,
    file: Path | None,
    overrides: list[str],
    model: str | None = None,
    framework: str | None = None,
) -> SpotterConfig:
    """The settings of a preset, by default the model's own, and a file, with overrides on top."""
    from anomaly_spotter.config import SpotterConfig, preset_names

    if framework == "keras" and not (model or file):
        model = "unet"  # the only one that it trains
    own = model if model in preset_names() else None
    return SpotterConfig.load(preset or own or "default", file, overrides)


def overrides(
    settings: list[str] | None,
    *,
    model: str | None = None,
    framework: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    false_reject_rate: float | None = None,
    confidence: float | None = None,
    budget: float | None = None,
    align: str | None = None,
    region: Path | None = None,
    region_on: Path | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    strategy: str | None = None,
) -> list[str]:
    """Options as ``section.setting=value``; what was not given stays as the preset has it."""
    named = {
        "model.name": model,
        "training.framework": framework,
        "training.epochs": epochs,
        "training.seed": seed,
        "calibration.false_reject_rate": false_reject_rate,
        "calibration.confidence": confidence,
        "auto.budget": budget,
        "preprocessing.alignment": align,
        "preprocessing.region": region,
        "preprocessing.region_on": region_on,
        "training.devices": devices,
        "training.nodes": nodes,
        "training.strategy": strategy,
    }
    return [*(settings or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]
