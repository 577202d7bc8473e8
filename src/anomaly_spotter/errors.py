"""Errors a user can mend. Each message is one line: what was expected, what was found, how to mend it."""

from __future__ import annotations


class SpotterError(Exception):
    """Base of every error this package raises on purpose; the command line prints it without a traceback."""


class PictureError(SpotterError):
    """A picture cannot be read or used (missing, empty, corrupt, wrong type, too large)."""


class DatasetError(SpotterError):
    """A data set cannot be used (missing folder, unknown layout, no good pictures, bad manifest)."""


class ConfigError(SpotterError):
    """A setting is unknown or out of range."""


class BundleError(SpotterError):
    """A model file is missing, truncated, foreign, of another format version, or was edited."""


class MissingExtraError(SpotterError):
    """An optional part of the package is not installed; the message names the extra that brings it."""


class Interrupted(Exception):  # noqa: N818  a user's request, not an error
    """Ctrl-C came before there was anything to keep."""
