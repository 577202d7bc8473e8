"""Page Inspect in a real browser: pictures come in by drop, paste, folder and camera; verdict, overlay and limit."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from tests.e2e.station_pages.conftest import drop, leading_on

if TYPE_CHECKING:
    from pathlib import Path


def pick(page: Any, expect: Any, *pictures: Path) -> None:
    """Choose files by the button and wait until all are inspected."""
    page.set_input_files("#files", [str(path) for path in pictures])
    expect(page.locator("#result [data-inspection]")).to_be_visible()
    expect(page.locator(".queue")).to_be_hidden()
    expect(page.locator("#recent .tile")).to_have_count(len(pictures))


def opacity(page: Any) -> str:
    return str(page.locator(".heat").evaluate("image => getComputedStyle(image).opacity"))


def transform(page: Any) -> str:
    return str(page.locator(".sheet").evaluate("sheet => sheet.style.transform"))


def test_a_dropped_defect_is_called_shown_corrected_and_found_again(site, opens, expect):
    page = opens(site.inspect_page)
    drop(page, site.pictures / "bad/000.png")

    verdict = page.locator("#result .verdict")
    expect(verdict).to_have_class(re.compile("DEFECT"))
    expect(verdict.locator("strong")).to_have_text("DEFECT")
    expect(verdict.locator("svg.mark use")).to_have_attribute("href", re.compile("#DEFECT$"))
    expect(page.locator("#said")).to_contain_text("DEFECT")
    size = float(verdict.locator("strong").evaluate("word => parseFloat(getComputedStyle(word).fontSize)"))
    assert size >= 120  # capitals of 2.3 cm at 96 dpi: 3 m at 26 arc minutes, five times the limit of the eye

    expect(page.locator(".heat")).to_be_visible()
    for image in (page.locator(".heat"), page.locator(".sheet img").first):
        assert image.evaluate("async image => { await image.decode(); return image.naturalWidth; }") == 96
    page.locator(".opacity").fill("25")
    assert float(opacity(page)) == 0.25

    whole = transform(page)
    region = page.locator("[data-region]").first
    region.click()
    expect(region).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".sheet .region.lit")).to_have_count(1)
    page.locator("[data-zoom=in]").click()
    assert transform(page) != whole
    page.locator("[data-zoom=fit]").click()
    assert transform(page) == whole

    with leading_on(page):
        page.get_by_role("link", name="Correct this verdict").click()
    page.locator(".choice", has_text="OK").click()
    page.get_by_label("Note").fill("only a shadow <b>")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#review .notice")).to_contain_text("Corrected to OK by local")
    expect(page.locator("#review .notice")).to_contain_text("only a shadow <b>")

    page.goto(site.history_page)
    page.get_by_label("Reviewed").select_option("corrected")
    expect(page.locator(".tile")).to_have_count(1)
    expect(page).to_have_url(re.compile("review=corrected"))
    page.get_by_label("Reviewed").select_option("none")
    expect(page.locator("#found")).to_contain_text("No inspection matches")


def test_a_good_part_is_ok_by_shape_and_word(site, opens, expect):
    page = opens(site.inspect_page)
    pick(page, expect, site.pictures / "good/003.png")
    verdict = page.locator("#result .verdict")
    expect(verdict.locator("strong")).to_have_text("OK")
    expect(verdict.locator("svg.mark use")).to_have_attribute("href", re.compile("#OK$"))
    expect(page.locator("#result")).to_contain_text("Nothing on this picture stands out")


def test_a_folder_a_paste_and_the_camera(site, opens, expect):
    page = opens(site.inspect_page)
    drop(page, site.pictures / "bad")
    expect(page.locator("#toast")).to_contain_text("8 pictures inspected: 0 OK, 8 DEFECT")
    expect(page.locator("#recent .tile")).to_have_count(8)

    data = base64.b64encode((site.pictures / "good/001.png").read_bytes()).decode()
    page.evaluate(
        """data => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], 'pasted.png', { type: 'image/png' }));
            window.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer }));
        }""",
        data,
    )
    expect(page.locator(".verdict .which")).to_contain_text("pasted.png")
    expect(page.locator("#recent .tile")).to_have_count(9)

    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take and inspect").click()  # waits until the camera has opened
    expect(page.locator(".verdict .which")).to_contain_text("camera-")
    expect(page.locator("#recent .tile")).to_have_count(10)


def test_what_is_no_picture_says_why(site, opens, expect, complaints, tmp_path):
    complaints.expected += ["422"]
    broken = tmp_path / "broken.png"
    broken.write_bytes((site.pictures / "good/000.png").read_bytes()[:300])
    page = opens(site.inspect_page)
    page.set_input_files("#files", str(broken))
    expect(page.locator("#result [role=alert]")).to_contain_text("broken.png")
    note = tmp_path / "note.txt"
    note.write_text("no picture")
    drop(page, note)
    expect(page.locator("#toast")).to_contain_text("no picture in that")


def test_the_slider_shows_what_another_limit_would_change(site, opens, expect):
    pictures = [
        *sorted((site.pictures / "tests").iterdir())[:4],
        *sorted((site.pictures / "bad").iterdir())[:4],
    ]
    found = [site.inspect(path) for path in pictures]
    page = opens(site.inspect_page)
    expect(page.locator("#recent .tile")).to_have_count(8)
    slider, told = page.locator("#limit"), page.locator("[data-changes]")
    expect(told).to_have_text("Nothing would change on the last 8 pictures.")

    lowest, highest = float(slider.get_attribute("min")), float(slider.get_attribute("max"))
    for limit in (lowest, 0.5, highest):
        slider.fill(f"{limit:.2f}")
        to_defect = sum(each["score"] > round(limit, 2) and each["verdict"] == "OK" for each in found)
        to_ok = sum(each["score"] <= round(limit, 2) and each["verdict"] == "DEFECT" for each in found)
        expect(page.locator(".tile.flips")).to_have_count(to_defect + to_ok)
        if to_defect + to_ok:
            expect(told).to_have_text(
                f"{to_defect + to_ok} of the last 8 pictures would change: {to_ok} to OK, {to_defect} to DEFECT."
            )
    slider.fill(f"{lowest:.2f}")
    expect(page.locator("[data-cost]")).to_contain_text(
        re.compile(r"Of the 40 good parts .* rejects (3\d|40) ")
    )
    page.get_by_role("button", name="Back to the calibrated limit").click()
    expect(page.locator(".tile.flips")).to_have_count(0)


def test_it_works_by_keyboard_alone(site, opens, expect):
    page = opens(site.inspect_page)
    # Listened to from the start: the browser must have agreed to hand choosers over before the key is pressed.
    page.on("filechooser", lambda chooser: chooser.set_files(str(site.pictures / "bad/002.png")))
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("[data-picks=files]")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#result .verdict strong")).to_have_text("DEFECT")

    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('stage')"):
            break
    expect(page.locator(".stage")).to_be_focused()
    whole = transform(page)
    page.keyboard.press("+")
    page.keyboard.press("+")
    zoomed = transform(page)
    page.keyboard.press("ArrowLeft")
    assert len({whole, zoomed, transform(page)}) == 3
    page.keyboard.press("0")
    assert transform(page) == whole
    page.keyboard.press("Tab")
    before = opacity(page)
    page.keyboard.press("ArrowLeft")
    assert opacity(page) < before

    link = page.get_by_role("link", name="Correct this verdict")
    for _ in range(15):
        page.keyboard.press("Tab")
        if link.evaluate("element => element === document.activeElement"):
            break
    with leading_on(page):
        page.keyboard.press("Enter")
    expect(page.locator("#review")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#review input[value=DEFECT]")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#review input[value=OK]")).to_be_checked()
    page.keyboard.press("Tab")
    page.keyboard.type("looked at it")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#review .notice")).to_contain_text("looked at it")
