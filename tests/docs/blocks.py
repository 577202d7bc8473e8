"""The runnable blocks of a Markdown page: fenced blocks without a language are shell, ``python`` is Python, ``text`` is text.

A comment before a block says what is special about it, and why: ``<!-- doctest: skip: REASON -->`` leaves it out,
``<!-- doctest: background -->`` starts it and lets it run until the page is done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SHELL, PYTHON = "shell", "python"
_LANGUAGES = {"": SHELL, "sh": SHELL, "bash": SHELL, "python": PYTHON}
_FENCE = re.compile(
    r"(?:<!-- doctest: (?P<how>[a-z]+)(?:: (?P<why>.*?))? -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: Where it stands.
        line: Its first line there.
        language: ``shell`` or ``python``.
        code: What it holds.
        how: ``run``, ``skip`` or ``background``.
        why: Reason of a skip.
    """

    page: Path
    line: int
    language: str
    code: str
    how: str = "run"
    why: str = ""

    @property
    def commands(self) -> list[str]:
        """Shell commands one by one, continued lines joined, comments left out."""
        joined = re.sub(r"\\\n\s*", " ", self.code)
        return [
            line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")
        ]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page that are shell or Python, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            _LANGUAGES[found["language"]],
            found["code"],
            found["how"] or "run",
            found["why"] or "",
        )
        for found in _FENCE.finditer(text)
        if found["language"] in _LANGUAGES
    ]


def inline_commands(page: Path) -> list[str]:
    """Commands in running text and tables, such as ```audit --data DIR```; fenced blocks left out."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [code.replace("\\|", "|") for code in re.findall(r"`([^`\n]+)`", text)]
