"""The colours of the station keep WCAG 2.2 AA: 4.5 for text, 3 for what is not text, in light and in dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import anomaly_spotter.service

STATIC = Path(anomaly_spotter.service.__file__).parent / "static"
TOKEN = re.compile(r"--([\w-]+):\s*light-dark\((#[0-9a-f]{6}),\s*(#[0-9a-f]{6})\)")
GROUNDS = ("paper", "card", "well")
SOFT = ("accent-soft", "ok-soft", "defect-soft", "warn-soft")
TEXT = [
    *[(ink, ground) for ink in ("ink", "muted", "accent") for ground in GROUNDS],
    *[("ink", ground) for ground in SOFT],
    ("muted", "accent-soft"),
    ("muted", "defect-soft"),
    ("accent", "accent-soft"),
    ("ok", "card"),
    ("ok", "ok-soft"),
    ("ok", "accent-soft"),
    ("defect", "card"),
    ("defect", "defect-soft"),
    ("defect", "accent-soft"),
    ("warn", "card"),
    ("warn", "warn-soft"),
    ("defect", "warn-soft"),
    ("ok", "warn-soft"),
    ("on-accent", "accent"),
    ("on-ok", "ok-fill"),
    ("on-defect", "defect-fill"),
    ("paper", "ink"),  # the toast
]
PARTS = [
    *[("edge", ground) for ground in ("paper", "card", "well")],  # borders of fields and buttons
    ("accent", "card"),  # focus, progress, lines of charts
    ("accent", "well"),
    ("ok-fill", "card"),
    ("defect-fill", "card"),
    ("warn", "card"),
]


def tokens() -> dict[str, tuple[str, str]]:
    return {name: (light, dark) for name, light, dark in TOKEN.findall((STATIC / "tokens.css").read_text())}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    brighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_the_formula_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the classic near miss


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), TEXT)
def test_text_is_readable(ink, ground, scheme):
    colours = tokens()
    assert contrast(colours[ink][scheme], colours[ground][scheme]) >= 4.5


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("part", "ground"), PARTS)
def test_what_is_not_text_can_be_made_out(part, ground, scheme):
    colours = tokens()
    assert contrast(colours[part][scheme], colours[ground][scheme]) >= 3


def test_no_sheet_brings_colours_of_its_own():
    """Only the ground behind pictures and their marks are the same in both schemes."""
    allowed = {"#0b0d0f", "#7df3ff"}
    for sheet in STATIC.glob("*.css"):
        if sheet.name != "tokens.css":
            assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b", sheet.read_text())) <= allowed, sheet.name


def test_every_token_is_used_and_known():
    used = {
        name
        for sheet in [*STATIC.glob("*.css"), STATIC / "icons.svg"]
        for name in re.findall(r"var\(--([\w-]+)", sheet.read_text())
    }
    own = {"sans", "mono", "touch", "round", "gap", "mark-ink"}
    assert used - own == set(tokens())
