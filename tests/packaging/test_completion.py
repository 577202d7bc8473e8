"""Shell completion: the script for bash is run by bash itself, that for zsh is checked by its text and its protocol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("anomaly-spotter")
BASH = shutil.which("bash")
ENVIRONMENT = {**os.environ, "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"}
NAMED = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is named instead of detected


def run(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**ENVIRONMENT, **environment},
    )
    return done.stdout


def in_bash(words: str, count: int) -> list[str]:
    """What bash offers for a line of ``count`` words, after it has read the script that --show-completion prints."""
    script = (
        'eval "$(anomaly-spotter --show-completion)"\n'
        f"COMP_WORDS=({words}); COMP_CWORD={count - 1}\n"
        'function_of=$(complete -p anomaly-spotter | sed "s/.*-F \\([^ ]*\\).*/\\1/")\n'
        "$function_of anomaly-spotter\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [str(BASH), "--norc", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**ENVIRONMENT, **({} if os.name != "nt" else NAMED)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="no bash here")
def test_bash_completes_verbs_options_and_values():
    assert in_bash("anomaly-spotter pre", 2) == ["predict"]
    assert "--threshold" in in_bash("anomaly-spotter predict --th", 3)
    assert in_bash("anomaly-spotter process-all --engine r", 4) == ["ray"]


def test_zsh_gets_its_script_and_its_answers():
    script = run("--show-completion", "zsh", **NAMED)
    assert script.startswith("#compdef anomaly-spotter")
    assert "_ANOMALY_SPOTTER_COMPLETE=complete_zsh" in script
    answer = run(
        _ANOMALY_SPOTTER_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="anomaly-spotter process-all --engine "
    )
    assert '"local"' in answer
    assert '"ray"' in answer


def test_completion_is_installed_into_the_user_s_own_folder(tmp_path):
    shown = run("--install-completion", "bash", HOME=str(tmp_path), USERPROFILE=str(tmp_path), **NAMED)
    assert "completion installed in" in shown
    assert "anomaly-spotter.sh" in (tmp_path / ".bashrc").read_text(encoding="utf-8")
    assert "complete_bash" in (tmp_path / ".bash_completions/anomaly-spotter.sh").read_text(encoding="utf-8")
