"""The report of one run: report.html, a single page that opens offline, and report.json with the same numbers.

The page holds everything it shows: pictures and films as data URIs, charts as inline SVG, no script, no font and no
address of another machine. All text goes through jinja2's autoescape: captions, chats and task names are untrusted.

    report = Report(title="Laptop generalist", parameters=5_300_000, seconds=640.0, tasks=[...], films=[...])
    write_report(report, Path("runs/demo"))
"""

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from calico.datasets.publish import replace_file
from calico.envs import scores
from calico.envs.registry import get_task
from calico.scripts.common import console
from calico.scripts.common.film import Film, encode_gif, thin


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """How a run does on one task; `TaskScore.of(name, returns)` looks the references up.

    Attributes:
        task, family: names of the registry.
        random, expert: mean returns of the random policy and of the expert; None where unknown.
        kind: whom `expert` means: "expert", or "human" where only a person's score is known.
        returns: one return per episode.
        failed: episodes whose environment crashed; each counts in `returns` with the score of the random policy.
    """

    task: str
    family: str
    random: float | None
    expert: float | None
    kind: str = "expert"
    returns: Sequence[float]
    failed: int = 0

    @staticmethod
    def of(task: str, returns: Sequence[float], failed: int = 0) -> "TaskScore":
        """With the family of the registry and the references of envs/scores.py; `returns` without the failed episodes.

        Raises:
            ValueError: an unknown task.
        """
        known, family = scores.reference(task), get_task(task).family
        kind, expert = ("expert", known.expert) if known.expert is not None else ("human", known.human)
        lost = [] if known.random is None else [known.random] * failed
        return TaskScore(task=task, family=family, random=known.random, expert=expert, kind=kind,
                         returns=[*returns, *lost], failed=failed)

    @property
    def normalised(self) -> float | None:
        """The score in per cent: 0 random policy, 100 expert; None where it is not defined, see scores.normalise."""
        return scores.normalise(self.score, self.random, self.expert) if len(self.returns) else None

    @property
    def score(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns)) if len(self.returns) else math.nan

    @property
    def interval(self) -> float:
        """Half width of the 95 % interval of the mean (normal approximation); 0 for fewer than two episodes."""
        n = len(self.returns)
        return float(1.96 * np.std(self.returns, ddof=1) / math.sqrt(n)) if n > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A picture uint8 (height, width, 3), the caption generated for it, whether it is right, and what is true."""

    image: np.ndarray
    caption: str
    right: bool | None = None    # None: nobody checked
    truth: str = ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a picture, the generated answer and the true one."""

    image: np.ndarray
    question: str
    answer: str
    truth: str = ""
    right: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that report.html shows. Empty parts are left out.

    Attributes:
        title: what this run is, in a few words.
        parameters, tokens: size of the network and how many tokens it was trained on.
        seconds, peak_memory_bytes: wall time of the whole run, up to this page, and the most memory it held.
        machine: what it ran on, for people.
        tasks: one TaskScore per task, in the order of the table.
        curves: source -> list of (tokens seen by then, loss).
        films, captions, questions: examples to look at; the accuracies below may count many more.
        caption_accuracy, question_accuracy: in [0, 1]; None where there were none.
        captions_judged, questions_judged: the number of samples of those accuracies.
        chats: transcripts, each a list of {"role": ..., "content": ...}, with "image" where one is shown.
        facts: further rows for "How it was made", e.g. {"backbone": "decoder, width 256, depth 6"}.
        versions: package -> version.
    """

    title: str = "Calico"
    parameters: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    machine: str = ""
    tasks: Sequence[TaskScore] = ()
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    films: Sequence[Film] = ()
    captions: Sequence[Captioned] = ()
    caption_accuracy: float | None = None
    captions_judged: int = 0
    questions: Sequence[Question] = ()
    question_accuracy: float | None = None
    questions_judged: int = 0
    chats: Sequence[Sequence[Mapping[str, Any]]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def share_at(self, threshold: float) -> float | None:
        """Fraction of the tasks that reach `threshold` per cent of the expert; None without any reference."""
        return scores.share_at([t.normalised for t in self.tasks], threshold)

    def percent_of_expert(self, film: Film) -> float | None:
        """A film's return in per cent between the task's random policy and expert; None without a reference, and where the
        film shows no whole episode."""
        if film.cut:
            return None
        of_task = [t for t in self.tasks if t.task == film.task]
        return scores.normalise(film.score, of_task[0].random, of_task[0].expert) if of_task else None

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain values, without pictures; what is not finite becomes None."""
        def without(example: Any, *names: str) -> dict[str, Any]:
            return {name: value for name, value in vars(example).items() if name not in names}

        tasks = [without(t, "kind") | {"expert_kind": t.kind, "score": t.score, "interval": t.interval,
                                       "normalised": t.normalised, "episodes": len(t.returns)} for t in self.tasks]
        found: dict[str, Any] = console.jsonable(without(self, "films") | {
            "tasks": tasks, "share_at_50": self.share_at(50), "captions": [without(c, "image") for c in self.captions],
            "questions": [without(q, "image") for q in self.questions],
            "chats": [[{key: value for key, value in message.items() if key != "image"} for message in chat]
                      for chat in self.chats]})
        return found


def write_report(report: Report, folder: Path) -> Path:
    """Write report.html and report.json into `folder` (made if absent).

    Returns:
        The path of report.html.
    """
    page, values = render_html(report), json.dumps(report.to_json(), indent=1, allow_nan=False)
    replace_file(folder / "report.json", values + "\n")
    replace_file(folder / "report.html", page)
    return folder / "report.html"


def render_html(report: Report) -> str:
    """The page as one string."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=format_number, percent=format_percent, big=format_big, duration=format_duration,
                               memory=format_memory, image=image_uri, film=film_uri)
    families = list(dict.fromkeys(t.family for t in report.tasks))
    return environment.get_template("report.html").render(
        report=report,
        families=[(name, [t for t in report.tasks if t.family == name]) for name in families],
        bar_end=max([120, *(min(t.normalised, 200) for t in report.tasks if t.normalised is not None)]),
        known=[t for t in report.tasks if t.normalised is not None],
        films=[(film, report.percent_of_expert(film)) for film in report.films],
        share_chart=share_chart(report) if report.share_at(0) is not None else "",
        curve_charts={source: curve_chart(points, f"curve{i}")
                      for i, (source, points) in enumerate(report.curves.items()) if len(points)},
    )


# ---- pictures -------------------------------------------------------------------------------------------------------

def film_uri(film: Film) -> str:
    """A film as a data URI."""
    return "data:image/gif;base64," + base64.b64encode(encode_gif(thin(film.frames), min(film.fps, 50))).decode()


def image_uri(image: np.ndarray) -> str:
    """uint8 (height, width, 3) or (height, width) as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# ---- charts ---------------------------------------------------------------------------------------------------------

# matplotlib writes these placeholder colours; inline_svg turns them into the page's, which follow light and dark.
COLOURS = {"#010203": "var(--ink)", "#020304": "var(--soft)", "#030405": "var(--line)", "#040506": "var(--accent)"}
INK, SOFT, LINE, ACCENT = COLOURS


def share_chart(report: Report) -> str:
    """Gato's curve (arXiv:2205.06175, figure 5): the percentage of tasks at or above x % of the expert's score."""
    known = np.array([t.normalised for t in report.tasks if t.normalised is not None])
    end = max(100, min(150, 10 * math.ceil(known.max() / 10)))
    x = np.linspace(0, end, 301)
    y = 100 * (known[None] >= x[:, None] - 1e-9).mean(1)   # (301,)
    figure, axes = _figure(6.4, 3.0)
    axes.fill_between(x, y, step="mid", color=ACCENT, alpha=0.12, linewidth=0)
    axes.step(x, y, where="mid", color=ACCENT, linewidth=2)
    axes.axvline(50, color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)))
    half = int((known >= 50).sum())
    axes.annotate(f"{half} of {len(known)} tasks reach half of the expert", (51, 6), color=INK, fontsize=9)
    axes.set(xlim=(0, end), ylim=(0, 104), yticks=[0, 25, 50, 75, 100], xlabel="% of the expert's score",
             ylabel="% of tasks at or above")
    return inline_svg(figure, "share")


def curve_chart(points: Sequence[tuple[float, float]], name: str) -> str:
    """Loss over tokens for one source: every point in grey, the running mean in colour. `name` starts the SVG's ids."""
    tokens, losses = np.array([point for point in points if math.isfinite(point[1])], float).reshape(-1, 2).T
    figure, axes = _figure(2.9, 1.5)
    axes.plot(tokens, losses, color=SOFT, linewidth=0.7, alpha=0.5)
    axes.plot(tokens, running_mean(losses), color=ACCENT, linewidth=1.6)
    top = np.quantile(losses, 0.98) if len(losses) else 0.0   # a single spike must not flatten the rest
    axes.set(ylim=(0, 1.1 * top or 1.0), xlim=(0, max([1.0, *tokens])))
    axes.locator_params(nbins=3)
    axes.xaxis.set_major_formatter(lambda value, _: format_big(value))
    return inline_svg(figure, name)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean over about a tenth of the points; (n,) -> (n,)."""
    if not len(values):
        return values
    width = max(1, len(values) // 10)
    sums = np.convolve(values, np.ones(width), "same")
    return sums / np.convolve(np.ones(len(values)), np.ones(width), "same")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart without a frame, in placeholder colours; sizes in inches of 72 px."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, length=0, labelsize=8)
    axes.xaxis.label.set(color=SOFT, fontsize=9)
    axes.yaxis.label.set(color=SOFT, fontsize=9)
    return figure, axes


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element for inside a page: real text, the page's colours, ids that start with `name`.

    The template shows it with `|safe`: matplotlib has escaped the texts in it.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")   # HTML knows both by itself
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1)
    for placeholder, colour in COLOURS.items():
        svg = svg.replace(placeholder, colour)
    return svg


# ---- words ----------------------------------------------------------------------------------------------------------

def format_number(value: float | None) -> str:
    """A score: two decimals at most, fewer for large numbers; a typographic minus sign; a dash for None."""
    if value is None or not math.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:,.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text.replace("-", "−").replace(",", "\u202f")


def format_percent(value: float | None) -> str:
    """87.3 -> "87 %"."""
    return "–" if value is None or not math.isfinite(value) else f"{round(value)} %".replace("-", "−")


def format_big(value: float) -> str:
    """5300000 -> "5.3 M"."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def format_duration(seconds: float) -> str:
    """640 -> "10 min 40 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_memory(size: float) -> str:
    """Bytes as GB or MB (powers of 1000)."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
