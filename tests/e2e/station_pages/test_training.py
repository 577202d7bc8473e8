"""Page Train to the end in a real browser, and page Monitor from a steady line to an alarm and a recalibration."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import httpx

from anomaly_spotter import Spotter
from tests.e2e.station_pages.conftest import PATIENCE, dim, drop, leading_on

if TYPE_CHECKING:
    from pathlib import Path

LONG = 10 * PATIENCE  # a training imports PyTorch first, and a loaded machine is slow


def folder_of(site: Any, target: Path, count: int = 24) -> Path:
    """Good pictures, one of them twice and one broken."""
    target.mkdir()
    for path in sorted((site.pictures / "good").iterdir())[:count]:
        shutil.copy(path, target)
    shutil.copy(target / "000.png", target / "again.png")
    (target / "broken.png").write_bytes((target / "001.png").read_bytes()[:200])
    return target


def test_a_dropped_folder_becomes_a_model_that_inspects(site, opens, expect, tmp_path):
    page = opens(f"{site.url}/train")
    drop(page, folder_of(site, tmp_path / "parts"))
    audit = page.locator("#audit section")
    expect(audit.locator("h2")).to_have_text("25 good pictures")
    expect(audit).to_contain_text("1 picture cannot be read and will be left out")
    expect(audit).to_contain_text("1 picture is there twice")
    expect(audit).to_contain_text("96x72")

    name = f"{site.model}-trained"
    page.get_by_label("Name of the model").fill(name)
    page.locator("[name=preset]").select_option("memory")
    page.locator("[name=rate]").select_option("0.05")
    audit.locator("summary").click()
    page.locator("[name=long_side]").fill("96")
    with leading_on(page):
        audit.get_by_role("button", name="Train").click()
    expect(page).to_have_url(re.compile(r"/train/[0-9a-f]{32}$"))
    expect(page.locator("h1")).to_have_text(name)
    expect(page.get_by_text("The model is ready.")).to_be_visible(timeout=LONG)  # told by server-sent events
    expect(page.locator("#report-scores ~ svg .bar-reference").first).to_be_visible()
    expect(page.locator(".keys")).to_contain_text(re.compile(r"Good pictures\s*2[45]"))
    expect(page.locator(".log")).to_contain_text("left out")
    page.get_by_role("button", name="Activate").click()
    expect(page.locator(".badge.active")).to_be_visible()
    with leading_on(page):
        page.get_by_role("link", name="Inspect with it").click()
    expect(page.locator("#model")).to_have_value(name)
    page.set_input_files("#files", str(site.pictures / "bad/005.png"))
    expect(page.locator("#result .verdict strong")).to_have_text("DEFECT")
    expect(page.locator(".verdict .which")).to_contain_text(name)


def test_a_network_shows_its_learning_curve(site, opens, expect, tmp_path):
    page = opens(f"{site.url}/train")
    page.get_by_text("Pictures that lie on the server").click()
    page.locator("[name=folder]").select_option("good")
    page.locator("good-pictures").get_by_role("button", name="Check").click()
    page.get_by_label("Name of the model").fill(f"{site.model}-network")
    page.locator("[name=preset]").select_option("seed")
    page.locator("#audit summary").click()
    page.locator("[name=long_side]").fill("64")
    page.locator("[name=epochs]").fill("2")
    with leading_on(page):
        page.locator("#audit").get_by_role("button", name="Train").click()
    expect(page.get_by_text("The model is ready.")).to_be_visible(timeout=LONG)
    curves = page.locator("#curves-title ~ svg .line")
    expect(curves).to_have_count(2)
    assert [len(each.get_attribute("d").split("L")) for each in curves.all()] == [2, 2]


def test_a_training_is_cancelled_and_says_so(site, opens, expect):
    page = opens(f"{site.url}/train")
    page.get_by_text("Pictures that lie on the server").click()
    page.locator("[name=folder]").select_option("good")
    page.locator("good-pictures").get_by_role("button", name="Check").click()
    page.locator("[name=preset]").select_option("unet")
    with leading_on(page):
        page.locator("#audit").get_by_role("button", name="Train").click()
    expect(page.locator("#job progress")).to_be_visible()
    cancel = page.get_by_role("button", name="Cancel")
    cancel.hover()
    page.mouse.down()
    page.wait_for_timeout(1500)  # the page is redrawn four times a second, but not under a finger
    page.mouse.up()
    expect(page.get_by_text("The training was cancelled.")).to_be_visible()
    expect(page.get_by_role("button", name="Go on where it stopped")).to_be_visible()


def test_drift_raises_an_alarm_and_one_click_recalibrates(site, opens, expect, made, tmp_path):
    name = f"{site.model}-watched"
    models = site.models
    Spotter.load(made / "models" / "disc-memory.spot").recalibrate(false_reject_rate=0.2).save(
        models / f"{name}.spot"
    )
    page = opens(f"{site.url}/monitor?model={name}")
    expect(page.locator("#drift-title")).to_contain_text("Too few parts yet")

    found = [site.inspect(dim(1000 + index, tmp_path / f"{index:03}.png"), model=name) for index in range(24)]
    page.reload()
    expect(page.locator(".drift.alarm #drift-title")).to_have_text("The calibration no longer holds")
    expect(page.locator(".drift")).to_contain_text("The pictures are darker than those of the training")
    expect(page.locator(".drift")).to_contain_text("Check lamp, exposure and stray light.")
    expect(page.locator("#light-title ~ table .badge.warn").first).to_be_visible()
    expect(page.locator(".figures")).to_contain_text(re.compile(r"Inspected\s*24"))
    expect(page.locator("#rejects-title ~ svg .line")).to_have_count(1)
    expect(page.locator("#scores-title ~ svg .bar-recent")).to_be_visible()
    button = page.get_by_role("button", name="Recalibrate")
    expect(button).to_be_disabled()

    with httpx.Client(base_url=site.url, timeout=PATIENCE / 1000) as client:
        for each in found:
            client.put(f"/api/v1/inspections/{each['id']}/review", json={"verdict": "OK"}).raise_for_status()
    page.reload()
    expect(page.locator(".drift")).to_contain_text("from 24 good parts that a person has confirmed")
    with leading_on(page):
        button.click()
    expect(page.get_by_text("The model is ready.")).to_be_visible(timeout=LONG)
    assert (models / f"{name}.spot").exists()
    expect(page.locator(".keys")).to_contain_text(f"{name}.v2")
