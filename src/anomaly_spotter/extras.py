"""Optional parts of the package: what is missing is told in one line that names the extra which brings it."""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anomaly_spotter.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def needed(extra: str, purpose: str, *packages: str) -> Iterator[None]:
    """Turn a failed import of an optional part into one line.

    For example ``with needed("ray", "the engine 'ray' needs Ray", "ray"): import ray``.

    Args:
        extra: The extra that brings the part.
        purpose: What needs which part, for the message.
        packages: Top-level packages of the part; that another one is missing is an error of another kind.

    Raises:
        MissingExtraError: One of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in packages:
            raise
        raise missing_extra(extra, purpose) from None


def require(extra: str, purpose: str, *packages: str) -> None:
    """See that a part is installed before long work begins, without importing it.

    Raises:
        MissingExtraError: One of the packages is not installed.
    """
    if not all(importlib.util.find_spec(package) for package in packages):
        raise missing_extra(extra, purpose)


def missing_extra(extra: str, purpose: str) -> MissingExtraError:
    """The error that says what needs which part, and how to install it."""
    return MissingExtraError(f"{purpose}: pip install 'anomaly-spotter[{extra}]'")
