"""Every page: no complaint of the browser, right structure, both languages and colour schemes, two sizes of screen."""

from __future__ import annotations

import re

import pytest

from tests.e2e.station_pages.conftest import leading_on

PAGES = ("inspect", "history", "train", "models", "monitor", "account", "login")
SIZES = {"desktop": (1280, 900), "tablet": (820, 1180)}

# Runs in the page: what a person with a keyboard, a screen reader or gloves would stumble over.
LOOK = """() => {
    const faults = [];
    const seen = (element) => element.getClientRects().length > 0 && !element.closest('.unseen');
    const named = (element) => (element.getAttribute('aria-label') || element.textContent || element.title).trim()
        || document.getElementById((element.getAttribute('aria-labelledby') || '').split(' ')[0])?.textContent.trim();
    if (document.querySelectorAll('h1').length !== 1) faults.push('not one h1');
    if (!document.documentElement.lang) faults.push('no language');
    for (const image of document.images) if (!image.hasAttribute('alt')) faults.push(`no alt: ${image.src}`);
    for (const image of document.images) {
        if (image.loading !== 'lazy' && image.complete && !image.naturalWidth) faults.push(`broken: ${image.src}`);
    }
    for (const field of document.querySelectorAll('input:not([type=hidden]), select, textarea')) {
        if (!field.labels?.length && !field.getAttribute('aria-label')) faults.push(`no label: ${field.outerHTML}`);
    }
    for (const element of document.querySelectorAll('a, button')) {
        if (!named(element)) faults.push(`no name: ${element.outerHTML}`);
    }
    for (const element of document.querySelectorAll('.button, .nav a, select, main input:not([type=checkbox])')) {
        const { width, height } = element.getBoundingClientRect();
        if (seen(element) && (width < 44 || height < 44)) faults.push(`too small for a glove: ${element.outerHTML}`);
    }
    if (document.documentElement.scrollWidth > window.innerWidth) faults.push('wider than the screen');
    for (const element of document.querySelectorAll('[style], script:not([src]), style')) {
        if (!['application/json'].includes(element.type) && !element.closest('picture-viewer')) {
            faults.push(`inline: ${element.outerHTML.slice(0, 80)}`);
        }
    }
    return faults;
}"""


@pytest.mark.parametrize("size", SIZES)
def test_every_page_is_sound(site, opens, expect, size):
    site.inspect(site.pictures / "bad/000.png")
    site.inspect(site.pictures / "good/000.png")
    page = opens(site.inspect_page, *SIZES[size])
    expect(page.locator("#recent .tile")).to_have_count(2)
    assert page.evaluate(LOOK) == []
    for name in PAGES[1:]:
        page.goto(f"{site.url}/{name}")
        assert page.evaluate(LOOK) == [], name
    page.goto(site.history_page)
    with leading_on(page):
        page.locator(".tile").first.click()
    expect(page.locator("picture-viewer")).to_be_visible()
    assert page.evaluate(LOOK) == []


def test_the_language_is_that_of_the_browser_until_another_is_chosen(site, opens, expect):
    page = opens(f"{site.url}/train", locale="it-IT")
    expect(page.locator("h1")).to_have_text("Addestra")
    expect(page.locator("html")).to_have_attribute("lang", "it")
    with leading_on(page):
        page.get_by_role("button", name="English").click()
    expect(page.locator("h1")).to_have_text("Train")
    page.goto(f"{site.url}/models")
    expect(page.locator("h1")).to_have_text("Models")
    with leading_on(page):
        page.get_by_role("button", name="Italiano").click()
    expect(page.locator("h1")).to_have_text("Modelli")
    site.inspect(site.pictures / "bad/001.png")
    page.goto(site.history_page)
    expect(page.locator(".tile .tag")).to_have_text("DIFETTO")
    with leading_on(page):
        page.locator(".tile").click()
    expect(page.locator(".verdict strong")).to_have_text("DIFETTO")
    expect(page.locator(".keys").first).to_contain_text(re.compile(r"Punteggio\s*\d+,\d"))


def test_colours_follow_the_system_and_the_switch(site, opens, expect):
    page = opens(f"{site.url}/models", scheme="dark")

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = ground()
    assert max(map(int, re.findall(r"\d+", dark))) < 50
    with leading_on(page):
        page.locator("#theme").click()  # from "as the system" to light
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    assert min(map(int, re.findall(r"\d+", ground()))) > 200
    page.goto(f"{site.url}/monitor")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    with leading_on(page):
        page.locator("#theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.emulate_media(color_scheme="light")
    assert ground() == dark


def test_history_is_filtered_and_paged(site, opens, expect):
    for index in range(26):
        site.inspect(site.pictures / f"good/{index:03}.png")
    site.inspect(site.pictures / "bad/003.png")
    page = opens(site.history_page)
    expect(page.locator(".tile")).to_have_count(24)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".tile")).to_have_count(27)
    page.get_by_label("Verdict").select_option("DEFECT")
    expect(page.locator(".tile")).to_have_count(1)
    expect(page.locator(".tile .name")).to_have_text("003.png")
    with page.expect_download() as download:
        page.locator("#export").click()
    rows = download.value.path().read_text().strip().splitlines()
    assert len(rows) == 2 and "DEFECT" in rows[1]
    page.get_by_label("Verdict").select_option("")
    page.get_by_label("To", exact=True).fill("2000-01-01")
    expect(page.locator("#found")).to_contain_text("No inspection matches")


def test_two_models_are_compared_on_the_same_pictures(site, opens, expect):
    for path in (site.pictures / "bad/004.png", site.pictures / "good/004.png"):
        site.inspect(path)
    page = opens(f"{site.url}/models")
    page.get_by_label("First").select_option(site.model)
    page.get_by_label("Second").select_option(site.other)
    page.get_by_role("button", name="Compare", exact=True).click()
    rows = page.locator(".comparison li")
    expect(rows.first).to_be_visible()
    assert rows.count() >= 2
    for side in rows.nth(0).locator("figure img").all():
        assert side.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 0
    expect(page.locator("#comparison .lead")).to_contain_text(re.compile("same verdict on all|disagree on"))


def test_models_are_added_activated_and_deleted(site, opens, expect, tmp_path):
    page = opens(f"{site.url}/models")
    upload = tmp_path / f"{site.model}-again.spot"
    upload.write_bytes((site.models / f"{site.other}.spot").read_bytes())
    page.set_input_files("input[type=file]", str(upload))
    expect(page.locator("#models [role=status]")).to_contain_text("-again is added")
    card = page.locator(".model", has_text=f"{site.model}-again")
    card.get_by_role("button", name="Activate").click()
    expect(card.locator(".badge.active")).to_be_visible()
    other = page.locator(".model", has_text="disc-memory").first
    other.get_by_role("button", name="Activate").click()
    expect(card.locator(".badge.active")).to_have_count(0)
    page.on("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name="Delete").click()
    expect(page.locator("#models [role=status]")).to_contain_text("-again is deleted")
    assert not (site.models / f"{site.model}-again.spot").exists()

    broken = tmp_path / "broken.spot"
    broken.write_bytes(b"no model")
    page.set_input_files("input[type=file]", str(broken))
    expect(page.locator("#models [role=alert]")).to_be_visible()


def test_what_is_not_there_is_said_in_a_page(site, opens, expect, complaints):
    complaints.expected += ["404"]
    page = opens(f"{site.url}/history/{'0' * 32}")
    expect(page.locator("h1")).to_have_text("There is no such page")
    expect(page.locator("nav")).to_be_visible()
