"""Each tab of `calico app` in a real browser, on the width of a desktop and of a phone.

Needs Playwright and a Chromium: `pip install playwright`, and `apt-get install chromium` or `playwright install chromium`.
Screenshots go to the folder that CALICO_SCREENSHOTS names, to be looked at.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import calico
from calico.scripts.app import HOST
from calico.scripts.common.local_ranks import free_port
from calico.scripts.web.desk import Desk
from calico.scripts.web.encoders import NEAREST, SHOWN

from .lesson_grids import shortest

pytestmark = pytest.mark.slow

OWN = "lesson_grids:TakeTheBox-v0"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PATIENCE = 60_000.0       # milliseconds
KEYS = {0: "ArrowLeft", 1: "ArrowRight", 2: "ArrowUp", 3: "p"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, str]]:
    pytest.importorskip("gradio", reason='needs the extra web: pip install "calico-agent[web]"')
    patch = pytest.MonkeyPatch()
    patch.chdir(Path(__file__).parent)                 # where the user's own module lies
    patch.syspath_prepend(str(Path(__file__).parent))
    from calico.scripts.web import page

    folder = tmp_path_factory.mktemp("page")
    desk = Desk(agent=calico.load(), run="calico-small", out=folder / "taught", runs=folder, tasks=[OWN])
    built, port = page.build(desk), free_port()
    page.launch(built, port=port)
    yield desk, f"http://{HOST}:{port}"
    desk.close()
    built.close(verbose=False)
    patch.undo()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    drive = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    installed = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with drive.sync_playwright() as started:
        if installed is None and not Path(started.chromium.executable_path).exists():
            pytest.skip("needs a Chromium: apt-get install chromium, or playwright install chromium")
        yield started.chromium.launch(executable_path=installed, args=["--no-sandbox"])


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, browser: Any, served: tuple[Desk, str]) -> Iterator[Any]:
    """The page, opened; it may load nothing from other machines, and must fit the window."""
    width, height = SIZES[request.param]
    opened, hosts, broken = browser.new_page(viewport={"width": width, "height": height}), set[str](), list[str]()
    opened.set_default_timeout(PATIENCE)
    opened.on("request", lambda asked: hosts.update(re.findall("^[a-z]+://([^/:]+)", asked.url)))
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.goto(served[1])
    opened.wait_for_selector("#play-world img")
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    picture_of(opened, f"{request.param}-{request.node.originalname}")
    assert hosts <= {HOST} and broken == []
    opened.close()


def open_tab(page: Any, name: str) -> None:
    """On a phone the last ones are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.click(".overflow-menu > button")
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.first.click()


def picture_of(page: Any, name: str) -> None:
    """A screenshot, where they are asked for."""
    if folder := os.environ.get("CALICO_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def until(true: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_play(page: Any) -> None:
    page.click("#play-go")
    page.wait_for_selector("#play-choice .bar")
    page.wait_for_function("/frames per second/.test(document.querySelector('#play-facts').innerText)")
    page.click("#play-stop")
    time.sleep(2)
    still = page.inner_text("#play-facts")
    time.sleep(1)
    assert page.inner_text("#play-facts") == still and "go to" in still
    page.click("#play-again")
    page.wait_for_function("/seed 10001/.test(document.querySelector('#play-facts').innerText)")
    assert page.input_value("#play-seed input") == "10001"


def test_another_task(page: Any) -> None:
    page.locator("#play-task input").fill("CartPole-v1")
    page.locator("#play-task [role=option]", has_text="CartPole-v1").first.click()
    page.wait_for_function("!/go to/.test(document.querySelector('#play-facts').innerText)")
    page.click("#play-go")
    page.wait_for_selector("#play-choice .bar")
    assert "push left" in page.inner_text("#play-choice")


def test_a_browser_that_leaves_in_the_middle(browser: Any, served: tuple[Desk, str]) -> None:
    desk, address = served
    before, opened = set(desk.sessions), browser.new_page()
    opened.goto(address)
    opened.wait_for_selector("#play-world img", timeout=PATIENCE)
    opened.click("#play-go")
    opened.wait_for_selector("#play-choice .bar", timeout=PATIENCE)
    (mine,) = set(desk.sessions) - before
    session, turn = desk.sessions[mine], desk.sessions[mine].turn
    opened.close()
    until(lambda: mine not in desk.sessions and session.turn > turn)


def test_talk(page: Any) -> None:
    open_tab(page, "Talk")
    page.locator("#talk-words textarea").fill("who are you?")
    page.keyboard.press("Enter")
    page.wait_for_function("/questions about them/.test(document.querySelector('#talk-chat').innerText)")
    assert "i am calico" in page.inner_text("#talk-chat")
    page.wait_for_selector("#talk-words textarea:enabled")


def test_see(page: Any, tmp_path: Path) -> None:
    open_tab(page, "See")
    for world in ("minigrid", "freeway", "sokoban"):
        page.click(f"#see-{world}")
        page.wait_for_function("/right|truth/.test(document.querySelector('#see-verdict').innerText)")
    page.click("#see-ask")
    page.wait_for_function("document.querySelector('#see-answer textarea').value.length > 0")
    assert re.search("✓ right|✗ the truth is: ", page.inner_text("#see-verdict"))
    picture_of(page, "see-drawn")
    words = tmp_path / "words.png"
    words.write_text("no picture")
    page.click("#see-picture button[aria-label='Remove Image']")
    page.locator("#see-picture input[type=file]").set_input_files(str(words))
    page.wait_for_function("/cannot identify image file/.test(document.body.innerText)")
    picture_of(page, "see-no-picture")


def test_tokens(page: Any) -> None:
    open_tab(page, "Tokens")
    page.click("#tokens-show")
    page.wait_for_selector("#tokens-page .token")
    assert "separator" in page.inner_text("#tokens-page") and page.locator("#tokens-page .patches img").count()


def test_perceiver(page: Any) -> None:
    open_tab(page, "Perceiver")
    page.wait_for_function("/calico perceive flow train textures/.test(document.body.innerText)")
    assert "there is no run yet" in page.inner_text("body")


def test_encoders(page: Any) -> None:
    open_tab(page, "Encoders")
    page.wait_for_selector("#encoders-pool button img")
    page.locator("#encoders-pool button:has(img)").nth(2).click()
    page.wait_for_selector("#encoders-found img")
    assert page.locator("#encoders-pool button:has(img)").count() == SHOWN
    assert page.locator("#encoders-found button:has(img)").count() == NEAREST


def test_teach_a_new_task_with_keys(browser: Any, served: tuple[Desk, str]) -> None:
    """Five episodes by the keyboard; after training it plays unseen ones at half of the expert's score or more."""
    desk, address = served
    before, page = set(desk.sessions), browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.wait_for_selector("#play-world img")
    (mine,) = set(desk.sessions) - before
    open_tab(page, "Teach")
    page.click("#teach-start")
    page.wait_for_selector("#teach-world img")
    lesson = desk.sessions[mine].lesson
    assert lesson is not None and lesson.task.name == OWN
    began = time.monotonic()
    while len(lesson.solved) < 5:
        world: Any = lesson.recorder.env.unwrapped
        solved = len(lesson.solved)
        for number, action in enumerate(shortest(world)):
            page.keyboard.press(KEYS[action])
            until(lambda number=number, solved=solved: lesson.steps > number or len(lesson.solved) > solved)   # type: ignore[misc]
        until(lambda solved=solved: len(lesson.solved) > solved and lesson.steps == 0)   # type: ignore[misc]
    page.click("#teach-train")
    page.wait_for_function("/unseen episodes solved/.test(document.querySelector('#teach-words').innerText)", timeout=900_000)
    said = page.inner_text("#teach-words")
    print(f"taught and trained in {time.monotonic() - began:.0f} s: {said}")
    page.click("#teach-watch")
    page.wait_for_function("/seed 10000/.test(document.querySelector('#teach-facts').innerText)")
    picture_of(page, "desktop-teach")
    percent = re.search(r"(-?\d+) % of the expert", said)
    assert percent is not None and int(percent[1]) >= 50
    page.close()


def test_a_picture_of_the_page_is_in_the_docs() -> None:
    picture = Path(__file__).parents[3] / "docs" / "app.png"
    assert picture.stat().st_size < 150_000 and Image.open(picture).width >= 800
