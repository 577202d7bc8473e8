"""Every error message of the package, read from its source, for the error catalogue.

A hook of MkDocs; nothing here is part of the package.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.structure.pages import Page

SOURCE = Path(__file__).parents[2] / "src" / "anomaly_spotter"
EXTRAS = {
    "needed",
    "require",
    "missing_extra",
}  # functions of extras.py, called with an extra and its purpose
PAGE, PLACE = "errors.md", "<!-- all messages -->"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill the catalogue's complete list."""
    return markdown.replace(PLACE, listing()) if page.file.src_uri == PAGE else markdown


def messages() -> dict[str, list[str]]:
    """Message templates by error class, in the order of the alphabet; ``…`` stands for what the message names."""
    names = error_classes()
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                continue
            name, text = node.func.id, _text(node.args[0])
            if name in EXTRAS:
                name, text = (
                    "MissingExtraError",
                    f"{_text(node.args[1])}: pip install 'anomaly-spotter[{text}]'",
                )
            if name in names and any(letter.isalpha() for letter in text):
                found[name].add(text)
    return {name: sorted(texts, key=str.lower) for name, texts in found.items() if texts}


def error_classes() -> list[str]:
    """``SpotterError`` and everything below it, in the order of the source, from all modules."""
    bases = {
        node.name: [ast.unparse(base) for base in node.bases]
        for path in [SOURCE / "errors.py", *sorted(SOURCE.rglob("*.py"))]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    known = ["SpotterError"]
    grown = True
    while grown:
        more = [name for name, above in bases.items() if name not in known and set(above) & set(known)]
        known, grown = known + more, bool(more)
    return known


def listing() -> str:
    """The list as Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for name, texts in messages().items():
        yield from (f"### {name}", "")
        yield from (f"- `{text.replace('`', chr(39))}`" for text in texts)
        yield ""


def _text(node: ast.expr) -> str:
    """A string, f-string or sum of them as one template on one line."""
    if isinstance(node, ast.Constant):
        return " ".join(str(node.value).split(" "))
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…"
