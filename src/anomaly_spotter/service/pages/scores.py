"""What a model file says about the good parts it was calibrated with: their scores, the limit, and the promise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from anomaly_spotter.bundle import product_names
from anomaly_spotter.scoring.conformal import Promise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomaly_spotter.service.pages.words import Words


def detectors(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a manifest that describe one detector each."""
    return list(manifest["products"]) if product_names(manifest) else [manifest]


def calibration_scores(manifest: Mapping[str, Any]) -> list[float]:
    """Scores of the held-out good parts, of all products, ascending."""
    return sorted(score for each in detectors(manifest) for score in each["calibration"]["scores"])


def limit_of(manifest: Mapping[str, Any]) -> float:
    """The decision limit; that of the first product where there are several: 1, unless no limit could be found."""
    return float(detectors(manifest)[0]["calibration"]["threshold"])


def promise_of(detector: Mapping[str, Any]) -> Promise:
    """What one detector of a manifest promises."""
    return Promise(**detector["calibration"]["promise"])


def promise_words(promise: Promise, words: Words) -> str:
    """The promise in plain words, and what the asked one would need."""
    share = words.percent(math.ceil(1000 * promise.rate - 1e-9) / 1000)  # never smaller than it is
    if promise.confidence is None:
        text = words(
            "At most {share} of good parts will be rejected, on average, as long as camera, light and part stay as they "
            "were.",
            share=share,
        )
    else:
        text = words(
            "At most {share} of good parts will be rejected, with {confidence} confidence, as long as camera, light and "
            "part stay as they were.",
            share=share,
            confidence=words.percent(promise.confidence),
        )
    if promise.is_kept:
        return text
    asked = words(
        "The asked {asked} cannot be promised from {count} calibration pictures: that takes {needed}.",
        asked=words.percent(promise.asked_rate),
        count=promise.count,
        needed=promise.needed,
    )
    return f"{text} {asked}"
