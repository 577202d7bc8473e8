"""Every command and every Python block of README and documentation is executed, in the order of its page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY
from tests.docs.blocks import PYTHON, SHELL, Block, blocks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="the pages show bash")

ITALIAN = REPOSITORY / "README.it.md"  # shows the same blocks, so they are compared instead of run twice
PAGES = [
    page
    for page in (
        REPOSITORY / "README.md",
        *sorted((REPOSITORY / "docs").rglob("*.md")),
    )
    if blocks(page)
]
ALONE = ("docs/scale.md",)  # starts clusters, which take every processor
NOT_HERE = {
    "make demo": "takes minutes; its commands are those of the tutorial",
    "make test": "is what runs this test",
}
MOST_SKIPPED = 6
PORTS = ("8000", "9000", "5000", "8265")  # that the pages name; each page gets free ones
FOUND = 1  # exit code of verbs that say "something was found", which is no failure
FINDING = (" predict ", " drift ")
SECONDS = 600


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def reason_to_skip(command: str) -> str | None:
    return next((why for start, why in NOT_HERE.items() if command.startswith(start)), None)


class Reader:
    """Somebody who types a page's commands one after the other."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.ports = {port: str(_free_port()) for port in PORTS}
        self.background: list[subprocess.Popen[str]] = []

    def does(self, block: Block) -> None:
        if block.language == PYTHON:
            script = self.folder / "block.py"
            script.write_text(self._placed(block.code), encoding="utf-8")
            self._runs(f"{sys.executable} block.py", block, block.how == "background")
            return
        for command in block.commands:
            if reason_to_skip(command) is None:
                self._runs(self._placed(command), block, block.how == "background")

    def leaves(self) -> None:
        for process in self.background:
            os.killpg(process.pid, signal.SIGINT)
        for process in self.background:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _placed(self, text: str) -> str:
        """With the reader's own folders and free ports in place of those that the page names."""
        text = text.replace("/path/to/", f"{self.folder}/path/to/")
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", free, text)
        if re.match(r"(\.venv/bin/)?anomaly-spotter serve\b", text) and "--port" not in text:
            text += f" --port {self.ports['8000']}"
        return text

    def _runs(self, command: str, block: Block, is_background: bool) -> None:
        where = f"{name_of(block.page)}:{block.line}: {command}"
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        with log.open("w", encoding="utf-8") as out:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        if is_background:
            self.background.append(process)
            self._waits(process, command, log, where)
            return
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{where}\ntook longer than {SECONDS} s") from None
        said = log.read_text(encoding="utf-8")
        allowed = {0, FOUND} if any(verb in command for verb in FINDING) else {0}
        assert code in allowed, f"{where}\nended with {code}:\n{said}"
        assert "Traceback" not in said, f"{where}\n{said}"

    def _waits(self, process: subprocess.Popen[str], command: str, log: Path, where: str) -> None:
        """Until a server answers on the port it was given."""
        named = [port for port in self.ports.values() if re.search(rf"\b{port}\b", command)]
        script = self.folder / "block.py"
        if command.endswith("block.py"):
            named = [port for port in self.ports.values() if port in script.read_text(encoding="utf-8")]
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert process.poll() is None, f"{where}\nended at once:\n{log.read_text(encoding='utf-8')}"
            if not named or _answers(named[0]):
                return
            time.sleep(0.2)
        raise AssertionError(f"{where}\ndoes not answer:\n{log.read_text(encoding='utf-8')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=1):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.alone] if name_of(page) in ALONE else [])
        for page in PAGES
    ],
)
def test_every_block_of_the_page_runs(page: Path, page_folder: Path, environment: dict[str, str]):
    reader = Reader(page_folder, environment)
    try:
        for block in blocks(page):
            if block.how != "skip":
                reader.does(block)
    finally:
        reader.leaves()


def test_the_italian_readme_shows_the_same_blocks():
    def bare(block: Block) -> str:
        return re.sub(r"\s*#.*", "", block.code)

    assert [bare(block) for block in blocks(ITALIAN)] == [bare(block) for block in blocks(PAGES[0])]


def test_few_blocks_are_skipped_and_each_says_why():
    skipped = [block for page in PAGES for block in blocks(page) if block.how == "skip"]
    assert all(len(block.why) > 20 for block in skipped)
    assert len(skipped) <= MOST_SKIPPED, [f"{name_of(block.page)}:{block.line}" for block in skipped]
    assert all(block.how in {"run", "skip", "background"} for page in PAGES for block in blocks(page))


def test_what_is_left_to_make_is_there():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    left = {
        command.split("#")[0].split()[1]
        for page in PAGES
        for block in blocks(page)
        if block.language == SHELL
        for command in block.commands
        if command.startswith("make ")
    }
    assert left
    for target in left:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
