"""English or Italian: which language a browser is answered in, and the words, numbers and times of that language.

English texts are their own keys; ``translations/it.yaml`` maps each to Italian. A test finds every text that a page or a
script uses and fails where one has no translation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

LANGUAGES = {"en": "English", "it": "Italiano"}
DASH = "–"


@cache
def translations(language: str) -> Mapping[str, str]:
    """English text to that of ``language``; empty for English itself."""
    if language == "en":
        return {}
    source = resources.files("anomaly_spotter.service") / "translations" / f"{language}.yaml"
    found: dict[str, str] = yaml.safe_load(source.read_text(encoding="utf-8"))
    return found


def negotiate(cookie: str | None, accept: str | None) -> str:
    """The language a person chose, else the first that their browser accepts and we know, else English.

    Args:
        cookie: The choice kept from an earlier visit.
        accept: Header ``Accept-Language``, in order of preference as browsers write it.
    """
    wished = [cookie or "", *(part.split(";")[0].strip()[:2].lower() for part in (accept or "").split(","))]
    return next((language for language in wished if language in LANGUAGES), "en")


@dataclass(frozen=True, slots=True)
class Words:
    """Texts, numbers and times in one language.

    Attributes:
        language: ``en`` or ``it``.
    """

    language: str = "en"

    def __call__(self, text: str, **values: object) -> str:
        """``text`` in this language, its ``{names}`` filled in.

        A ``Markup`` text is filled with escaped values and stays ``Markup``.
        """
        found = translations(self.language).get(str(text), str(text))
        if isinstance(text, Markup):
            return Markup(found).format(**{name: escape(value) for name, value in values.items()})  # noqa: S704  ours
        return found.format(**values) if values else found

    def count(self, number: int, one: str, many: str, **values: object) -> str:
        """``one`` or ``many`` with ``{n}`` filled in, for example "{n} picture" or "{n} pictures"."""
        return self(one if number == 1 else many, n=self.number(number), **values)

    def number(self, value: float | None, digits: int = 0) -> str:
        """With this language's decimal point and thousands; a dash for nothing or infinity."""
        if value is None or value != value or value in (float("inf"), float("-inf")):
            return DASH
        text = f"{value:,.{digits}f}"
        return text.translate(str.maketrans(",.", ".,")) if self.language == "it" else text

    def percent(self, share: float | None, digits: int = 1) -> str:
        """A share in [0, 1] in percent, without a needless fraction."""
        if share is None or share != share:
            return DASH
        value = 100 * share
        return f"{self.number(value, 0 if abs(value - round(value)) < 10 ** -(digits + 1) else digits)} %"

    def time(self, moment: datetime | None, *, seconds: bool = False) -> str:
        """Day and time as the station's own clock shows it."""
        if moment is None:
            return DASH
        local = moment.astimezone()
        day = (
            f"{local.day:02}/{local.month:02}/{local.year}" if self.language == "it" else f"{local:%Y-%m-%d}"
        )
        return f"{day}, {local:%H:%M:%S}" if seconds else f"{day}, {local:%H:%M}"

    def duration(self, seconds: float | None) -> str:
        """For example ``45 s``, ``3 min`` or ``2 h 5 min``."""
        if seconds is None:
            return DASH
        whole = round(seconds)
        if whole < 60:
            return f"{self.number(seconds, 1)} s" if seconds < 10 else f"{whole} s"
        minutes = whole // 60
        if minutes < 60:
            return f"{minutes} min"
        return f"{minutes // 60} h {minutes % 60} min"

    def size(self, count: int | None) -> str:
        """Bytes as kB or MB."""
        if count is None:
            return DASH
        return f"{self.number(count / 1e6, 1)} MB" if count >= 1e6 else f"{self.number(count / 1e3)} kB"

    def for_script(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """The same texts by their names, for a script to fill in."""
        return {name: self(text) for name, text in texts.items()}
