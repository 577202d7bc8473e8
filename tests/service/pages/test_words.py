"""Every text of every page has its Italian, with the same {names} to fill in, and numbers are written as Italians do."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter

import pytest
from jinja2 import Environment, nodes
from markupsafe import Markup

import anomaly_spotter.service
from anomaly_spotter.inputs.alignment import Reason
from anomaly_spotter.service.accounts import ROLES
from anomaly_spotter.service.pages.rendering import NAVIGATION
from anomaly_spotter.service.pages.words import Words, negotiate, translations

HERE = Path(anomaly_spotter.service.__file__).parent
TEMPLATES = sorted((HERE / "templates").glob("*.html"))
MODULES = sorted((HERE / "pages").glob("*.py"))


def in_template(path: Path) -> set[str]:
    tree = Environment(autoescape=True).parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for call in tree.find_all(nodes.Call):
        is_count = isinstance(call.node, nodes.Getattr) and call.node.attr == "count"
        if is_count or (isinstance(call.node, nodes.Name) and call.node.name == "_"):
            found |= {
                each.value
                for each in call.args
                if isinstance(each, nodes.Const) and isinstance(each.value, str)
            }
    return found


def in_module(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and _translates(node.func):
            found |= {
                each.value
                for each in node.args
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
        if isinstance(node, ast.Assign) and any(
            isinstance(name, ast.Name) and name.id.endswith("_WORDS") for name in node.targets
        ):
            found |= _texts(node.value)
    return found


def _translates(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return (
            function.attr == "count"
            and isinstance(function.value, ast.Name)
            and function.value.id in ("text", "words")
        )
    if isinstance(function, ast.Name):
        return function.id in ("text", "words")
    return (
        isinstance(function, ast.Call) and isinstance(function.func, ast.Name) and function.func.id == "words"
    )


def _texts(value: ast.expr) -> set[str]:
    """Strings of a table of texts; the keys of a dictionary are names, not texts."""
    if isinstance(value, ast.Dict):
        return {text for each in value.values for text in _texts(each)}
    if isinstance(value, ast.Tuple | ast.List):
        return {text for each in value.elts for text in _texts(each)}
    return {value.value} if isinstance(value, ast.Constant) and isinstance(value.value, str) else set()


def used() -> set[str]:
    texts = {text for path in TEMPLATES for text in in_template(path)}
    texts |= {text for path in MODULES for text in in_module(path)}
    texts |= (
        {text for _, text in NAVIGATION}
        | {reason.value for reason in Reason}
        | set(ROLES)
        | {"OK", "DEFECT", "not one of the products"}
    )
    return {text for text in texts if re.search(r"[A-Za-z]{2}", text)}


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_text_of_a_page_has_its_italian():
    assert sorted(used() - set(translations("it"))) == []


def test_no_translation_is_left_over():
    assert sorted(set(translations("it")) - used()) == []


@pytest.mark.parametrize("english", sorted(translations("it")))
def test_a_translation_fills_in_the_same_values(english):
    italian = translations("it")[english]
    assert fields(italian) == fields(english)
    assert italian.strip() == italian and italian


@pytest.mark.parametrize(
    ("cookie", "accept", "expected"),
    [
        (None, None, "en"),
        ("it", "en", "it"),
        ("xx", "it-IT,it;q=0.9,en;q=0.8", "it"),
        (None, "de-DE,de;q=0.9,it;q=0.5", "it"),
        (None, "de", "en"),
        ("en", "it", "en"),
    ],
)
def test_a_browser_is_answered_in_its_language(cookie, accept, expected):
    assert negotiate(cookie, accept) == expected


def test_numbers_are_written_in_the_language():
    assert Words("en").number(1234.5, 1) == "1,234.5"
    assert Words("it").number(1234.5, 1) == "1.234,5"
    assert Words("it").percent(0.0125) == "1,2 %"
    assert Words("en").percent(0.04) == "4 %"
    assert Words("en").percent(None) == Words("en").number(float("inf")) == "–"


def test_times_are_those_of_the_stations_clock():
    moment = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
    local = moment.astimezone()
    assert Words("it").time(moment) == f"{local:%d/%m/%Y, %H:%M}"
    assert Words("en").time(moment, seconds=True) == f"{local:%Y-%m-%d, %H:%M:%S}"
    assert [Words().duration(seconds) for seconds in (2.5, 45, 200, 7500)] == [
        "2.5 s",
        "45 s",
        "3 min",
        "2 h 5 min",
    ]


def test_what_is_filled_into_markup_is_escaped():
    assert Words()(Markup("<b>{name}</b>"), name="<script>") == Markup("<b>&lt;script&gt;</b>")
