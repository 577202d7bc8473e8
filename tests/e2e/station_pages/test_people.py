"""Sign in, sign out, and what an operator sees, on a station with users."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.station_pages.conftest import leading_on, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORDS = {"anna": "correct horse battery", "otto": "staple battery horse"}


@pytest.fixture
def guarded(made: Path, tmp_path: Path) -> Iterator[str]:
    """A station with the engineer anna and the operator otto."""
    (tmp_path / "models").mkdir()
    shutil.copy(made / "models" / "disc-memory.spot", tmp_path / "models")
    for name, role in (("anna", "engineer"), ("otto", "operator")):
        command = [sys.executable, "-m", "anomaly_spotter", "access", "add-user", name, "--role", role]
        command += ["--data", str(tmp_path / "data")]
        subprocess.run(command, check=True, env={**os.environ, "ANOMALY_SPOTTER_PASSWORD": PASSWORDS[name]})
    with serving(tmp_path) as url:
        yield url


def test_people_sign_in_and_see_what_they_may(guarded, opens, expect, complaints, made):
    complaints.expected += ["422"]  # the browser tells each refused form in its console
    page = opens(f"{guarded}/history")
    expect(page).to_have_url(f"{guarded}/login?next=/history")
    expect(page.locator("nav")).to_have_count(0)
    page.get_by_label("Name").fill("otto")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("Name and password do not fit.")
    page.get_by_label("Password").fill(PASSWORDS["otto"])
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{guarded}/history")
    page.goto(f"{guarded}/inspect")
    page.set_input_files("#files", str(made / "pictures/bad/000.png"))
    expect(page.locator("#result .verdict strong")).to_have_text("DEFECT")
    page.goto(f"{guarded}/train")
    expect(page.locator("main")).to_contain_text("Training is for engineers")
    page.goto(f"{guarded}/models")
    expect(page.get_by_role("button", name="Activate")).to_have_count(0)
    page.goto(f"{guarded}/account")
    expect(page.locator("#users")).to_have_count(0)
    with leading_on(page):
        page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{guarded}/login")

    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill(PASSWORDS["anna"])
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{guarded}/inspect")
    page.goto(f"{guarded}/account")
    expect(page.locator("#users tbody tr")).to_have_count(2)
    form = page.locator("form", has=page.get_by_label("Role"))
    form.get_by_label("Name").fill("eva")
    form.get_by_label("Role").select_option("operator")
    form.get_by_label("Password").fill("a long password")
    form.get_by_role("button", name="Add").click()
    expect(page.locator("#users tbody tr")).to_have_count(3)
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#users tr", has_text="eva").get_by_role("button", name="Remove").click()
    expect(page.locator("#users tbody tr")).to_have_count(2)


def test_the_login_leads_nowhere_else(guarded, opens, expect):
    page = opens(f"{guarded}/login?next=//example.org/")
    page.get_by_label("Name").fill("otto")
    page.get_by_label("Password").fill(PASSWORDS["otto"])
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{guarded}/inspect")
