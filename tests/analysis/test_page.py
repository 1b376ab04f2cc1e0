"""The report in a browser: it draws, asks for nothing from outside, shows values under the pointer, fits the screen."""

import itertools
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from research.analysis import page as pages
from tests.analysis.runs import evaluate, experiment, write

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SCREENS = [(400, "light"), (400, "dark"), (1600, "light"), (1600, "dark")]

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS, timeout=300_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page about a complete run and a killed one with names too long for a small screen."""
    folder = tmp_path_factory.mktemp("runs")
    first = write(folder / "first")
    evaluate(first)
    name = "second_with_a_name_that_is_longer_than_any_small_screen_is_wide"
    second = write(folder / name, seed=1, complete=False, data=replace(experiment().data, batch=32))
    return pages.write([first, second]).as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the page on a screen; at the end nothing may have failed or been asked of a network."""
    opened = []

    def open_page(width=1600, scheme="light", to=address):
        context = browser.new_context(
            offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme, locale="en"
        )
        page, seen = context.new_page(), SimpleNamespace(errors=[], requests=[])
        page.set_default_timeout(300_000)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("console", lambda message: seen.errors.append(message.text))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.goto(to)
        opened.append((context, seen, to))
        return page

    yield open_page
    for context, seen, to in opened:
        context.close()
        assert seen.errors == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [to]


def legend(page) -> dict[str, str]:
    cells = "row => [row.querySelector('.u-label').textContent, row.querySelector('.u-value').textContent]"
    return dict(page.evaluate(f"[...document.querySelectorAll('#chart-0 .u-series')].map({cells})"))


def hover(page, across: float) -> None:
    box = page.locator("#chart-0 .u-over").bounding_box()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + box["height"] / 2)


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_it_is_usable_on_every_screen(open_page, width, scheme):
    page = open_page(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".uplot canvas").count() == 9
    drawn = "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    assert page.locator(".uplot canvas").first.evaluate(drawn) > 20
    page.locator("#chart-0").scroll_into_view_if_needed()
    hover(page, 0.5)
    shown = legend(page)
    assert 15 <= int(shown["step"]) <= 25
    assert float(shown["first training"]) == pytest.approx(2.1, abs=0.3)
    assert float(shown["first held-out"]) == pytest.approx(2.15, abs=0.2)  # the nearest one, of step 20
    ground, text = (page.evaluate(f"getComputedStyle(document.body).{it}") for it in ("backgroundColor", "color"))
    assert contrast(ground, text) > 7 and (brightness(ground) > brightness(text)) == (scheme == "light")


def brightness(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([brightness(one), brightness(other)])
    return (high + 0.05) / (low + 0.05)


def test_dragging_zooms_into_all_charts_and_a_double_click_shows_everything(open_page):
    page = open_page()
    page.locator("#chart-0").scroll_into_view_if_needed()
    ranges = "plots.map(plot => [plot.scales.x.min, plot.scales.x.max])"
    (begin, end), *others = page.evaluate(ranges)
    hover(page, 0.25)
    page.mouse.down()
    hover(page, 0.5)
    page.mouse.up()
    zoomed = page.evaluate(ranges)
    wanted = [begin + share * (end - begin) for share in (0.25, 0.5)]
    assert all(part == pytest.approx(wanted, abs=0.5) for part in zoomed)
    page.locator("#chart-0 .u-over").dblclick()
    assert page.evaluate(ranges) == [[begin, end], *others]


def test_the_axis_and_the_theme_can_change(open_page):
    page = open_page()
    page.select_option("#axis", "tokens")
    page.locator("#chart-0").scroll_into_view_if_needed()
    hover(page, 0.99)
    assert legend(page)["tokens"].replace(",", "") == str(40 * 16 * 128)  # both runs end there
    page.check("#logarithmic")
    assert page.evaluate("plots[0].scales.y.distr") == 3
    before = page.evaluate("plots[0].series[1].stroke()")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("before => plots[0].series[1].stroke() !== before", arg=before)
    page.set_viewport_size({"width": 700, "height": 900})
    page.wait_for_function("plots[0].width < 700")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The page about two experiments, one of them with two seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    runs = [write(folder / f"a{seed}", seed=seed, seeded=True) for seed in (0, 1)]
    runs.append(write(folder / "b", seed=2, data=replace(experiment().data, batch=32)))
    return pages.write(runs, folder / "report.html").as_uri()


def drawn(page) -> dict[str, list[float]]:
    """The values of each curve of the first chart."""
    return dict(
        page.evaluate("plots[0].series.slice(1).map((s, n) => [s.label, plots[0].data[n + 1].filter(x => x != null)])")
    )


def test_seeds_are_averaged_with_a_band_around(open_page, sweep):
    page = open_page(to=sweep)
    before = drawn(page)
    page.check("#averaged")
    after = drawn(page)
    wanted = [(a + b) / 2 for a, b in zip(before["a0 training"], before["a1 training"], strict=True)]
    assert after["a0 and 1 more seeds training"] == pytest.approx(wanted)
    assert after["b training"] == before["b training"] and "a1 training" not in after
    bands = page.evaluate("plots[0].bands.map(band => band.series.map(n => plots[0].data[n].filter(x => x != null)))")
    high, low = bands[0]
    assert len(bands) == 2 and all(a > m > b for a, m, b in zip(high, wanted, low, strict=True))


def test_curves_are_smoothed_and_lie_over_hours(open_page, sweep):
    page = open_page(to=sweep)
    before = drawn(page)
    page.evaluate("smoothing.value = 0.9; smoothing.dispatchEvent(new Event('input'))")
    after = drawn(page)
    assert after["b held-out"] == before["b held-out"] and after["b training"][0] == before["b training"][0]
    rough = [
        sum(abs(a - b) for a, b in itertools.pairwise(each[9:])) for each in (before["b training"], after["b training"])
    ]
    assert rough[1] < rough[0] / 3
    page.select_option("#axis", "hours")
    (end,) = page.evaluate("[plots[0].data[0].at(-1)]")
    assert end == pytest.approx((40 / 2 + 3 + 40 / 2) / 3600, rel=1e-3)  # what the last record says was spent


def test_runs_are_sorted_and_filtered(open_page, sweep):
    page = open_page(to=sweep)
    headings = page.locator("#compared thead th").all_inner_texts()
    assert headings[1:4] == ["run", "data.batch", "seed"]  # what differs comes first
    names = "[...document.querySelectorAll('#compared tbody tr:not([hidden])')].map(row => row.cells[1].textContent)"
    assert page.evaluate(names) == ["a0", "a1", "b"]
    page.locator("#compared thead th").nth(3).click()
    page.locator("#compared thead th").nth(3).click()
    assert page.evaluate(names)[0] == "a1"
    page.fill("#filter", "b 32")
    assert page.evaluate(names) == ["b"] and set(drawn(page)) == {"b training", "b held-out"}
    page.fill("#filter", "")
    page.uncheck("#compared tbody tr[data-run='2'] input")
    assert {label.split()[0] for label in drawn(page)} == {"a0", "a1"}


def test_what_a_model_said_is_shown_as_it_is(open_page):
    page = open_page()
    assert page.locator("details[open] .sample").first.inner_text() == "the <b>cat</b> sat 40 times"
    assert page.locator("#evaluations .interval").count() == 2
    assert page.locator("#time .bar").count() == 2
