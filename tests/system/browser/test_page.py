"""The pages in a real browser: silent, self-contained, operable by keyboard and by a screen reader,
at home on a phone.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from tiny_runs import draw_samples, make_run, make_sweep, model

from experiments import settings
from experiments.__main__ import main
from experiments.report import run_view
from experiments.report.report import write_page, write_report
from experiments.sweep.folder import SweepFolder
from experiments.sweep.page import write_page as write_sweep
from rl_unlearn.errors import DataError


@pytest.mark.parametrize(
    ("concept", "names"),
    [("cat", ("cat",)), ("cat, dog", ("cat", "dog")), ("style:flat,style:noto", ("flat", "noto"))],
)
def test_a_run_knows_the_names_of_what_was_forgotten(
    tmp_path: Path, concept: str, names: tuple[str, ...]
) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "config.yaml").write_text(settings.dump(tiny.config(concept=concept)))
    assert run_view.read(folder, 0).forgotten == names


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(
        filter(
            None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))
        ),
        None,
    )
    with sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip(
                "no Chromium on this machine: install one, or run `playwright install chromium`"
            )
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("one") / "cat-seed0"))


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    runs = [make_run(root / "first"), make_run(root / "second", ua=60.0, seed=1, broken=True)]
    return write_page(runs, root / "report.html")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_sweep(tmp_path_factory.mktemp("sweep") / "study")
    for name in ("good-seed0", "mild-seed0"):
        draw_samples(root / name, tiny.config())
        (root / name / "report.html").write_text("<title>of a trial</title>")
    return write_sweep(SweepFolder(root))


PAGES = ("single", "double", "sweep")


class Visit:
    """A page opened from its file, with everything it said and asked for."""

    def __init__(self, context: BrowserContext, file: Path) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(180_000)  # milliseconds, on a busy machine
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_load_state("load")


@pytest.mark.parametrize("which", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_silent_and_fits(
    which: str, scheme: str, browser: Browser, request: pytest.FixtureRequest
) -> None:
    file: Path = request.getfixturevalue(which)
    for width in (360, 1280):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        visit = Visit(context, file)
        assert visit.said == []
        assert [url for url in visit.asked if not url.startswith("data:")] == [file.as_uri()]
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.page.evaluate(
            "document.images.length > 0 && [...document.images].every(image => "
            "image.naturalWidth > 0)"
        )
        dark = (
            visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
            == "rgb(21, 21, 23)"
        )
        assert dark == (scheme == "dark")
        context.close()


@pytest.mark.slow
@pytest.mark.parametrize("which", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(
    which: str, scheme: str, browser: Browser, request: pytest.FixtureRequest
) -> None:
    for width in (390, 1280):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        page = Visit(context, request.getfixturevalue(which)).page
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        unsure = {rule["id"] for rule in found.response["incomplete"]}
        # Ticks of one letter and what lies beyond the edge of a scrolled table cannot be measured.
        assert unsure <= {"color-contrast"}
        context.close()


def test_axe_would_find_something(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("<img src='data:,'><p style='color: #ccc; background: #fff'>pale words</p>")
    found = {rule["id"] for rule in Axe().run(page).response["violations"]}
    assert {"image-alt", "color-contrast"} <= found
    page.close()


FOCUSED = """() => {
  const part = document.activeElement;
  if (part === document.body) return null;
  const box = part.getClientRects()[0], style = getComputedStyle(part);  // of words: the first line
  const x = (Math.max(0, box.left) + Math.min(innerWidth, box.right)) / 2;
  const y = (Math.max(0, box.top) + Math.min(innerHeight, box.bottom)) / 2;
  return {
    place: stops.indexOf(part),
    framed: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    seen: part.contains(document.elementFromPoint(x, y)),
    what: part.outerHTML.slice(0, 80),
  };
}"""


@pytest.mark.parametrize("which", PAGES)
@pytest.mark.parametrize("width", [390, 1280])
def test_all_is_reached_by_keyboard_and_seen_there(
    which: str, width: int, browser: Browser, request: pytest.FixtureRequest
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = Visit(context, request.getfixturevalue(which)).page
    count = page.evaluate(
        "window.stops = [...document.querySelectorAll('a, button, input, summary, [tabindex]')]"
        ".filter(part => part.checkVisibility()), stops.length"
    )
    assert count > 3
    for key, order in (("Tab", range(count)), ("Shift+Tab", range(count - 2, -1, -1))):
        for place in order:
            page.keyboard.press(key)
            focused = page.evaluate(FOCUSED)
            assert focused is not None
            assert (focused["place"], focused["framed"], focused["seen"]) == (place, True, True), (
                focused["what"]
            )
    context.close()


def test_a_table_is_sorted_by_keyboard(browser: Browser, sweep: Path) -> None:
    context = browser.new_context()
    page = Visit(context, sweep).page
    table = page.locator("table.sortable").first
    settings = table.locator("tbody th")

    def order() -> list[str]:
        return [text.split(" ")[0] for text in settings.all_inner_texts()]

    assert order() == ["bad", "mild", "good", "dead"]
    heading = table.get_by_role("columnheader", name="IRA %")
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert order() == ["bad", "good", "mild", "dead"]
    heading.get_by_role("button").press("Space")
    assert heading.get_attribute("aria-sort") == "descending"
    assert order() == ["mild", "good", "bad", "dead"], "what was not measured stays below"
    table.get_by_role("columnheader", name="Setting").get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") is None
    assert order() == ["bad", "dead", "good", "mild"]
    context.close()


def test_the_slider_moves_by_keyboard(browser: Browser, single: Path) -> None:
    context = browser.new_context()
    page = Visit(context, single).page
    slider = page.get_by_role("slider")
    for _ in range(20):
        page.keyboard.press("Tab")
        if slider.evaluate("element => element === document.activeElement"):
            break
    clip = "getComputedStyle(document.querySelector('.new')).clipPath"
    middle = page.evaluate(clip)
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "51"
    assert page.evaluate(clip) != middle
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "all before"
    assert "100%" in page.evaluate(clip)
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "all after"
    context.close()


def test_hostile_text_stays_text(browser: Browser, double: Path) -> None:
    context = browser.new_context()
    visit = Visit(context, double)
    assert visit.page.evaluate("document.querySelectorAll('script').length") == 1
    assert (
        visit.page.evaluate(
            "document.querySelectorAll('img[src=x], [onerror], [onclick], [style*=url]').length"
        )
        == 0
    )
    assert "<script>alert(1)</script>" in visit.page.locator("body").inner_text()
    assert "{{ 7*7 }}" in visit.page.locator("body").inner_text()
    assert visit.said == []
    context.close()


def test_everything_has_a_name(browser: Browser, double: Path) -> None:
    context = browser.new_context()
    page = Visit(context, double).page
    assert page.evaluate("document.images.length") * page.evaluate(
        "document.querySelectorAll('svg[role=img]').length"
    )
    assert page.evaluate("[...document.images].every(image => image.alt.length > 20)")
    assert page.evaluate(
        "[...document.querySelectorAll('svg[role=img]')].every(s => s.ariaLabel.trim().length > 20)"
    )
    assert page.evaluate(
        "[...document.querySelectorAll('svg')].every(s => s.role === 'img' || s.ariaHidden === "
        "'true')"
    )
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    context.close()


def test_the_figures_are_those_of_the_files(browser: Browser, single: Path, double: Path) -> None:
    context = browser.new_context()
    words = Visit(context, single).page.locator("body").inner_text()
    for part in (
        "97.9",
        "95.9 to 99.9",
        "by the test's judge",
        "seeds 0, 1",
        "40.0",
        "38.0 to 42.0",
        "2.5 GB",
        "learner.batch",
    ):
        assert part in words, part
    words = Visit(context, double).page.locator("body").inner_text()
    for part in (
        "first",
        "second",
        "60.0",
        "58.0 to 62.0",
        "What differs between the runs",
        "Broken images.",
    ):
        assert part in words, part
    context.close()


def test_paper_shows_both_sides_and_opens_what_is_folded(browser: Browser, single: Path) -> None:
    context = browser.new_context()
    page = Visit(context, single).page
    page.emulate_media(media="print")
    old, new = page.locator(".old").first.bounding_box(), page.locator(".new").first.bounding_box()
    assert old is not None
    assert new is not None
    assert new["y"] >= old["y"] + old["height"] - 1
    assert not page.get_by_role("slider").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every(part => part.open)")
    context.close()


# -- the verb --------------------------------------------------------------------------------------


def test_report_says_where_it_wrote(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / name)) for name in ("a", "b")]
    assert main(["report", *runs, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["report"] == str(tmp_path / "report.html")
    assert main(["report", runs[0], "--out", str(tmp_path / "new" / "page.html"), "--json"]) == 0
    assert (tmp_path / "new" / "page.html").read_text().count("<!doctype html>") == 1


@pytest.mark.parametrize(
    ("argv", "code", "hint"),
    [
        (["report", "nowhere"], 5, "no run folder"),
        (["report"], 2, "RUN"),
        (["report", "x", "--out", "page.pdf"], 2, ".html"),
    ],
)
def test_a_wrong_report_is_explained(
    argv: list[str], code: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == code
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluation.json", "{"),
        ("evaluation.json", '{"models": [{"ua": {"value": "many"}}]}'),
        ("evaluation.json", '{"models": [{"seen_when_asked": {"object": {"cat": {"cat": NaN}}}}]}'),
        ("attacks.json", '{"rows": [{"attack": "none"}]}'),
        ("run_state.json", "no"),
        ("samples/samples.json", "{}"),
        ("samples/samples.json", '{"size": [9, 9], "columns": [], "rows": []}'),
        (
            "samples/samples.json",
            '{"size": [1, 1000000], "columns": [""], "rows": [{"label": "", "target": true, '
            '"tiles": [{"prompt": "", "seed": 0}]}]}',
        ),
        ("samples/after.png", "no picture"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=name.partition("/")[0]):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_what_becomes_of_the_concept_is_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    text = write_report(folder).read_text()
    assert "What becomes of “cat”" in text
    assert text.count('class="caption">seed ') == 8 * len(run_view.read(folder, 1).varied)
    shutil.rmtree(folder / "samples" / "variety")
    assert "What becomes of" not in write_report(folder).read_text()


def test_a_trade_off_is_drawn_only_where_there_is_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert "There is no trade-off to see" in write_report(folder).read_text()
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["models"][1]["cra"] = 70.0
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    text = write_report(folder).read_text()
    assert "Coherence, IRA: all models are within one percentage point" in text
    assert text.count("against UA, percent") == 1


def test_a_run_that_no_judge_saw_says_so_beside_others(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("judged", "not")]
    (runs[1] / "evaluation.json").unlink()
    text = write_page(runs, tmp_path / "page.html").read_text()
    assert '<td class="number" colspan="4">not judged</td>' in text


def test_figures_not_measured_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    evaluation = {
        "before": {"ua": 0.0, "ira": None},
        "after": {"ua": 50.0, "ira": None},
        "counts": {},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "metrics.jsonl").unlink()
    (folder / "attacks.json").unlink()
    text = write_report(folder).read_text()
    assert "50.0" in text
    assert "Under attack" not in text
    assert "<h3>IRA</h3>" not in text


def test_a_run_without_damage_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["models"][1]["neighbours"] = [{"name": "dog", "before": 100.0, "after": 100.0}]
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    text = write_report(folder).read_text()
    assert "Most damaged" not in text
    assert "No other concept is drawn less often" in text


def test_models_judged_beside_the_run_are_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["models"].append(model("another", 33.3))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    text = write_report(folder).read_text()
    assert "Judged beside it: another" in text
    assert "33.3" in text


def test_runs_of_one_name_keep_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / parent / "run") for parent in ("left", "right")]
    text = write_page(runs, tmp_path / "page.html").read_text()
    assert "left/run" in text
    assert "right/run" in text
