"""The tab Tokens: a step of a task, a message with a picture, or a file of data, as coloured tokens."""

import html
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from calico.scripts.common.token_view import DRAWN, Inspected, block_labels, blocks, images, legend, short, style_of
from calico.scripts.web.desk import Desk, task_choices, told
from calico.tokenizers.tokens import MODALITIES, Kind, Tokens

MOST = 3000              # tokens that are drawn


def tokens_html(shown: Inspected) -> str:
    """Title, details, a block for each timestep, and what the colours mean."""
    tokens = shown.tokens
    details = "".join(f"<p>{html.escape(line)}</p>" for line in shown.details)
    cut = f"<p>the first {MOST} of {len(tokens)} tokens</p>" if len(tokens) > MOST else ""
    drawn = "".join(block_html(shown, start, min(stop, MOST)) for start, stop in blocks(tokens) if start < MOST)
    return f'<div class="tokens"><h4>{html.escape(shown.title)}</h4>{details}{cut}{drawn}{legend_html(shown)}</div>'


def block_html(shown: Inspected, start: int, stop: int) -> str:
    """One timestep."""
    said = " · ".join(filter(None, block_labels(shown, start)))
    return f'<div class="step">{f"<h5>{html.escape(said)}</h5>" if said else ""}{"".join(pieces(shown, start, stop))}</div>'


def pieces(shown: Inspected, start: int, stop: int) -> Iterator[str]:
    """Cards; runs of patches as the pictures that they are cut from."""
    kinds = shown.tokens.kind[start:stop]
    drawn = np.where(np.isin(kinds, [Kind.PATCH]), kinds, Kind.PAD)
    edges = [0, *(np.flatnonzero(np.diff(drawn)) + 1).tolist(), stop - start]
    for first, last in zip(edges, edges[1:], strict=False):
        if drawn[first] == Kind.PATCH:
            yield from (picture_html(image) for image in images(shown.tokens[start + first: start + last]))
        else:
            yield from (card_html(shown, index) for index in range(start + first, start + last))


def card_html(shown: Inspected, index: int) -> str:
    """What a token means, and its id below, underlined where the loss asks for it."""
    kind = int(shown.tokens.kind[index])
    style = style_of(kind)
    colour = f"background:{style.bgcolor.name};color:{style.color.name}" if style.bgcolor and style.color else ""
    word = MODALITIES[kind].name if kind in DRAWN else short(shown.words[index], kind)
    number, target = html.escape(shown.numbers[index]), ' class="target"' if shown.tokens.loss_mask[index] else ""
    return f'<span class="token"><b style="{colour}">{html.escape(word) or "&nbsp;"}</b><small{target}>{number}</small></span>'


def picture_html(image: Tokens) -> str:
    """The patches of an image at their places, a gap between two."""
    from calico.scripts.evaluation.report import image_uri  # here and not above: it loads matplotlib

    columns = int((image.intervals[:, 0] == image.intervals[0, 0]).sum())
    cells = "".join(f'<img alt="patch" src="{image_uri(pixels(patch, channels))}">'
                    for patch, channels in zip(image.patches, image.channels.tolist(), strict=True))
    return f'<div class="patches" style="--columns:{columns}">{cells}</div>'


def pixels(patch: np.ndarray, channels: int) -> np.ndarray:
    """A patch uint8 (4, 16, 16) as RGB (16, 16, 3); of grey frames the newest."""
    colours = patch[:3] if channels >= 3 else np.repeat(patch[channels - 1][None], 3, 0)
    return colours.transpose(1, 2, 0)


def legend_html(shown: Inspected) -> str:
    return f'<p class="soft">{html.escape(" ".join(legend(shown).plain.split()))}</p>'


def build(desk: Desk) -> None:
    """Put the tab's contents into the open `gradio.Tab`."""
    import gradio as gr

    what = gr.Radio(["a task", "a message", "a file"], value="a task" if desk.agent.tasks else "a message", show_label=False,
                    elem_id="tokens-what")
    choices = task_choices(desk.agent.tasks)
    with gr.Row(visible=bool(choices)) as of_task:
        task = gr.Dropdown(choices, value=choices[0][1] if choices else None, label="Task", scale=3, min_width=260,
                           info="an episode of its expert, where it has one")
        start = gr.Number(0, label="First step", precision=0, minimum=0, min_width=100)
        steps = gr.Number(3, label="Steps", precision=0, minimum=1, maximum=50, min_width=100)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=100)
    with gr.Row(visible=not choices) as of_message:
        words = gr.Textbox("where is the red ball?", label="Words", scale=3, min_width=260)
        picture = gr.Image(type="filepath", image_mode=None, label="Picture, if you like", height=160, min_width=200,
                           sources=["upload", "clipboard"], elem_classes="pixels")
    with gr.Row(visible=False) as of_file:
        file = gr.File(label="Episodes (.parquet), captions or dialogues (.jsonl), texts (.txt)", type="filepath", height=140)
        index = gr.Number(0, label="Which one of it", precision=0, minimum=0, min_width=100)
    show = gr.Button("Show its tokens", variant="primary", elem_id="tokens-show")
    page = gr.HTML(elem_id="tokens-page")

    def switch(what: str) -> list[dict[str, object]]:
        return [gr.update(visible=what == name) for name in ("a task", "a message", "a file")]

    def look(what: str, task: str, start: int, steps: int, seed: int, words: str, picture: str | None, file: str | None,
             index: int) -> str:
        with told():
            if what == "a message":
                return tokens_html(of_words(desk, words, picture))
            if what == "a task":
                return tokens_html(desk.agent.tokens(task, start=int(start or 0), steps=int(steps or 1), seed=int(seed or 0)))
            if file is None:
                raise ValueError("there is no file yet; choose one")
            return tokens_html(desk.agent.tokens(Path(file), index=int(index or 0)))

    what.change(switch, what, [of_task, of_message, of_file], queue=False, api_visibility="private")
    show.click(look, [what, task, start, steps, seed, words, picture, file, index], page, concurrency_limit=None,
               api_name="tokens")


def of_words(desk: Desk, words: str, picture: str | None) -> Inspected:
    """A user's message. Raises ValueError where it says nothing and shows nothing."""
    if not words.strip() and picture is None:
        raise ValueError("write some words, or choose a picture")
    shown = [] if picture is None else [{"type": "image", "image": picture}]
    said = [{"type": "text", "text": words.strip()}] if words.strip() else []
    return desk.agent.tokens([{"role": "user", "content": [*shown, *said]}])
