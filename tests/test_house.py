"""The rules of the house, enforced on the source itself: who imports whom, what loads when, and what a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "anomaly_spotter"
STAGES = ("inputs", "models", "scoring", "views")  # the data's path; none imports a later one
OUTER = {"cli", "service", "fleet", "export"}  # they import the public API, nothing inside imports them
ENTRY = {"__main__"}  # belongs to no ring, only starts the command line
HEAVY = {
    "torch",
    "lightning",
    "mlflow",
    "ray",
    "keras",
    "tensorflow",
    "jax",
    "fastapi",
    "sqlalchemy",
    "matplotlib",
    "sklearn",
    "scipy",
    "skimage",
}
POSIX_ONLY = {"fcntl", "grp", "pwd", "pty", "termios", "resource", "posix"}
POSIX_CALLS = {
    "os": {
        "fork",
        "forkpty",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "killpg",
        "setsid",
        "mkfifo",
        "nice",
        "chown",
    }
    | {
        "sysconf",
        "wait",
        "wait3",
        "wait4",
        "getloadavg",
        "sched_getaffinity",
        "rename",
        "getpgid",
        "setpgrp",
    },
    "signal": {"SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "alarm", "pause", "setitimer"},
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
LARGEST = 500
FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One imported module or name, as ``anomaly_spotter.scoring.maps.smooth``."""

    line: int
    name: str

    @property
    def ring(self) -> str:
        """First part below the package: a stage, an outer ring, or a module of the core."""
        return self.name.split(".")[1] if self.name.startswith("anomaly_spotter.") else ""


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def without_typing(tree: ast.AST) -> list[ast.AST]:
    """Every node, but for ``if TYPE_CHECKING:`` blocks, which are never run."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        found += [child, *without_typing(child)]
    return found


def imports(path: Path, nodes: list[ast.AST] | None = None) -> list[Import]:
    """All imports of a module, those inside functions too; relative ones made absolute."""
    package = ("anomaly_spotter", *path.relative_to(PACKAGE).parent.parts)
    found = []
    for node in without_typing(tree_of(path)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            found += [Import(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def at_import_time(path: Path) -> list[Import]:
    """Imports that run when the module is loaded: those of its top level, also below ``try`` and ``if``."""
    nodes: list[ast.AST] = []
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if not is_typing and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                nodes.append(child)
                waiting.append(child)
    return imports(path, nodes)


def ring_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def where(path: Path, found: Import) -> str:
    return f"{path.relative_to(PACKAGE)}:{found.line} imports {found.name}"


def test_the_rules_are_checked_on_real_files():
    rings = {ring_of(path) for path in FILES}
    assert set(STAGES) | {"cli", "fleet", "export", "spotter"} <= rings
    assert any(found.ring == "scoring" for found in imports(PACKAGE / "spotter.py"))


def test_a_stage_never_imports_a_later_one():
    wrong = [
        where(path, found)
        for path in FILES
        for found in imports(path)
        if ring_of(path) in STAGES
        and found.ring in STAGES
        and STAGES.index(found.ring) > STAGES.index(ring_of(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_inside_imports_an_outer_ring():
    wrong = [
        where(path, found)
        for path in FILES
        for found in imports(path)
        if ring_of(path) not in OUTER | ENTRY and found.ring in OUTER
    ]
    assert not wrong, "\n".join(wrong)


def test_the_command_line_and_the_station_are_outermost():
    """Fleet and export may be used by them, never the other way round."""
    wrong = [
        where(path, found)
        for path in FILES
        for found in imports(path)
        if ring_of(path) in {"fleet", "export"} and found.ring in {"cli", "service"}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_imports_nothing_heavy_when_it_is_loaded():
    """By import, in a process of its own; what a verb needs is loaded by the verb."""
    for module in ("anomaly_spotter", "anomaly_spotter.cli"):
        code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [], f"import {module} loads {done.stdout}"


def test_no_module_of_the_command_line_imports_a_heavy_library_at_its_top():
    wrong = [
        where(path, found)
        for path in FILES
        for found in at_import_time(path)
        if ring_of(path) == "cli" and found.name.split(".")[0] in HEAVY | {"numpy", "cv2", "rich", "scipy"}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_runs_on_windows_and_macos():
    """No POSIX-only module or call, unless a ``hasattr`` or ``except`` in the same function asks first."""
    wrong = []
    for path in FILES:
        for function in [
            node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.Module)
        ]:
            source = ast.unparse(function)
            if isinstance(function, ast.FunctionDef) and (
                "hasattr(" in source or "except ModuleNotFoundError" in source
            ):
                continue
            guarded = {
                id(inner)
                for node in ast.walk(function)
                if isinstance(node, ast.FunctionDef) and node is not function
                for inner in ast.walk(node)
            }
            for node in ast.walk(function):
                if id(node) in guarded:
                    continue  # looked at as a function of its own
                if isinstance(node, ast.Import) and {alias.name for alias in node.names} & POSIX_ONLY:
                    wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}")
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.attr in POSIX_CALLS.get(node.value.id, ())
                    and not ("hasattr" in source or "sys.platform" in source or "os.name" in source)
                ):
                    wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_text_is_read_and_written_as_utf_8():
    """Windows reads text in another encoding unless told."""
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr == "read_text" or node.func.attr == "write_text")
        and "encoding" not in {keyword.arg for keyword in node.keywords}
        and not any(
            isinstance(argument, ast.Constant) and argument.value == "utf-8" for argument in node.args
        )
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["nul.txt", "con", "Com1", "..", "a/b", "a\\b", "x:y", "part. ", "è", ""])
def test_names_from_data_become_file_names_that_every_system_takes(name: str):
    from anomaly_spotter.files import safe_name

    safe = safe_name(name)
    assert safe
    assert not set(safe) & set('/\\:*?"<>|')
    assert not safe.endswith((".", " "))
    assert safe.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}


def test_every_module_says_what_it_is():
    silent = [str(path.relative_to(PACKAGE)) for path in FILES if not ast.get_docstring(tree_of(path))]
    assert not silent, silent


def test_no_file_is_too_long():
    lines = {path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {str(path): count for path, count in lines.items() if count > LARGEST}


def test_no_module_has_a_name_that_says_nothing():
    vague = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.stem.lower() in VAGUE]
    assert not vague, vague
