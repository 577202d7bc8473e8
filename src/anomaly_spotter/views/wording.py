"""Numbers to words: how the report writes shares, times and uncertainty, with a dash for what is not known."""

from __future__ import annotations

from math import isfinite, sqrt

DASH = "–"
_SPACE = "\u00a0"  # keeps a number and its unit on one line
_Z95 = 1.959964


def number(value: object, digits: int = 3) -> str:
    """``0.93`` as ``0.930``; a dash for anything that is no finite number."""
    known = as_number(value)
    return DASH if known is None else f"{known:.{digits}f}"


def percent(value: object, digits: int = 1) -> str:
    """A share in [0, 1] as ``93.0 %``."""
    known = as_number(value)
    return DASH if known is None else f"{100 * known:.{digits}f}{_SPACE}%"


def whole(value: object) -> str:
    """``1234`` as ``1,234``."""
    known = as_number(value)
    return DASH if known is None else f"{known:,.0f}"


def duration(seconds: object) -> str:
    """``75`` as ``1 min 15 s``."""
    known = as_number(seconds)
    if known is None or known < 0:
        return DASH
    if known < 10:
        return f"{known:.1f}{_SPACE}s"
    minutes, rest = divmod(round(known), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s" if minutes else f"{rest}{_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_SPACE}h {minutes}{_SPACE}min"


def plural(count: int, noun: str) -> str:
    """``1 good part``, ``2 good parts``."""
    return f"{count:,}{_SPACE}{noun}{'' if count == 1 else 's'}"


def likely_range(successes: int, trials: int) -> tuple[float, float] | None:
    """The 95 % Wilson score interval of a share; ``None`` without trials."""
    if trials < 1:
        return None
    share = successes / trials
    centre = (share + _Z95**2 / (2 * trials)) / (1 + _Z95**2 / trials)
    half = _Z95 * sqrt(share * (1 - share) / trials + _Z95**2 / (4 * trials**2)) / (1 + _Z95**2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def as_number(value: object) -> float | None:
    """A finite number, or ``None`` for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)
