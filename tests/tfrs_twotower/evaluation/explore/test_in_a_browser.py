"""What people do on the page, in a real Chromium, as wide as a desk and as a phone."""

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from playwright.sync_api import expect, sync_playwright

from tests import small_shop
from tfrs_twotower import api
from tfrs_twotower.cli import main

pytestmark = pytest.mark.slow

# Where the pictures of the tasks are kept, such as for an artefact of CI.
PICTURES_VARIABLE = "TFRS_TWOTOWER_PICTURES"
WIDTHS = {"desk": 1280, "phone": 400}
TIMEOUT_MS = 60_000  # Of what a loaded machine may take.
RULES = "rules: {filters: [shelf], exclude_known: true}\n"
ALONE = "export.retrieval=false"  # `retrieval_exact` alone, which is made faster.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The shop with rules, in two versions: of one epoch and of three."""
    folder = tmp_path_factory.mktemp("explore")
    log, prepared, models = folder / "log", folder / "prepared", folder / "shop" / "models"
    config = small_shop.write_dataset(log) / "twotower.yaml"
    config.write_text(config.read_text() + RULES)
    api.prepare(config, log, prepared)
    for epochs in (1, 3):
        run = folder / f"run-{epochs}"
        overridden = api.load_config(config, [f"training.epochs={epochs}", ALONE])
        api.train(overridden, prepared, run, progress=False)
        api.export(run, prepared, models)
    return models


@pytest.fixture(scope="module")
def address(models):
    """A page that the command serves."""
    command = [sys.executable, "-m", "tfrs_twotower.cli", "explore", "--models", str(models)]
    with subprocess.Popen(
        [*command, "--compare", "1", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline()
            yield re.search(r"http://localhost:\d+/", line).group()
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium on the path: apt-get install chromium")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        # Of one context: scripts are loaded once.
        yield launched.new_context(viewport={"width": 1280, "height": 900})
        launched.close()


@pytest.fixture
def page(request, browser, address, tmp_path):
    """The page, opened; what never may be is looked for afterwards, in both widths."""
    opened = browser.new_page()
    opened.set_default_timeout(TIMEOUT_MS)
    asked, wrong = set(), []
    opened.on("request", lambda request: asked.add(request.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda line: line.type == "error" and wrong.append(line.text))
    opened.goto(address)
    opened.get_by_role("heading", name="Recommendations").wait_for()
    yield opened
    folder = Path(os.environ.get(PICTURES_VARIABLE) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    needed = {}
    for name, width in WIDTHS.items():
        opened.set_viewport_size({"width": width, "height": 900})
        with contextlib.suppress(PlaywrightTimeoutError):  # Told below, with both widths.
            opened.wait_for_function(f"document.documentElement.scrollWidth == {width}")
        picture = folder / f"{request.node.name.removeprefix('test_')}-{name}.png"
        opened.screenshot(path=picture, full_page=True)
        needed[name] = opened.evaluate("document.documentElement.scrollWidth")
    title = opened.title()
    opened.close()
    assert needed == WIDTHS, "the page scrolls sideways"
    assert wrong == []
    assert {url for url in asked if not url.startswith((address, "blob:", "data:"))} == set()
    assert title == "twotower explore", "a title of the data was read as HTML"


def titles(page, name):
    """The titles of a list, once it is there."""
    listed = page.get_by_role("list", name=name, exact=True)
    listed.wait_for()
    return listed.locator(".title").all_inner_texts()


@contextlib.contextmanager
def changing(page, name):
    """What is done within changes the texts of a list."""
    listed = page.get_by_role("list", name=name, exact=True)
    before = listed.inner_text()
    yield
    expect(listed).not_to_have_text(before, use_inner_text=True)


def test_find_a_user_and_see_history_and_recommendations_with_reasons(page):
    with changing(page, "Recommendations"):
        page.get_by_role("textbox", name="Find one of 60 users").press_sequentially("u07")
        found = page.get_by_role("list", name=re.compile("Find one of"))
        found.get_by_role("button", name="u07").click()

    page.get_by_role("heading", name="u07").wait_for()
    assert len(titles(page, "History")) >= 1
    assert len(titles(page, "Recommendations")) == 10
    first = page.get_by_role("list", name="Recommendations").get_by_role("button").first
    assert re.search(r"like .+ \d\.\d\d", first.inner_text())
    assert not {*titles(page, "History")} & {*titles(page, "Recommendations")}


def test_make_up_a_user_with_the_keyboard_alone(page):
    page.set_viewport_size({"width": WIDTHS["phone"], "height": 900})
    page.get_by_role("button", name="Make up a user").press("Enter")
    page.get_by_text("Empty: add candidates by their title.").wait_for()
    with changing(page, "Recommendations"):
        page.get_by_role("textbox", name="Add to the history").press_sequentially("title 12")
        matches = page.get_by_role("list", name="Add to the history: matches")
        # Of all that was typed, not of a part of it: then the first match is another.
        first = matches.get_by_role("button").first
        first.and_(matches.get_by_role("button", name="Title 12")).wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")

    recommended = page.get_by_role("list", name="Recommendations")
    expect(recommended.locator(".why")).to_have_text([re.compile("^like Title 12")] * 10)
    assert titles(page, "History") == ["Title 12"]
    assert "Title 12" not in titles(page, "Recommendations")

    page.get_by_role("button", name="Remove Title 12").press("Enter")
    page.get_by_text("Empty: add candidates by their title.").wait_for()


def test_turn_moment_and_rules_and_see_the_list_change(page):
    with changing(page, "Recommendations"):
        page.get_by_label("clock: weekday").select_option("Saturday")
    with changing(page, "Recommendations"):
        page.get_by_label("member").select_option("no")
    slider = page.get_by_role("slider").nth(1)
    with changing(page, "Recommendations"):
        slider.press("ArrowRight")
    with changing(page, "Recommendations"):
        page.locator("input[type=search]").first.click()
        page.keyboard.type("wine")
        page.keyboard.press("Enter")

    details = page.get_by_role("list", name="Recommendations").locator(".detail")
    expect(details.filter(has_not_text=re.compile(" · wine$"))).to_have_count(0)
    assert details.count() > 0


def test_look_at_a_candidate_its_neighbours_and_the_users_that_get_it(page):
    candidate = titles(page, "Recommendations")[0]
    page.get_by_role("list", name="Recommendations").get_by_role("button").first.click()
    page.get_by_text(re.compile(r"users had it: rank \d+ of")).wait_for()
    assert len(titles(page, "Nearest neighbours")) == 10
    page.get_by_text(re.compile(r"Of a sample of \d+ users \d+ have it")).wait_for()

    user = titles(page, "Users that get it")[0]
    page.get_by_role("list", name="Users that get it").get_by_role("button").first.click()
    page.get_by_role("heading", name=user).wait_for()

    page.get_by_role("button", name="Candidate", exact=True).click()
    page.get_by_role("heading", name=candidate).wait_for()


def test_find_a_candidate_on_the_map_and_open_it(page):
    page.get_by_role("button", name="Map", exact=True).click()
    page.locator("canvas").first.wait_for()
    page.get_by_label("Colour by").select_option("label")
    page.get_by_role("textbox", name="Find on the map").press_sequentially("script")
    matches = page.get_by_role("list", name="Find on the map: matches")
    matches.get_by_role("button").click()
    assert titles(page, "Chosen on the map") == [small_shop.HOSTILE]

    with changing(page, "Chosen on the map"):
        box = page.locator(".bk-Canvas").first.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    [chosen] = titles(page, "Chosen on the map")
    page.get_by_role("list", name="Chosen on the map").get_by_role("button").click()
    page.get_by_role("heading", name=chosen).wait_for()

    page.get_by_role("button", name="Map", exact=True).click()
    assert titles(page, "Chosen on the map") == [chosen]


def test_see_what_moves_between_two_versions(page):
    page.get_by_role("button", name="Versions", exact=True).click()

    page.get_by_text(re.compile(r"Over a sample of 60 users \d+% of the first 10")).wait_for()
    assert len(titles(page, "Version 2")) == len(titles(page, "Version 1")) == 10
    expect(page.locator(".badge").first).to_be_visible()


def test_another_site_opens_no_session(address):
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Origin": "http://elsewhere.example",
    }

    with contextlib.closing(http.client.HTTPConnection(address.split("/")[2])) as connection:
        connection.request("GET", "/ws", headers=headers)
        status = connection.getresponse().status

    assert status == 403


def test_a_version_is_not_compared_with_itself(models, capsys):
    assert main(["explore", "--models", str(models), "--compare", "2"]) == 2
    assert "--compare: version 2 is shown anyway" in capsys.readouterr().err


def test_the_page_below_a_notebooks_cell_needs_no_network(models):
    source = f"import tfrs_twotower as tt\ntt.explore({str(models)!r})"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])

    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()

    shown = [output["data"] for output in notebook.cells[0].outputs if "data" in output]
    scripts = "".join(str(data.get("application/javascript", "")) for data in shown)
    page = shown[-1]["text/html"]
    assert "Recommendations" in page
    assert len(scripts) > 1_000_000  # Bokeh and Panel themselves.
    assert not re.search(r'js_urls = \[\s*"', scripts)
    assert not re.search(r'"url":\s*"http', page)
