"""The report as a headless Chromium shows it: at a desk, on a phone, and printed."""

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import browser
from pipeline.fit import job as stages
from pipeline.report import tables, write_score_report
from pipeline.score.new_rows import score
from pipeline.store.paths import report_folder
from reports import job, rows_of

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

DESK, PHONE = {"width": 1200}, {"width": 390, "height": 844, "mobile": True}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Pages of a usual store, and of one with many features of long names, many components and failures."""
    plain = job(tmp_path_factory.mktemp("plain"), rows_of())
    random, kinds = np.random.default_rng(0), ["full", "diag"]
    rows = np.concatenate([random.normal(size=(900, 40)) + 4.0 * random.normal(size=(9, 40)).repeat(100, axis=0)])
    names = [f"a_rather_long_name_without_any_space_{i}" for i in range(40)]
    search = {"n_components": [9, 24, 30], "covariance_types": kinds, "reg_covar": 0.0, "max_iter": 5}
    wide = job(tmp_path_factory.mktemp("wide"), rows, names, search=search)
    stores = {name: stages.run(config).store for name, config in (("plain", plain), ("wide", wide))}
    out = tmp_path_factory.mktemp("scores") / "scores.zarr"
    pd.DataFrame(np.add(rows_of(seed=1), (0.5, 0.0, 0.0)), columns=["x0", "x1", "x2"]).to_parquet(
        out.with_name("new.parquet")
    )
    scores = score(stores["plain"], str(out.with_name("new.parquet")), out)
    pages = {name: Path(report_folder(store)) / "index.html" for name, store in stores.items()}
    return {**pages, "scores": Path(write_score_report(scores))}


@pytest.fixture(scope="module")
def page():
    with browser.browsing() as found:
        yield found


@pytest.fixture(params=["plain", "wide"])
def report(request, reports):
    return reports[request.param]


@pytest.fixture(params=["plain", "wide", "scores"])
def any_page(request, reports):
    return reports[request.param]


@pytest.mark.parametrize("window", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_is_requested_and_nothing_complained_of(page, any_page, window):
    page.requests.clear()
    page.complaints.clear()
    page.open(any_page, **window)
    assert [url for url in page.requests if not url.startswith("data:")] == [any_page.resolve().as_uri()]
    assert page.complaints == []


@pytest.mark.parametrize("window", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_is_as_wide_as_the_window(page, any_page, window):
    """Wide tables scroll in a box of their own, never the page."""
    page.open(any_page, **window)
    assert page.evaluate("document.documentElement.scrollWidth") == window["width"]
    too_wide = """[...document.querySelectorAll("body *")].filter(element => !element.closest(".scroll")
        && element.getBoundingClientRect().right > window.innerWidth + 1).map(element => element.outerHTML)"""
    assert page.evaluate(too_wide) == []


def test_components_are_lists_on_a_phone_and_a_table_on_a_desk(page, any_page):
    inside = "[...document.querySelectorAll('.scroll:has(.components)')].map(box => box.scrollWidth - box.clientWidth)"
    heads = "getComputedStyle(document.querySelector('.components td'), '::before').content"
    page.open(any_page, **PHONE)
    assert set(page.evaluate(inside)) == {0}
    assert page.evaluate(heads) not in ("none", '""')
    page.open(any_page, **DESK)
    assert page.evaluate(heads) == "none"


def test_text_is_large_enough_to_read_on_a_phone(page, report):
    page.open(report, **PHONE)
    sizes = page.evaluate(
        """[...document.querySelectorAll("body *")].filter(element => [...element.childNodes].some(node =>
        node.nodeType === Node.TEXT_NODE && node.textContent.trim())).map(element =>
        parseFloat(getComputedStyle(element).fontSize))"""
    )
    assert len(sizes) > 200
    assert min(sizes) >= 11.0


def test_text_in_pictures_is_large_enough_to_read_on_a_phone(page, report):
    page.open(report, **PHONE)
    images = page.evaluate("[...document.images].map(image => [image.width, atob(image.src.split(',')[1])])")
    assert len(images) >= 2
    for width, svg in images:
        scale = width / float(re.search(r'viewBox="0 0 ([\d.]+)', svg).group(1))
        sizes = [float(size) * scale for size in re.findall(r"font-size: ([\d.]+)px", svg)]
        assert min(sizes) >= 9.0


@pytest.fixture(params=["light", "dark"])
def theme(request, page):
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": request.param}])
    yield request.param
    page.send("Emulation.setEmulatedMedia", features=[])


def test_text_stands_out_from_its_background(page, any_page, theme):
    """At least 4.5 : 1, as the Web Content Accessibility Guidelines ask."""
    page.open(any_page, **DESK)
    found = page.evaluate(
        """(() => {
        const channels = text => (text.match(/[\\d.]+/g) || []).map(Number);
        const luminance = rgb => rgb.slice(0, 3).map(value => value / 255).map(value => value <= 0.04045 ? value / 12.92
            : ((value + 0.055) / 1.055) ** 2.4).reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = element => {
            let colour = channels(getComputedStyle(document.documentElement).backgroundColor);
            const chain = [];
            for (let e = element; e; e = e.parentElement) chain.unshift(channels(getComputedStyle(e).backgroundColor));
            for (const [r, g, b, a = 1] of chain) colour = colour.map((value, i) => value * (1 - a) + [r, g, b][i] * a);
            return colour;
        };
        return [...document.querySelectorAll("body *")].filter(element => [...element.childNodes].some(node =>
            node.nodeType === Node.TEXT_NODE && node.textContent.trim())).map(element => {
            const [one, two] = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))];
            return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), element.outerHTML.slice(0, 90)];
        }).filter(([contrast]) => contrast < 4.5);
    })()"""
    )
    assert found == []


@pytest.mark.parametrize("window", [DESK, PHONE], ids=["desk", "phone"])
def test_pictures_are_seen(page, report, window, theme):
    """Each picture has ink where the page shows it, and none lies over another."""
    page.open(report, **window)
    boxes = page.evaluate(
        """[...document.images].map(image => image.getBoundingClientRect())
        .map(box => [box.left, box.top, box.right, box.bottom])"""
    )
    shot = Image.open(io.BytesIO(page.screenshot())).convert("L")
    scale = shot.width / window["width"]
    for box in boxes:
        part = np.asarray(shot.crop([round(edge * scale) for edge in box]))
        ink = part < 120 if theme == "light" else part > 130
        assert 0.002 < ink.mean() < 0.5
        assert part.std() > 5.0
    for i, one in enumerate(boxes):
        for two in boxes[:i]:
            assert min(one[2], two[2]) <= max(one[0], two[0]) or min(one[3], two[3]) <= max(one[1], two[1])


def test_long_tables_are_folded_until_asked(page, reports):
    """With the keyboard: the line below the table takes the focus, and a key opens it."""
    page.open(reports["wide"], **DESK)
    seen = "[...document.querySelectorAll('table.features tbody tr')].filter(row => row.offsetHeight).length"
    summary = "document.querySelector('.scroll:has(table.features) + .fold summary')"
    rows = page.evaluate("document.querySelectorAll('table.features tbody tr').length")
    assert page.evaluate(seen) == tables.MOST_ROWS < rows
    assert page.evaluate(f"{summary}.innerText") == f"Show all {rows}"
    page.evaluate(f"{summary}.focus()")
    for kind in ("keyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert page.evaluate(seen) == rows
    assert page.evaluate(f"{summary}.innerText") == f"Show the first {tables.MOST_ROWS}"


def test_a_reader_without_eyes_finds_the_way(page, any_page):
    """One title, no level left out, each picture described, each table with a caption and heads."""
    page.open(any_page, **DESK)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(head => Number(head.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    assert page.evaluate("[...document.images].filter(image => image.alt.length < 20).length") == 0
    assert page.evaluate("document.querySelectorAll('svg:not([role=img][aria-label])').length") == 0
    assert page.evaluate("[...document.querySelectorAll('table')].filter(one => !one.caption).length") == 0
    assert page.evaluate("document.querySelectorAll('th:not([scope])').length") == 0
    # what scrolls is reached by the keyboard, and says what it is
    assert (
        page.evaluate("document.querySelectorAll('.scroll:not([tabindex=\"0\"][role=region][aria-label])').length") == 0
    )
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(one => one.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )
    assert page.evaluate("document.documentElement.lang") == "en"


def test_the_page_is_light(reports):
    assert max(page.stat().st_size for page in reports.values()) < 1_000_000


def test_the_contents_lead_to_the_sections(page, report):
    page.open(report, **DESK)
    lost = "[...document.querySelectorAll('nav a')].filter(link => !document.querySelector(link.getAttribute('href')))"
    assert page.evaluate(f"{lost}.length") == 0
    assert page.evaluate("document.querySelectorAll('nav a').length") == page.evaluate(
        "document.querySelectorAll('main > section').length"
    )


def test_the_decision_is_seen_first_on_a_phone(page, reports):
    page.open(reports["plain"], **PHONE)
    bottom = page.evaluate("document.querySelector('.lead').getBoundingClientRect().bottom")
    assert 0 < bottom < 600


def test_it_prints_on_a_few_pages(page, report):
    page.open(report, **DESK)
    printed = page.print()
    assert printed.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 9


def test_nothing_is_cut_off_in_print(page, any_page):
    """On A4 with its margins, no table is wider than the paper."""
    page.open(any_page, **DESK)
    page.send("Emulation.setEmulatedMedia", media="print")
    try:
        page.send("Emulation.setDeviceMetricsOverride", width=695, height=980, deviceScaleFactor=1, mobile=False)
        assert page.evaluate("document.documentElement.scrollWidth") <= 695
    finally:
        page.send("Emulation.setEmulatedMedia", media="")


def test_the_browser_is_gone_afterwards():
    with browser.browsing() as found:
        assert found.evaluate("1 + 1") == 2
        process = found.process
    assert process.returncode is not None
