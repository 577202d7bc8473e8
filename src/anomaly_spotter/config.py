"""One typed, validated configuration tree. It is read once at the edge: preset < YAML file < environment < overrides.

Environment variables are named after the path of the setting, for example
``ANOMALY_SPOTTER__TRAINING__EPOCHS=30``; overrides are written ``training.epochs=30``.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from anomaly_spotter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENVIRONMENT_PREFIX = "ANOMALY_SPOTTER__"

Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
Width = Annotated[int, Field(ge=1, le=4096)]
Evidence = Literal["grey", "gradient", "features", "segmentation"]


class _Section(BaseModel):
    """Unknown settings are errors: a mistyped name must never be ignored in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PreprocessingConfig(_Section):
    """Picture to network canvas.

    Attributes:
        long_side: Longer side of the canvas in pixels; pictures are never enlarged to reach it when aspect is kept.
        aspect: ``keep`` scales and pads; ``squash`` stretches every picture to ``long_side`` x ``long_side``.
        colour: ``auto`` takes grey when every training picture is grey.
        alignment: Bring the part into its normal pose: by its ``foreground`` alone, or by registration to the
            ``template`` of the good parts; ``auto`` takes the template where a part stands out, else ``none``.
        illumination: Light normalisation: ``robust`` (whole picture), ``background`` (local), or ``none``; ``auto`` is
            settled by the model ``auto``, and is ``none`` for the others.
        background: Whether what lies beside an aligned part counts: ``ignore`` leaves dust and fibres on the belt out,
            ``count`` takes the whole picture. Without alignment, or with a ``region``, it means nothing.
        region: Where defects count: a PNG (white counts) or a JSON file of polygons, drawn on ``region_on``.
        region_on: The picture that the region was drawn on; the first good picture if not given.
    """

    long_side: int = Field(default=256, ge=32, le=4096)
    aspect: Literal["keep", "squash"] = "keep"
    colour: Literal["auto", "grey", "rgb"] = "auto"
    alignment: Literal["auto", "none", "foreground", "template"] = "none"
    illumination: Literal["auto", "none", "robust", "background"] = "none"
    background: Literal["ignore", "count"] = "ignore"
    region: Path | None = None
    region_on: Path | None = None


class AugmentationConfig(_Section):
    """Random changes of good pictures while training; all of them leave a good part good.

    Attributes:
        rotate: Largest rotation in degrees, either way; 180 covers every angle.
        flip: Mirror left-right and top-bottom with probability one half each.
        gain: Largest relative change of contrast, for example 0.1 for +-10 %.
        offset: Largest change of brightness in grey levels of 255.
    """

    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    flip: bool = False
    gain: float = Field(default=0.0, ge=0.0, lt=1.0)
    offset: float = Field(default=0.0, ge=0.0, le=127.0)


class ModelConfig(_Section):
    """The picture -> anomaly map stage.

    Attributes:
        name: A name of the model registry, or ``auto`` to choose one from the good pictures.
        features: ``memory`` and ``gaussian``: backbone of the patch features, ``lite0`` to ``lite2`` or one of timm's
            such as ``timm:resnet18``, or ``gradients`` for none.
        weights: Weight file, ``.pth`` or ``.safetensors``, of a backbone of timm; nothing is downloaded, and once
            fitted the detector does not need it.
        dimensions: ``memory`` and ``gaussian``: principal components that are kept.
        places: ``memory`` and ``gaussian``: ``local`` compares a patch with good ones at its own place, ``global`` with
            good ones anywhere.
        prototypes: ``memory``: most good pictures that are remembered.
        widths: Channels at full, half, quarter and eighth resolution (3 down-sampling levels).
        stem: 1 works on pixels; 2 folds 2 x 2 pixels into channels first (Shi et al. 2016), so that the same widths
            cost a quarter.
        skips: Whether the skip connection at full, half and quarter resolution exists.
        batch_norm: Batch normalisation after every convolution of the encoder and decoder.
        reference: The network also sees the mean good picture, which means much where parts are aligned.
        error: ``squared`` or ``absolute`` reconstruction error, mean over channels.
        evidence: What the anomaly map adds up: the reconstruction error in ``grey`` (or colour), in the ``gradient``,
            in the backbone's ``features``, and the ``segmentation`` of what the network was taught to remove. The last
            two are outputs of their own.
    """

    name: Literal["auto", "memory", "gaussian", "unet"] = "unet"
    features: Annotated[str, Field(pattern=r"^(lite[012]|gradients|timm:[A-Za-z0-9_.]+)$")] = "lite0"
    weights: Path | None = Field(default=None, validate_default=True)
    dimensions: int = Field(default=96, ge=2, le=512)
    places: Literal["local", "global"] = "local"
    prototypes: int = Field(default=512, ge=2)
    widths: tuple[Width, Width, Width, Width] = (32, 64, 128, 256)
    stem: Literal[1, 2] = 1
    skips: tuple[bool, bool, bool] = (True, True, True)
    batch_norm: bool = False
    reference: bool = False
    error: Literal["squared", "absolute"] = "squared"
    evidence: tuple[Evidence, ...] = Field(default=("grey",), min_length=1)

    @field_validator("weights")
    @classmethod
    def _weights_fit_features(cls, weights: Path | None, info: ValidationInfo) -> Path | None:
        is_file_needed = str(info.data.get("features")).startswith("timm:")
        if is_file_needed and weights is None:
            raise ValueError("a backbone of timm needs its weight file, .pth or .safetensors")
        if weights is not None and not is_file_needed:
            raise ValueError("only a backbone of timm takes a weight file, e.g. model.features=timm:resnet18")
        return weights


class AutoConfig(_Section):
    """The choice made by the model ``auto``.

    Attributes:
        budget: Seconds that choosing and fitting may take for some 300 pictures on two cores; decides how many
            resolutions are tried.
    """

    budget: float = Field(default=300.0, gt=0.0)


class TrainingConfig(_Section):
    """The optimisation.

    Attributes:
        epochs: Largest number of passes over the training pictures.
        pictures_per_epoch: ``None`` shows every picture once per epoch; a number makes the effort independent of how
            many good pictures there are (each is shown equally often, up to one).
        batch_size: Pictures per step of each process.
        learning_rate: Adam's step size (the peak of the schedule).
        schedule: ``constant``, or ``one_cycle`` (Smith & Topin 2019).
        loss: ``mse`` or ``l1`` between reconstruction and good picture.
        patience: Epochs without a better validation loss before training stops; ``None`` never stops early.
        validation_fraction: Share of the non-calibration good pictures held out for early stopping.
        corruption: Strength of the synthetic defects the network learns to remove; 0 trains a plain autoencoder.
        precision: ``auto`` takes bf16 autocast where the processor has bf16 instructions, else fp32; ``fp16`` is for
            graphics cards.
        devices: Processes that train together on each machine: one per graphics card, or on processors alone.
        nodes: Machines that train together.
        strategy: How they do: ``ddp``, each on its share of every batch, with the mean of all gradients.
        channels_last: Memory layout; ``False`` only to measure what it brings.
        framework: What trains the U-Net: ``torch``, or ``keras`` on the backend that ``KERAS_BACKEND`` names
            (TensorFlow if none). The detector runs on every engine either way.
        seed: Seed of the split, the weights and every random draw.
    """

    epochs: int = Field(default=50, ge=1)
    pictures_per_epoch: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0.0)
    schedule: Literal["constant", "one_cycle"] = "constant"
    loss: Literal["mse", "l1"] = "mse"
    patience: int | None = Field(default=10, ge=1)
    validation_fraction: float = Field(default=0.1, gt=0.0, lt=0.5)
    corruption: float = Field(default=0.0, ge=0.0, le=4.0)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    devices: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    strategy: Literal["ddp"] = "ddp"
    channels_last: bool = True
    framework: Literal["torch", "keras"] = "torch"
    seed: int = Field(default=0, ge=0, lt=2**63)


class ScoringConfig(_Section):
    """Anomaly map -> score, mask and regions.

    Attributes:
        smoothing_sigma: Gaussian smoothing of the anomaly map, in canvas pixels; 0 for none.
        normalise: ``location`` measures each place of the map against what is usual there on good parts.
        pooling: Image score: ``max`` of the map, or ``top_mean``, the mean of its highest ``top_fraction``.
        top_fraction: See ``pooling``.
        mask: ``calibrated`` pixel threshold, or ``otsu`` on the picture's own min-max normalised map.
        pixel_false_positive_rate: Share of good parts' pixels above the calibrated pixel threshold.
        min_area: Smallest region that is kept, in the picture's own pixels.
        display: Heat maps on the ``calibrated`` scale (pictures compare), or each on its own ``minmax``.
    """

    smoothing_sigma: float = Field(default=1.0, ge=0.0)
    normalise: Literal["none", "location"] = "none"
    pooling: Literal["max", "top_mean"] = "max"
    top_fraction: Rate = 0.01
    mask: Literal["calibrated", "otsu"] = "calibrated"
    pixel_false_positive_rate: Rate = 0.002
    min_area: int = Field(default=1, ge=1)
    display: Literal["calibrated", "minmax"] = "calibrated"


class CalibrationConfig(_Section):
    """What is promised about good parts.

    Attributes:
        false_reject_rate: Share of good parts that may be called DEFECT.
        confidence: ``None`` promises the rate on average over calibrations; a value such as 0.95 promises it for
            this very calibration with that confidence, which needs more good pictures.
        min_fraction: Share of the good pictures that is held out for calibration even if the rate needs fewer: a limit
            from few scores keeps its promise on average, but varies much from one calibration to the next.
        max_fraction: Largest share that is held out, even if the rate needs more.
    """

    false_reject_rate: Rate = 0.01
    confidence: Rate | None = None
    min_fraction: float = Field(default=0.2, ge=0.0, le=0.5)
    max_fraction: float = Field(default=1 / 3, gt=0.0, le=0.5)


class TrackingConfig(_Section):
    """Where runs are recorded; decides nothing about a detector and is not stored in it.

    Attributes:
        enabled: Record runs with MLflow.
        uri: Tracking store or server; ``None`` takes ``MLFLOW_TRACKING_URI``, else an SQLite store below the output
            folder.
        experiment: MLflow's experiment.
        registered_model: Name in the model registry; ``None`` takes the category's.
        champion: Which new version becomes the registry's ``champion``: the ``first`` one, ``always`` the newest, or
            ``never`` any by itself.
        tensorboard: Also write TensorBoard event files below the output folder; needs no MLflow.
    """

    enabled: bool = False
    uri: str | None = None
    experiment: Annotated[str, Field(min_length=1)] = "anomaly-spotter"
    registered_model: str | None = None
    champion: Literal["first", "always", "never"] = "first"
    tensorboard: bool = False


class SpotterConfig(_Section):
    """Everything that determines a detector, besides the pictures; and where its making is recorded."""

    preset: str = "default"
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    auto: AutoConfig = AutoConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    tracking: TrackingConfig = Field(default=TrackingConfig(), exclude=True)  # never in a bundle or a result

    @model_validator(mode="after")
    def _three_levels_fit(self) -> Self:
        if self.preprocessing.long_side % 16:
            raise ValueError("preprocessing.long_side must be a multiple of 16")
        return self

    @model_validator(mode="after")
    def _segmentation_is_learned(self) -> Self:
        if "segmentation" in self.model.evidence and not self.training.corruption:
            raise ValueError(
                "model.evidence: segmentation learns from synthetic defects; set training.corruption, e.g. 1.0"
            )
        return self

    @model_validator(mode="after")
    def _keras_trains_networks(self) -> Self:
        training = self.training
        if training.framework != "keras":
            return self
        if self.model.name != "unet":
            raise ValueError(
                f"training.framework=keras trains the U-Net, not '{self.model.name}'; set model.name=unet"
            )
        if training.devices * training.nodes > 1 or training.precision == "fp16":
            raise ValueError(
                "training.framework=keras trains in one process, in fp32 or bf16; leave training.devices, nodes and fp16 "
                "to training.framework=torch"
            )
        return self

    @classmethod
    def load(
        cls,
        preset: str = "default",
        file: Path | None = None,
        overrides: Mapping[str, Any] | Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Merge preset, file, environment and overrides, later ones winning.

        Args:
            preset: Name of a preset, see :func:`preset_names`.
            file: YAML file with any part of the tree.
            overrides: Nested mapping, or ``"section.setting=value"`` strings with YAML values.
            environment: Defaults to :data:`os.environ`.

        Raises:
            ConfigError: Unknown preset, unreadable file, unknown setting or value out of range.
        """
        tree: dict[str, Any] = {"preset": preset} | _preset_tree(preset)
        if file is not None:
            tree = _merge(tree, _read_yaml(file))
        tree = _merge(tree, _from_environment(os.environ if environment is None else environment))
        if isinstance(overrides, dict):
            tree = _merge(tree, overrides)
        else:
            for override in overrides:
                tree = _merge(tree, _from_assignment(str(override)))
        return cls.parse(tree)

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Self:
        """Validate a plain tree, as stored in a bundle.

        Raises:
            ConfigError: Unknown setting or value out of range, each named in one line.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(_one_line(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Everything that determines the detector as JSON-able values."""
        return self.model_dump(mode="json")


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in _preset_folder().glob("*.yaml"))


def _preset_folder() -> Path:
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def _preset_tree(preset: str) -> dict[str, Any]:
    """A preset on top of the one it extends."""
    tree = _read_yaml(_preset_file(preset))
    base = tree.pop("extends", None)
    return tree if base is None else _merge(_preset_tree(base), tree)


def _preset_file(preset: str) -> Path:
    if preset not in preset_names():
        raise ConfigError(f"unknown preset '{preset}'; choose one of: {', '.join(preset_names())}")
    return _preset_folder() / f"{preset}.yaml"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a YAML mapping of sections, found {type(tree).__name__}")
    return tree


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            tree = _merge(tree, _nest(keys, _scalar(value)))
    return tree


def _from_assignment(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(
            f"'{text}' is not an override; write section.setting=value, e.g. training.epochs=30"
        )
    return _nest(path.strip().split("."), _scalar(value))


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _one_line(error: ValidationError) -> str:
    problems = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            problems.append(f"{where}: no such setting{_meant(detail['loc'])}")
            continue
        given = "" if detail["type"] == "missing" else f" (found {detail['input']!r})"
        problems.append(f"{where}: {detail['msg']}{given}" if where else detail["msg"])
    return "configuration: " + "; ".join(problems)


def _meant(place: tuple[int | str, ...]) -> str:
    """The setting that a mistyped one resembles, as a question; else those that its section has."""
    section: type[BaseModel] = SpotterConfig
    for name in place[:-1]:
        section = section.model_fields[str(name)].annotation  # type: ignore[assignment]
    known = list(section.model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
