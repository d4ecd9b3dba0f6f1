"""The report in a real browser: narrow and wide, light and dark, by keyboard, and as axe-core judges it."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import synthetic
from browser import Browser

from mixkd.store import Store
from reports.ledger import LEDGER
from reports.page import build

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a full store, with a baseline."""
    folder = tmp_path_factory.mktemp("browser")
    stores = [Store(folder / effect) for effect in ("good", "bad")]
    for store in stores:
        synthetic.save_all(store, store.root.name)
    return build(stores[0], studies=synthetic.STUDIES, baseline=stores[1]).report


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_without_errors(browser, report, width, scheme):
    browser.open(report, width, scheme)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    lightness = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (lightness > 200) == (scheme == "light")
    assert browser.errors == []


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser, report, width, scheme):
    if find_spec("axe_playwright_python") is None:
        pytest.skip("axe-core is not installed: pip install --no-deps axe-playwright-python")
    (axe,) = Path(find_spec("axe_playwright_python").origin).parent.glob("axe.min.js")
    browser.open(report, width, scheme)
    browser.evaluate(axe.read_text() + "; 0")
    found = browser.evaluate("axe.run().then((result) => result.violations.map((one) => "
                             "[one.id, one.nodes.length, one.nodes[0].html.slice(0, 200)]))")  # fmt: skip
    assert found == []


def test_tables_sort_by_keyboard(browser, report):
    browser.open(report, 1400)
    heads = "#verdicts ~ .scroll thead button"
    assert browser.evaluate(f"document.querySelectorAll('{heads}').length") == 6
    browser.evaluate(f"document.querySelector('{heads}').focus()")
    first = "document.querySelector('#verdicts ~ .scroll tbody th').textContent"
    for sort, claim in (("ascending", min), ("descending", max)):
        browser.press("Enter", 13, "\r")
        assert browser.evaluate(f"document.querySelector('{heads}').parentNode.ariaSort") == sort
        assert browser.evaluate(first) == claim(one.id for one in LEDGER)
    browser.press("Tab", 9)
    assert browser.evaluate(f"document.activeElement === document.querySelectorAll('{heads}')[1]")


def test_numbers_are_sorted_by_their_size(browser, report):
    browser.open(report, 1400)
    cells = browser.evaluate("""(() => {
        const tables = [...document.querySelectorAll("table")];
        const table = tables.find((one) => one.caption?.textContent.startsWith("Latency of every case"));
        const head = [...table.tHead.rows[0].cells].find((one) => one.textContent === "Texts/s");
        head.querySelector("button").click();
        return [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].textContent);
    })()""")
    numbers = [float(cell.replace(",", "")) for cell in cells]
    assert numbers == sorted(numbers) and numbers[0] < 1000 < numbers[-1] and "," in cells[-1]


def test_a_long_table_is_searched(browser, report):
    browser.open(report, 1400)
    browser.evaluate("document.querySelector('#verdicts ~ .filter input').focus()")
    for letter in "contradicted":
        browser.press(letter, ord(letter.upper()), letter)
    shown = browser.evaluate("[...document.querySelectorAll('#verdicts ~ .scroll tbody tr:not([hidden])')]"
                             ".map((row) => row.textContent)")  # fmt: skip
    assert 0 < len(shown) < len(LEDGER) and all("contradicted" in row for row in shown)
    told = browser.evaluate("document.querySelector('#verdicts ~ .filter output').textContent")
    assert told == f"{len(shown)} of {len(LEDGER)}"


def test_the_first_tab_leads_past_the_head(browser, report):
    browser.open(report, 1400)
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.getAttribute('href')") == "#verdicts"


def test_without_scripts_the_page_is_whole(browser, report, tmp_path):
    browser.open(report, 1400)
    rows = browser.evaluate("document.querySelectorAll('#verdicts ~ .scroll tbody tr').length")
    plain = tmp_path / "plain.html"
    plain.write_text(report.read_text().replace("<script>", "<template>").replace("</script>", "</template>"))
    browser.open(plain, 1400)
    assert browser.evaluate("document.querySelectorAll('#verdicts ~ .scroll tbody tr').length") == rows == len(LEDGER)
    assert browser.evaluate("document.querySelectorAll('thead button').length") == 0
    assert browser.evaluate("document.querySelectorAll('svg').length") > 20
