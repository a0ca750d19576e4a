"""The report: one file that opens offline, escapes what it shows, and a JSON with the same numbers."""

import base64
import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from calico.envs.scores import reference
from calico.scripts.common.film import Film
from calico.scripts.evaluation.report import (
    Captioned,
    Question,
    Report,
    TaskScore,
    format_big,
    format_duration,
    format_number,
    format_percent,
    render_html,
    running_mean,
    write_report,
)

from ..common.test_film import decode_gif

VOID = {"meta", "img", "br", "hr", "link", "input", "path", "use"}


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A short real episode, uint8 (time, height, width, 3)."""
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    pictures = [np.asarray(env.render())]
    for action in (0, 1, 1, 0, 0, 1):
        env.step(action)
        pictures.append(np.asarray(env.render()))
    env.close()
    return np.stack(pictures)


@pytest.fixture(scope="module")
def report(frames: np.ndarray) -> Report:
    picture = frames[0, ::8, ::8]
    return Report(
        title="Small & honest", parameters=1_200_000, tokens=3_400_000, seconds=642.0, peak_memory_bytes=1_500_000_000,
        machine="2 CPU cores",
        tasks=[
            TaskScore(task="CartPole-v1", family="classic", random=20.0, expert=500.0, returns=[490.0, 500.0]),
            TaskScore(task="ALE/Pong-v5", family="atari", random=-20.7, expert=20.9, kind="human",
                      returns=[-21.0]),
            TaskScore(task="Own-v0", family="own", random=None, expert=None, returns=[1.0, 2.0]),
        ],
        curves={"CartPole-v1": [(1000 * i, 3.0 / (i + 1)) for i in range(30)], "text": [(0, math.nan), (5000, 2.0)]},
        films=[Film(task="CartPole-v1", frames=frames, score=500.0)],
        captions=[Captioned(image=picture, caption="<script>alert('x')</script>", right=False,
                            truth='a "pole" & a cart')],
        caption_accuracy=0.5, captions_judged=2,
        questions=[Question(image=picture, question="Is it upright?", answer="yes", truth="yes", right=True)],
        question_accuracy=1.0, questions_judged=1,
        chats=[[{"role": "user", "content": "Hi <b>there</b>"}, {"role": "assistant", "content": "Hello."}]],
        facts={"backbone": "decoder"}, versions={"torch": "2.13.0"},
    )


class Page(HTMLParser):
    """Collects text, addresses and unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in {"src", "href", "xlink:href", "action", "data", "poster"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(render_html(report))


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    assert "svg" in page.tags and "table" in page.tags


def test_nothing_is_loaded_from_elsewhere(report: Report, page: Page) -> None:
    assert page.addresses and all(a.startswith(("data:image/", "#")) for a in page.addresses)
    html = render_html(report)
    without_pictures = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", html)
    assert "//" not in without_pictures and "@import" not in html and "url(http" not in html
    assert "script" not in page.tags


def test_foreign_text_is_escaped(report: Report, page: Page) -> None:
    html = render_html(report)
    assert "<script" not in html and "<b>there" not in html
    assert "<script>alert('x')</script>" in page.text   # readable as what it is
    assert "Small & honest" in page.text and 'a "pole" & a cart' in page.text


def test_svg_ids_are_unique_on_the_page(report: Report) -> None:
    ids = re.findall(r'\bid="([^"]+)"', render_html(report))
    assert ids and len(ids) == len(set(ids))


def test_placeholder_colours_become_the_page_s(report: Report) -> None:
    html = render_html(report)
    assert "#040506" not in html and "var(--accent)" in html


def test_the_film_plays_the_whole_episode(page: Page, frames: np.ndarray) -> None:
    (uri,) = [a for a in page.addresses if a.startswith("data:image/gif")]
    decoded, durations = decode_gif(base64.b64decode(uri.split(",")[1]))
    assert len(decoded) > 1 and decoded.shape[1:] == (200, 300, 3)
    assert sum(durations) == 50 * len(frames) + 1000   # equal neighbours are merged, their time is not


def test_json_holds_the_numbers(report: Report, tmp_path: Path) -> None:
    assert write_report(report, tmp_path / "new" / "folder").name == "report.html"
    values = json.loads((tmp_path / "new" / "folder" / "report.json").read_text(encoding="utf-8"))
    assert {"seconds", "peak_memory_bytes", "tasks", "share_at_50", "caption_accuracy", "question_accuracy",
            "versions"} <= set(values)
    assert values["share_at_50"] == 0.5   # CartPole of the two with a reference
    first = values["tasks"][0]
    assert (first["task"], first["family"], first["random"], first["expert"]) == ("CartPole-v1", "classic", 20.0, 500.0)
    assert (first["score"], first["episodes"]) == (495.0, 2)
    assert first["normalised"] == pytest.approx(100 * 475 / 480)
    assert first["interval"] == pytest.approx(1.96 * np.std([490, 500], ddof=1) / math.sqrt(2))
    assert values["curves"]["text"] == [[0, None], [5000, 2.0]]   # JSON has no NaN


def test_an_empty_report_still_renders() -> None:
    page = Page(render_html(Report()))
    assert page.open == [] and "Calico" in page.text
    for heading in ("Playing", "Scores", "Seeing", "Talking", "Learning"):
        assert heading not in page.text
    assert Report().to_json()["share_at_50"] is None


@pytest.mark.parametrize("part", ["films", "captions", "questions", "chats", "curves", "tasks"])
def test_each_part_renders_alone(report: Report, part: str) -> None:
    alone = dataclasses.replace(Report(), **{part: getattr(report, part)})
    assert Page(render_html(alone)).open == []


def test_references_are_looked_up() -> None:
    known = reference("ALE/Alien-v5")   # no expert here, but published scores of random play and of a person
    assert known.expert is None and known.human is not None
    score = TaskScore.of("ALE/Alien-v5", [3000.0, 5000.0])
    assert (score.family, score.random, score.expert, score.kind) == ("atari", known.random, known.human, "human")
    assert score.normalised == known.normalise(4000.0)
    assert TaskScore.of("ALE/Alien-v5", []).normalised is None
    with pytest.raises(ValueError, match="CartPole-v1"):
        TaskScore.of("CartPol-v1", [1.0])


def test_a_film_is_placed_between_random_and_expert(report: Report, frames: np.ndarray) -> None:
    assert report.percent_of_expert(Film(task="CartPole-v1", frames=frames, score=260.0)) == pytest.approx(50)
    assert report.percent_of_expert(Film(task="CartPole-v1", frames=frames, score=260.0, cut=300)) is None
    assert report.percent_of_expert(Film(task="Own-v0", frames=frames, score=260.0)) is None
    assert report.percent_of_expert(Film(task="unknown", frames=frames, score=260.0)) is None


# ---- words -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value, text", [
    (None, "–"), (math.nan, "–"), (0.0, "0"), (-0.001, "0"), (1.0, "1"), (0.985, "0.98"), (22.14, "22.1"),
    (500.0, "500"), (-1341.2, "−1\u202f341"), (12345.6, "12\u202f346"), (100.0, "100"), (-20.7, "−20.7"),
])
def test_scores_read_well(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_other_numbers_read_well() -> None:
    assert format_percent(87.3) == "87 %" and format_percent(-2.1) == "−2 %" and format_percent(None) == "–"
    assert [format_big(v) for v in (12, 1500, 5_312_000, 2e9)] == ["12", "1.5 k", "5.31 M", "2 B"]
    assert [format_duration(v) for v in (9.6, 640, 7300)] == ["10 s", "10 min 40 s", "2 h 1 min"]


def test_the_running_mean_of_a_constant_is_the_constant() -> None:
    np.testing.assert_allclose(running_mean(np.full(57, 3.0)), 3.0)
    assert running_mean(np.zeros(0)).shape == (0,)


def test_a_chat_shows_the_picture_that_is_asked_about(report: Report) -> None:
    picture = np.full((16, 16, 3), 90, np.uint8)
    shown = dataclasses.replace(Report(), chats=[[{"role": "user", "content": "what is it?", "image": picture}]])
    assert 'alt="The picture that is asked about"' in render_html(shown) and "data:image" in render_html(shown)
    assert "The picture that is asked about" not in render_html(dataclasses.replace(Report(), chats=report.chats))
