"""A real station in a process of its own, and a real Chromium that looks at it; no page may complain in its console."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from anomaly_spotter import Spotter, SpotterConfig
from anomaly_spotter.files import safe_name
from tests.conftest import draw_part, write_dataset, write_png

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("fastapi", reason="the station needs the extra [serve]")
sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

PATIENCE = 60_000  # milliseconds; a loaded machine is slow
SMALL = {  # learned in a second or two
    "preprocessing": {"long_side": 96, "alignment": "none", "illumination": "none"},
    "scoring": {"smoothing_sigma": 2.0},
    "calibration": {"false_reject_rate": 0.1},
}


@dataclass
class Site:
    """A running station, shared by all tests of a process, and two models of it that one test has for itself.

    Attributes:
        url: Where it is.
        pictures: Folder with ``good`` (40 pictures) and ``bad`` (8), and ``tests`` (good ones it has not seen).
        model: Name of a model of the preset ``memory``.
        other: Name of one of the preset ``gaussian``.
        models: Folder of the model files.
    """

    url: str
    pictures: Path
    model: str
    other: str
    models: Path

    @property
    def inspect_page(self) -> str:
        """Page Inspect with the test's own model."""
        return f"{self.url}/inspect?model={self.model}"

    @property
    def history_page(self) -> str:
        """Page History of the test's own model."""
        return f"{self.url}/history?model={self.model}"

    def inspect(self, picture: Path, **query: str) -> dict[str, Any]:
        """As another program would."""
        answer = httpx.post(
            f"{self.url}/api/v1/inspections",
            params={"model": self.model, **query},
            content=picture.read_bytes(),
            headers={"content-type": "image/png", "x-file-name": picture.name},
            timeout=PATIENCE / 1000,
        )
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()["inspections"][0]
        return found


@dataclass
class Complaints:
    """What a page has said in its console, or could not load."""

    found: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        page.on(
            "console",
            lambda message: self.note(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: self.note(str(error)))

    def note(self, text: str) -> None:
        if not any(part in text for part in self.expected):
            self.found.append(text)


@contextmanager
def serving(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[str]:
    """``anomaly-spotter serve`` on a port that the system chose; its address."""
    log = (folder / "serve.log").open("wb")
    command = [sys.executable, "-m", "anomaly_spotter", "serve", "--models", str(folder / "models")]
    command += ["--data", str(folder / "data"), "--port", "0", *arguments]
    own = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=own)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("station at "), (folder / "serve.log").read_text()
        yield line.removeprefix("station at ").strip().rstrip("/")
    finally:
        process.terminate()
        process.wait(60)
        log.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, and two models of them."""
    root = tmp_path_factory.mktemp("made")
    write_dataset(root / "data", train=40, test=8)
    good = root / "data/disc/train/good"
    for name, preset in (("disc-memory", "memory"), ("disc-gaussian", "gaussian")):
        config = SpotterConfig.load(preset, overrides=SMALL, environment={})
        Spotter.fit(good, config=config).save(root / "models" / f"{name}.spot")
    pictures = root / "pictures"
    for source, target in (("train/good", "good"), ("test/bar", "bad"), ("test/good", "tests")):
        shutil.copytree(root / "data/disc" / source, pictures / target)
    return root


@pytest.fixture(scope="session")
def station(made: Path) -> Iterator[str]:
    """The address of a running station; ``disc-memory`` is active."""
    with serving(made, "--datasets", str(made / "pictures")) as url:
        httpx.post(f"{url}/api/v1/models/disc-memory/activate", timeout=60).raise_for_status()
        yield url


@pytest.fixture
def site(station: str, made: Path, request: pytest.FixtureRequest) -> Site:
    """The station, with two models for this test alone, so that histories do not mix."""
    own = safe_name(request.node.name)[:60]
    models = made / "models"
    for preset in ("memory", "gaussian"):
        shutil.copy(models / f"disc-{preset}.spot", models / f"{own}-{preset}.spot")
    return Site(station, made / "pictures", f"{own}-memory", f"{own}-gaussian", models)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, with a camera that shows a test picture."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on this machine: make system-deps")
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """All that pages complained about; a test fails that leaves any it does not expect."""
    heard = Complaints()
    yield heard
    assert heard.found == []


Opens = Callable[..., Any]


@pytest.fixture
def opens(chromium: Any, complaints: Complaints) -> Iterator[Opens]:
    """Opens an address in a browser of its own: size, colour scheme and language can be given."""
    contexts = []

    def open_page(
        url: str, width: int = 1280, height: int = 900, scheme: str = "light", locale: str = "en-GB"
    ) -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            locale=locale,
            permissions=["camera"],
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        complaints.watch(page)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def expect() -> Any:
    """Playwright's assertions, which wait."""
    sync_api.expect.set_options(timeout=PATIENCE)
    return sync_api.expect


@contextmanager
def leading_on(page: Any) -> Iterator[None]:
    """Around what leads to another page: ends when that one is there with its styles and scripts."""
    with page.expect_navigation(timeout=PATIENCE):
        yield


def drop(page: Any, *paths: Path) -> None:
    """Let files or folders fall into the middle of a page, as the system's own drag and drop would."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 500, "data": data})


def dim(seed: int, target: Path) -> Path:
    """A good part under a lamp that fails."""
    part = draw_part(np.random.default_rng(seed))[0].astype(np.float32)
    return write_png(target, np.clip(part * 0.5, 0, 255).astype(np.uint8))
