"""The documentation as a site: built strictly and without a network, small, complete, and true to the source."""

from __future__ import annotations

import ast
import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

import anomaly_spotter
from anomaly_spotter.cli import app
from tests.conftest import REPOSITORY
from tests.docs.blocks import inline_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = REPOSITORY / "docs"
LARGEST = 10 * 2**20
PAGES = [REPOSITORY / "README.md", REPOSITORY / "README.it.md", *sorted(DOCS.rglob("*.md"))]


def hook(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", DOCS / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Every attempt to reach another machine fails at once, so a build that needs one fails too."""
    out = tmp_path_factory.mktemp("site")
    dead = "http://127.0.0.1:9"  # nobody listens on the discard port
    environment = {
        **os.environ,
        "HTTP_PROXY": dead,
        "HTTPS_PROXY": dead,
        "NO_PROXY": "",
        "NO_MKDOCS_2_WARNING": "1",
    }
    environment["PYTHONPATH"] = str(Path(anomaly_spotter.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_is_small_and_not_in_the_repository(site):
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < LARGEST
    assert "site/" in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_navigation_names_pages_that_there_are():
    """The hook leaves out what a checkout lacks; only the pages that other parts bring may be missing."""
    named = set(
        re.findall(r": ([\w/-]+\.md)$", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert named - there <= {"reference-cli.md", "benchmarks.md", "scale.md", "keras.md"}
    assert there <= named, "a page that no reader finds"


def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|img|iframe|link(?! rel=\"canonical))[^>]*(?:src|href)=\"?(https?://[^\" >]+)", text
        )
        assert not loaded, f"{page.name}: {loaded}"
        assert 'class="mermaid"' not in text  # would be fetched from a content delivery network


def test_every_verb_and_every_setting_has_its_place(site):
    text = (site / "reference-cli.html").read_text(encoding="utf-8")
    for verb in typer.main.get_command(app).commands:
        assert f'id="{verb}' in text, verb  # a verb of verbs has a section for each of them
    settings = (site / "reference-settings.html").read_text(encoding="utf-8")
    from anomaly_spotter.config import SpotterConfig

    for section in SpotterConfig.model_fields.values():
        for name in getattr(section.annotation, "model_fields", {}):
            assert name in settings, name
    python = (site / "reference-python.html").read_text(encoding="utf-8")
    for name in anomaly_spotter.__all__:
        if name not in {"__version__", "SpotterConfig"}:
            assert name in python, name


def test_the_benchmark_page_shows_what_the_result_files_say(site):
    text = re.sub(r"<[^>]+>", " ", (site / "benchmarks.html").read_text(encoding="utf-8"))
    text = " ".join(text.split())
    files = sorted((REPOSITORY / "benchmarks").glob("**/results/**/benchmark.json"))
    assert files
    for path in files:
        for row in json.loads(path.read_text(encoding="utf-8"))["summary"]:
            auroc = row["image"]["auroc"]["mean"]
            assert f"{row['category']} {row['model']} {row['data']['train']} {auroc:.3f}" in text, path
    speed = json.loads((REPOSITORY / "benchmarks/speed/results/speed.json").read_text(encoding="utf-8"))
    for name, each in speed["single"]["detectors"].items():
        cells = " ".join(f"{ms['p50']} / {ms['p99']}" for ms in each["ms"].values())
        assert f"{name} {cells} {each['times_faster_than_torch']['auto']}" in text
    assert (site / "plots/results-single.png").is_file()
    cards = (site / "model-cards.html").read_text(encoding="utf-8")
    assert cards.count("<th>measured on") >= 3 or cards.count("measured on</th>") >= 3


@pytest.fixture
def served(site) -> Iterator[str]:
    """The site on a port of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_search_works_without_a_network(served):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here (make system-deps)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        foreign: list[str] = []
        page.on(
            "request",
            lambda request: foreign.append(request.url) if not request.url.startswith(served) else None,
        )
        page.goto(f"{served}/index.html")
        page.keyboard.press("/")
        page.keyboard.type("conformal", delay=20)
        page.wait_for_selector(".md-search-result__link")
        assert "guarantee" in " ".join(
            str(link.get_attribute("href")) for link in page.query_selector_all(".md-search-result__link")
        )
        browser.close()
    assert [url for url in foreign if not url.startswith(("data:", "blob:"))] == []


def test_the_catalogue_of_errors_is_complete_and_true():
    """Each class has its section and its line in the table; each frequent message stands in the source."""
    found = hook("error_messages")
    messages = found.messages()
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert found.PLACE in text
    errors = ast.parse((Path(anomaly_spotter.__file__).parent / "errors.py").read_text(encoding="utf-8"))
    for node in errors.body:
        if isinstance(node, ast.ClassDef) and "SpotterError" in [node.name, *map(ast.unparse, node.bases)]:
            assert f"`{node.name}`" in text, node.name
            assert messages[node.name], node.name
    everything = " | ".join(text for texts in messages.values() for text in texts)
    frequent = re.findall(r"^\| `([^`]+)` \|", text.split("## The frequent ones")[1], re.MULTILINE)
    assert len(frequent) > 10
    for fragment in frequent:
        pieces = [piece for piece in fragment.split("…") if piece.strip()]
        assert all(piece.strip() in everything for piece in pieces), fragment


def test_every_message_says_enough():
    """What was expected, what was found, how to mend it: less than four words cannot."""
    for name, texts in hook("error_messages").messages().items():
        for text in texts:
            assert len(text.split()) >= 4, (name, text)
            assert "\n" not in text, (name, text)


def options_of(verb: Any) -> set[str]:
    """Of a verb, or of all verbs below it."""
    own = {option for parameter in verb.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return own.union(*(options_of(each) for each in getattr(verb, "commands", {}).values()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_options_in_running_text_exist(page: Path):
    """What no block executes, such as the table of verbs, names verbs and options that there are."""
    verbs = {name: options_of(verb) for name, verb in typer.main.get_command(app).commands.items()}
    everything = set().union(*verbs.values()) | {
        "--help",
        "--version",
        "--install-completion",
        "--show-completion",
    }
    foreign = (
        "mlflow",
        "docker",
        "pip",
        "curl",
        "make",
        "python",
        "torchrun",
        "ray",
        "tensorboard",
        "mkdocs",
        "pytest",
    )
    for command in inline_commands(page):
        words = command.removeprefix("anomaly-spotter ").split()
        if not words or words[0] in foreign:
            continue
        options = {
            re.split(r"[=\]|,.]", word.strip("[](),"))[0]
            for word in words
            if word.strip("[(").startswith("--")
        }
        known = verbs.get(words[0], everything)
        assert options <= known, f"{command}: {options - known}"
