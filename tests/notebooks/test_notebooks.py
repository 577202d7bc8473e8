"""The committed notebooks: whole, with outputs, on the public API alone; and each runs from top to bottom."""

from __future__ import annotations

import ast
import base64
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
NAMES = ["01_EDA", "02_Prototyping", "03_Results"]
LARGEST = 1_500_000  # bytes
PICTURES = ("image/png", "image/jpeg")
OWN_PATHS = re.compile(r"(?<![\w.:/])(?:/(?:home|root|tmp|usr|var|work|Users|private|opt)/|[A-Z]:\\)")

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_the_three_are_there(path: Path):
    assert path.stem in NAMES
    assert [each.stem for each in NOTEBOOKS] == NAMES


def test_committed_with_the_outputs_of_one_run_from_top_to_bottom(path: Path):
    code = code_cells(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(any(kind in shown for kind in PICTURES) for shown in outputs(path)) >= 6
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", output.get("evalue")
            assert output.get("name") != "stderr", output.text


def test_small_and_free_of_paths_of_the_machine_that_ran_it(path: Path):
    assert path.stat().st_size <= LARGEST
    notebook = nbformat.read(path, 4)
    words = [cell.source for cell in notebook.cells]
    words += [str(shown[kind]) for shown in outputs(path) for kind in shown if kind not in PICTURES]
    for text in words:
        assert not OWN_PATHS.search(text), OWN_PATHS.search(text)
    nbformat.validate(notebook)


def test_figures_are_pictures_of_a_size_for_print(path: Path):
    import cv2
    import numpy as np

    for shown in outputs(path):
        for kind in shown.keys() & set(PICTURES):
            picture = cv2.imdecode(
                np.frombuffer(base64.b64decode(shown[kind]), np.uint8), cv2.IMREAD_GRAYSCALE
            )
            assert 500 <= picture.shape[1] <= 800  # at 100 dpi: fits the width of a page unscaled
            assert picture.std() > 5


def test_public_names_only(path: Path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("anomaly_spotter"):
                names = [*node.module.split("."), *(name.name for name in node.names)]
                assert not [name for name in names if name.startswith("_")]
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_") or node.attr == "__init__"


@pytest.mark.slow
def test_runs_on_the_sample_or_on_the_data_that_is_set(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANOMALY_SPOTTER_QUICK", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
    )
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook, timeout=600, startup_timeout=180, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()  # raises with the cell and its traceback
    drawn = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in drawn) >= 6
    assert not [output.text for output in drawn if output.get("name") == "stderr"]


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def outputs(path: Path) -> Iterator[dict[str, str]]:
    """What each cell shows, by MIME type; printed text as ``text/plain``."""
    for cell in code_cells(path):
        for output in cell.outputs:
            yield output.get("data", {"text/plain": output.get("text", "")})
