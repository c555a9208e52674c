"""JupyterLab in a real browser: every notebook runs to its end, and every explorer answers. `make test-browser`.

Needs Chromium (Debian: `apt-get install chromium`) and playwright, which the command installs; without them all of it
is skipped. Screenshots go to runs/browser.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
TOKEN, SHOTS = "slots", ROOT / "runs" / "browser"
ANSWER = 0.2  # seconds from an event to another picture, as the page sees it, where data are cached


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server on copies of the notebooks, as `make lab` starts it, beside whatever else runs here."""
    log = tmp_path_factory.mktemp("lab") / "log"
    command = [sys.executable, str(ROOT / "notebooks" / "lab" / "open.py"), "--no-browser", "--port=9123"]
    command += [f"--IdentityProvider.token={TOKEN}"]
    with log.open("w") as file:
        lab = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        for _ in range(240):
            found = [
                line.split()[-1]
                for line in log.read_text().splitlines()
                if "/lab/tree/" in line and "127.0.0.1" in line
            ]
            if found:
                yield found[0].partition("/lab")[0]
                break
            assert lab.poll() is None, log.read_text()
            time.sleep(0.5)
        else:
            pytest.fail(log.read_text())
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        lab.wait(30)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    SHOTS.mkdir(parents=True, exist_ok=True)
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield opened
    opened.close()


def run_all(page, address: str, cells: list, seconds: float):
    """Open a notebook of these cells, run all, and wait until the kernel has been idle for a while; the saved notebook.

    JupyterLab keeps cells that are out of sight out of the page, so the page alone cannot tell that all have run.
    """
    made, path = nbformat.v4.new_notebook(cells=cells), ROOT / "runs" / "explore" / "notebooks" / "tried.ipynb"
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(made, path)
    page.goto(f"{address}/lab/tree/runs/explore/notebooks/tried.ipynb?token={TOKEN}&reset", timeout=120_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    idle.wait_for(timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    end, quiet = time.monotonic() + seconds, 0
    while quiet < 8:
        assert time.monotonic() < end, f"still at work after {seconds} s"
        page.wait_for_timeout(500)
        quiet = quiet + 1 if idle.count() else 0
    page.keyboard.press("Control+s")
    page.wait_for_timeout(2000)
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_every_notebook_runs_to_its_end(page, address, name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    for cell in (c for c in cells if c.cell_type == "code"):
        cell.outputs, cell.execution_count = [], None
    code = [c for c in run_all(page, address, cells, 400).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code), "not all cells ran"
    assert not [o.evalue for c in code for o in c.outputs if o.output_type == "error"]
    page.screenshot(path=SHOTS / f"{name}.png")


def explorer(page, address: str, call: str, seconds: float = 240) -> None:
    """An explorer in an empty notebook of one cell, and its first picture."""
    run_all(page, address, [nbformat.v4.new_code_cell(f"from lib.studies import explore\n\n{call}")], seconds)
    page.wait_for_selector(".explorer", timeout=seconds * 1000)
    page.wait_for_function(
        "() => (document.querySelector('.explorer img') || {}).naturalWidth > 50", timeout=seconds * 1000
    )


def answer(page, control: str, key: str) -> float:
    """Seconds from a key on a control to another picture, on the page's clock."""
    page.evaluate("""() => { const picture = document.querySelector('.explorer img'); window.answered = null;
        new MutationObserver(() => { window.answered = window.answered || performance.now() })
        .observe(picture, {attributes: true, attributeFilter: ['src']});
        document.addEventListener('keydown', () => { window.begun = window.begun || performance.now() }, true);
        window.begun = null }""")
    page.locator(control).first.focus()
    page.keyboard.press(key)
    page.wait_for_function("() => window.answered", timeout=60_000)
    return page.evaluate("() => (window.answered - window.begun) / 1000")


SLIDER = ".explorer .widget-slider .noUi-handle"


@pytest.mark.parametrize("call", ["explore.objects()", "explore.video()", "explore.alarms()"])
def test_a_slider_that_is_moved_changes_the_picture(page, address, call):
    explorer(page, address, call)
    times = [answer(page, SLIDER, key) for key in ("ArrowRight", "ArrowLeft", "ArrowRight")]
    page.screenshot(path=SHOTS / f"{call.split('.')[1][:-2]}.png")
    print(call, *(f"{t:.2f}" for t in times))
    assert min(times[1:]) < ANSWER, "both pictures were drawn before"


def test_a_broken_image_is_said_in_one_line(page, address, tmp_path):
    explorer(page, address, "explore.own()")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with page.expect_file_chooser() as chosen:
        page.locator(".explorer .widget-upload").click()
    chosen.value.set_files(tmp_path / "broken.png")
    page.wait_for_selector('.explorer [role="alert"]', timeout=60_000)
    said = page.locator('.explorer [role="alert"]').inner_text()
    assert said and "\n" not in said
    page.screenshot(path=SHOTS / "broken.png")


def test_a_kernel_that_stops_is_said_and_the_cell_brings_it_back(page, address):
    explorer(page, address, "explore.objects()")
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_text("Restart Kernel…", exact=True).click()
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    page.wait_for_selector(".explorer.jupyter-widgets-disconnected", timeout=60_000)
    page.screenshot(path=SHOTS / "stopped.png")
    explorer(page, address, "explore.objects()")


def test_the_laboratory_trains_stops_and_begins_anew(page, address):
    explorer(page, address, "explore.collapse()")
    page.get_by_role("button", name="train").click()
    page.wait_for_function("() => document.querySelector('.explorer').innerText.match(/step [1-9]/)", timeout=120_000)
    page.get_by_role("button", name="stop").click()
    page.screenshot(path=SHOTS / "collapse.png")
    page.get_by_role("button", name="reset").click()
    page.wait_for_function("() => !document.querySelector('.explorer').innerText.match(/step [1-9]/)", timeout=60_000)
