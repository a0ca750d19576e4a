"""The tab See: a picture in, a caption and answers out; pictures of the worlds that the network knows are drawn here."""

import multiprocessing
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from calico.datasets.synthetic.captions import answer_is_right, caption, caption_is_right, questions
from calico.envs import scenes
from calico.envs.task_table import missing_module
from calico.scripts.common.media_inputs import check_saw_pictures
from calico.scripts.web.desk import Desk, told
from calico.scripts.web.play import LIGHT

# Every world of envs/scenes.py, and the words on its button; a world that comes later has a button with its name.
WORDS = {"minigrid": "Draw a room", "lander": "Draw a lander", "freeway": "Draw a road", "sokoban": "Draw crates",
         "breakout": "Draw a wall of bricks", "miniworld": "Draw a room in 3D"}
OFFERED = 8          # questions about a drawn picture
FIRST_DRAWN, DRAWN = 1_000_000, 1_000_000     # seeds of drawn pictures: training has others

Facts = Sequence[dict[str, str]]


def draw(world: str, seed: int) -> tuple[np.ndarray, list[dict[str, str]]]:
    """A picture of a world, uint8 (48 or 64 pixels a side, 3), and what is true of it.

    Raises:
        ImportError: the world's package is not installed; the message holds the command that installs it.
        ValueError: its process died, as where there is no OpenGL.
    """
    if scenes.FAMILIES[world] in LIGHT:
        scene = scenes.scene(world, seed)
    else:            # OpenGL belongs to the thread that began it, and the page has many
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
            try:
                scene = apart.submit(scenes.scene, world, seed).result()
            except BrokenProcessPool:
                raise ValueError(f"the process that draws {world} died; look at what it printed, or draw another "
                                 "world") from None
    return scene.image, scene.facts


def buttons() -> dict[str, tuple[str, bool]]:
    """World -> the words on its button, and whether it can be drawn here: its packages are installed."""
    found = {}
    for world in scenes.WORLDS:
        words, here = WORDS.get(world, f"Draw {world}"), missing_module(scenes.FAMILIES[world]) is None
        found[world] = (words if here else f"{words} (not installed)", here)
    return found


def offered(facts: Facts) -> list[str]:
    """Some questions that the facts answer, of every sort."""
    sorts = [sorted(found) for found in questions(facts).values()]
    mixed = [question for rank in range(OFFERED) for found in sorts for question in found[rank:rank + 1]]
    return mixed[:OFFERED]


def describe(desk: Desk, picture: str | None) -> str:
    """The caption. Raises ValueError where there is no picture, or a file that is none."""
    with desk.lock:
        return desk.agent.caption(needed(picture))


def answer(desk: Desk, picture: str | None, question: str) -> str:
    """The answer. Raises ValueError as `describe`, and where nothing is asked."""
    if not (question or "").strip():
        raise ValueError("ask something, such as: what colour is the ball?")
    check_saw_pictures(desk.agent.saved)
    with desk.lock:
        return desk.agent.answer(needed(picture), question.strip())


def needed(picture: str | None) -> str:
    if picture is None:
        raise ValueError("there is no picture yet; upload one, or draw one with the buttons")
    return picture


def verdict(right: bool, truth: str) -> str:
    return "✓ right" if right else f"✗ the truth is: {truth}"


def judged_caption(said: str, facts: Facts) -> str:
    """Whether a caption of a drawn picture is true; "" for other pictures."""
    return verdict(caption_is_right(said, facts), caption(facts)) if facts else ""


def judged_answer(said: str, question: str, facts: Facts) -> str:
    """The same of an answer; "" where the facts do not tell."""
    truth = {asked: found for answers in (questions(facts).values() if facts else ()) for asked, found in answers.items()}
    asked = question.strip()
    return verdict(answer_is_right(said, asked, facts), truth[asked]) if asked in truth else ""


def build(desk: Desk) -> None:
    """Put the tab's contents into the open `gradio.Tab`."""
    import gradio as gr

    facts = gr.State([])
    with gr.Row(elem_classes="board"):
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(type="filepath", image_mode=None, format="png", label="Picture", height=360,
                               sources=["upload", "clipboard", "webcam"], elem_id="see-picture", elem_classes="pixels")
            with gr.Row(elem_classes="keys"):
                drawers = {world: gr.Button(words, min_width=150, elem_id=f"see-{world}", interactive=here)
                           for world, (words, here) in buttons().items()}
        with gr.Column(scale=3, min_width=300):
            said = gr.Textbox(label="It sees", interactive=False, elem_id="see-caption", lines=2)
            true = gr.Markdown(elem_classes="verdict", elem_id="see-verdict")
            question = gr.Dropdown([], label="Ask", info="choose a question about a drawn picture, or type your own",
                                   allow_custom_value=True, elem_id="see-question")
            ask = gr.Button("Ask", variant="primary", elem_id="see-ask")
            answered = gr.Textbox(label="It answers", interactive=False, elem_id="see-answer")
            also_true = gr.Markdown(elem_classes="verdict", elem_id="see-answer-verdict")
    gr.Markdown("It knows small pictures of its own worlds: rooms with balls, boxes and keys, a lunar lander, a road with a "
                "chicken, crates of Sokoban, Breakout, a room in 3D. About other pictures it makes things up.",
                elem_classes="soft")

    def drawn(world: str) -> tuple[Any, ...]:
        with told():
            image, found = draw(world, FIRST_DRAWN + random.randrange(DRAWN))
        listed = offered(found)
        return image, found, gr.update(choices=listed, value=listed[0] if listed else ""), "", ""

    def look(picture: str | None, facts: list[dict[str, str]]) -> tuple[str, str]:
        if picture is None:
            return "", ""
        with told():
            found = describe(desk, picture)
        return found, judged_caption(found, facts)

    def reply(picture: str | None, question: str, facts: list[dict[str, str]]) -> tuple[str, str]:
        with told():
            found = answer(desk, picture, question)
        return found, judged_answer(found, question, facts)

    def own() -> tuple[Any, ...]:
        return [], gr.update(choices=[], value="what do you see?"), "", ""

    free: Any = {"concurrency_limit": None, "show_progress": "hidden"}
    for world, button in drawers.items():
        button.click(lambda world=world: drawn(world), None, [picture, facts, question, answered, also_true], **free,
                     api_visibility="private").then(look, [picture, facts], [said, true], **free, api_name=False)
    picture.upload(own, None, [facts, question, answered, also_true], queue=False, api_visibility="private").then(
        look, [picture, facts], [said, true], **free, api_visibility="private")
    picture.clear(lambda: ("", "", [], "", ""), None, [said, true, facts, answered, also_true], queue=False,
                  api_visibility="private")
    ask.click(reply, [picture, question, facts], [answered, also_true], **free, api_visibility="private")
