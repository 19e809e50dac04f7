"""Reports as a browser shows them: headless Chromium, at the widths of a telephone and a desktop.

Screenshots are written into the folder that ``TOKKIT_SCREENSHOTS`` names.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reportfolders import train_line, write_hostile_folders, write_run_folder

from tokkit.inspection.report.report import report
from tokkit.inspection.report.report_config import ReportConfig

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no Chromium (apt-get install chromium)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", exc_type=ImportError)

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
SIZES = {"phone": (390, "dark"), "desktop": (1280, "light")}
# What a page would do that ran or loaded what it must not.
BREAK_IN = """() => {
  const script = document.createElement("script");
  script.textContent = "window.hit = 6";
  const image = document.createElement("img");
  image.src = "https://example.org/" + document.title;
  document.body.append(script, image);
  document.body.insertAdjacentHTML("beforeend", "<a id=a onclick='window.hit = 7'>a</a>");
  document.getElementById("a").click();
  return window.hit ?? null;
}"""
SORT = """([table, column]) => {
  const heading = document.querySelectorAll("table.sortable")[table].tHead.rows[0].cells[column];
  heading.firstElementChild.click();
  const cells = [...heading.closest("table").tBodies[0].rows].map((row) => row.cells[column]);
  return cells.map((cell) => cell.dataset.value ? Number(cell.dataset.value) : cell.textContent);
}"""
TABLES = """() => [...document.querySelectorAll("table.sortable")].map(
  (table) => [table.tHead.rows[0].cells.length, table.tBodies[0].rows.length])"""
EMPTY_PLOTS = """() => [...document.querySelectorAll("svg.plot")].filter(
  (plot) => !plot.querySelector("path.line, rect.fill, circle.dot")).length"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield browser
        browser.close()


def write_page(kind: str, work: Path, folder: Path) -> Path:
    """Write the report of a kind of folder."""
    output = folder / f"{kind}.html"
    options: dict[str, Any] = {}
    if kind == "runs":
        paths = [
            write_run_folder(
                folder / name,
                [
                    *(
                        {"kind": "eval", "step": step, "loss": 9 - step / 90}
                        for step in (0, 200, 400)
                    ),
                    *(train_line(step, phase=step // 250) for step in range(10, 400, 10)),
                ],
                batch_size=size,
            )
            for name, size in (("small", 32), ("large", 64))
        ]
    elif kind == "hostile":
        paths = [write_hostile_folders(folder)]
    else:
        paths = [work / kind]
    if kind == "tokenizer":
        options["compare"] = (str(work / "instances" / "tokenizer"),)
    report(ReportConfig(paths=tuple(paths), output=output, **options))
    return output


@pytest.mark.parametrize("kind", ["tokenizer", "tokens", "static", "runs", "hostile"])
def test_a_page_shows_its_plots_and_sorts_its_tables_and_loads_nothing(
    kind: str, work: Path, tmp_path: Path, browser: Any
) -> None:
    path = write_page(kind, work, tmp_path)
    assert path.stat().st_size < 5_000_000
    for size, (width, scheme) in SIZES.items():
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        spoken: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message, to=spoken: to.append(message.text))
        page.on("pageerror", lambda error, to=spoken: to.append(str(error)))
        page.on("dialog", lambda dialog, to=spoken: to.append(dialog.message))
        page.on("request", lambda request, to=requests: to.append(request.url))
        page.goto(path.as_uri())
        if folder := os.environ.get("TOKKIT_SCREENSHOTS"):
            page.screenshot(path=Path(folder, f"{kind}-{size}.png"), full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("svg.plot").count() > 0
        assert page.evaluate(EMPTY_PLOTS) == 0
        sections = page.evaluate(
            "JSON.parse(document.getElementById('figures').textContent).sections"
        )
        assert all(section["title"] for section in sections)
        tables = page.evaluate(TABLES)
        assert tables
        for table, (num_columns, num_rows) in enumerate(tables if size == "phone" else []):
            for column in range(num_columns):
                up = page.evaluate(SORT, [table, column])
                down = page.evaluate(SORT, [table, column])
                assert len(up) == num_rows
                if all(isinstance(value, float | int) for value in up):
                    assert up == sorted(up)
                    assert down == sorted(up, reverse=True)
        assert page.evaluate("window.hit ?? null") is None
        assert spoken == []
        assert requests == [path.as_uri()]
        with page.expect_event("requestfailed") as refused:
            assert page.evaluate(BREAK_IN) is None
        assert refused.value.failure == "csp"
        assert any("Content Security Policy" in line for line in spoken)
        page.close()


def test_curves_are_drawn_against_the_axis_that_is_chosen(
    work: Path, tmp_path: Path, browser: Any
) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(write_page("runs", work, tmp_path).as_uri())
    shown = []
    for name in ("steps", "tokens", "time"):
        page.locator(".choice").get_by_text(name).click()
        titles = page.locator(".by-axis .cards:visible svg.plot text.title").all_text_contents()
        shown.append({*titles})
    page.close()
    assert shown == [{"step"}, {"tokens"}, {"minutes"}]


def test_everything_is_on_paper(work: Path, tmp_path: Path, browser: Any) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(write_page("tokens", work, tmp_path).as_uri())
    assert page.locator("details[open]").count() == 0
    ink = "getComputedStyle(document.body).color"
    assert page.evaluate(ink) == "rgb(232, 233, 236)"
    page.emulate_media(media="print")
    assert page.evaluate(ink) == "rgb(27, 29, 34)"  # dark on the white of paper
    data = page.pdf(path=tmp_path / "report.pdf")
    page.close()
    assert data.startswith(b"%PDF")
    assert len(data) > 20_000
