"""The tab Teach: play a grid task by hand, train the network on it, watch it play."""

import html
import json
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import calico
from calico.agent.sampling import SamplingConfig
from calico.envs import task_table
from calico.envs.scores import FIRST_SEED
from calico.scripts.web import lessons
from calico.scripts.web.desk import Desk, Session, told
from calico.scripts.web.lessons import ACTIONS, WANTED, Lesson
from calico.scripts.web.play import frame_html, play, shown

JUDGED = 10               # episodes that are played after the training
LOOK = 1.0                # seconds between two looks at the training
FIRST_TASKS = ("MiniGrid-DoorKey-5x5-v0", "BabyAI-GoToObjS4-v0", "BabyAI-PickupLoc-v0", "MiniGrid-FourRooms-v0")

# Keys press the buttons of the tab that is shown, unless a field is being typed in.
KEYS = """<script>
document.addEventListener("keydown", event => {
  if (event.target.closest("input, textarea, select, [contenteditable], [role=listbox]")) return;
  const name = !event.ctrlKey && !event.metaKey && NAMES[event.key];
  const button = name && document.querySelector("#teach-" + name);
  if (!button || button.offsetParent === null) return;
  event.preventDefault();
  button.click();
});
</script>""".replace("NAMES", json.dumps({key: name for name, _, key in ACTIONS} | {"n": "again"}))


def begin(desk: Desk, session: Session, task: str) -> Lesson:
    """A lesson in this task; the one before ends."""
    session.take_turn()
    if session.lesson is not None:
        session.lesson.close()
        session.lesson = None
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    session.lesson = Lesson(desk.agent, task, desk.out / name)
    return session.lesson


def current(session: Session) -> Lesson:
    """Raises ValueError before the first lesson."""
    if session.lesson is None:
        raise ValueError("choose a task and press Start first")
    return session.lesson


def seen(lesson: Lesson, remark: str = "") -> tuple[str, str]:
    """Frame and facts as HTML."""
    parts = [f"step {lesson.steps}", f"{len(lesson.solved)} of {WANTED} episodes shown"]
    return frame_html(lesson.frame), (f"<q>{html.escape(lesson.mission)}</q><p>{' · '.join(parts)}</p>"
                                      + (f"<p><b>{html.escape(remark)}</b></p>" if remark else ""))


def step(lesson: Lesson, action: int) -> tuple[str, str]:
    """Move; an episode that ends is followed by the next one."""
    solved = lesson.act(action)
    if solved is None:
        return seen(lesson)
    remark = (f"solved, return {lesson.score:.2f}: kept" if solved else "not solved: not kept") + "; the next one begins"
    lesson.again()
    return seen(lesson, remark)


def learn(desk: Desk, session: Session, overrides: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Train on what was shown, then play unseen episodes; words, and the curve as SVG.

    Raises:
        ValueError: nothing was shown, or the training failed, with its last words.
    """
    from calico.scripts.evaluation import control  # here and not above: it loads SciPy and matplotlib, and the page would wait

    lesson = current(session)
    if not lesson.solved:
        raise ValueError(f"solve at least one episode of {lesson.task.name} first; {WANTED} teach more")
    turn, out, began = session.take_turn(), run_folder(lesson), time.monotonic()
    session.taught = None
    session.worker = worker = lessons.train(desk.run, lesson.data, out, overrides, desk.device)
    points, drawn = list[tuple[float, float]](), ""
    try:
        while worker.poll() is None:
            if session.turn != turn:
                return
            if (now := lessons.progress(out)) != points:       # drawing costs the training's time
                points, drawn = now, chart(now)
            yield f"training on {len(lesson.solved)} episodes, {time.monotonic() - began:.0f} seconds", drawn
            time.sleep(LOOK)
    finally:
        if worker.poll() is None:
            worker.terminate()
    drawn = chart(lessons.progress(out))
    if worker.returncode:
        raise ValueError(f"the training ended with code {worker.returncode}: {lessons.last_words(out)} "
                         f"(see {lessons.log_of(out)})")
    yield "trained; it plays unseen episodes now", drawn
    session.taught = agent = calico.load(out, device=desk.device)
    returns = control.play(agent.network, lesson.task.name, range(FIRST_SEED, FIRST_SEED + JUDGED),
                           SamplingConfig(temperature=agent.network.temperature), progress=False).returns
    words = lessons.in_words(list(returns), lesson.task.name)
    yield f"{words}; {time.monotonic() - began:.0f} seconds in all. The run: {out}", drawn


def run_folder(lesson: Lesson) -> Path:
    """A folder for the next run of a lesson."""
    folder, number = lesson.data.parent.parent, 1
    while (folder / f"run-{number}").exists():
        number += 1
    return folder / f"run-{number}"


def chart(points: list[tuple[float, float]]) -> str:
    """The curve as SVG; "" before there are two points."""
    from calico.scripts.evaluation.report import curve_chart  # late, as above

    if len(points) < 2:
        return ""
    return f'<div class="chart"><p class="soft">loss by step</p>{curve_chart(points, "taught")}</div>'


def grid_tasks(desk: Desk) -> list[tuple[str, str]]:
    """MiniGrid's and BabyAI's tasks; those of --task first; what the network does not know is marked."""
    names = [name for name, row in task_table.rows().items() if row["family"] == "minigrid"]
    first = [*desk.tasks, *(name for name in FIRST_TASKS if name in names)]
    return [(name if name in desk.agent.tasks else f"{name} (new to it)", name)
            for name in (*first, *sorted(set(names) - set(first)))]


def build(desk: Desk) -> None:
    """Put the tab's contents into the open `gradio.Tab`."""
    import gradio as gr

    choices = grid_tasks(desk)
    with gr.Row(elem_classes="board"):
        with gr.Column(scale=3, min_width=300):
            with gr.Row():
                task = gr.Dropdown(choices, value=choices[0][1], label="Grid task", scale=4, min_width=220,
                                   info="type to search; `--task my_module:MyEnv-v0` adds your own")
                start = gr.Button("Start", variant="primary", elem_id="teach-start", scale=1, min_width=80)
            frame = gr.HTML(elem_classes="world", elem_id="teach-world")
            facts = gr.HTML('<p class="soft">Press Start, then solve the task with the buttons, or with the arrow keys, space, '
                            "P, D and Enter. Five solved episodes are a good beginning.</p>", elem_classes="facts",
                            elem_id="teach-facts")
            with gr.Row(elem_classes="keys pad"):
                keys = [gr.Button(words, elem_id=f"teach-{name}", min_width=84) for name, words, _ in ACTIONS]
                again = gr.Button("anew", elem_id="teach-again", min_width=84)
            gr.Markdown("Keys: arrows, P picks up, D drops, space opens, Enter is done, N begins anew.", elem_classes="soft")
        with gr.Column(scale=2, min_width=280):
            gr.Markdown(f"#### Let it learn\nFrom {desk.run}, on what you have shown.")
            with gr.Row(elem_classes="keys"):
                go = gr.Button("Train on it", variant="primary", elem_id="teach-train", min_width=90)
                watch = gr.Button("Watch it play", elem_id="teach-watch", min_width=90)
                stop = gr.Button("Stop", elem_id="teach-stop", min_width=60)
            words = gr.Markdown(elem_id="teach-words")
            curve = gr.HTML(elem_id="teach-curve")

    def started(task: str, request: gr.Request) -> tuple[str, str]:
        with told():
            return seen(begin(desk, desk.session(request), (task or "").strip()))

    def moved(action: int, request: gr.Request) -> tuple[str, str]:
        with told():
            return step(current(desk.session(request)), action)

    def mover(action: int) -> Any:
        def move(request: gr.Request) -> tuple[str, str]:
            return moved(action, request)
        return move

    def anew(request: gr.Request) -> tuple[str, str]:
        with told():
            lesson = current(desk.session(request))
            lesson.again()
            return seen(lesson, "a new episode")

    def trained(request: gr.Request) -> Iterator[tuple[str, str]]:
        with told():
            yield from learn(desk, desk.session(request))

    def watched(request: gr.Request) -> Iterator[tuple[str, str]]:
        session = desk.session(request)
        with told():
            if session.taught is None:
                raise ValueError("there is no trained network yet; show some episodes and press Train on it")
            session.temperature = session.taught.network.temperature
            for picture, _, said in shown(play(desk, session, session.taught, current(session).task.name, FIRST_SEED)):
                yield picture, said

    def end(request: gr.Request) -> None:
        desk.session(request).take_turn()

    outputs: Any = [frame, facts]
    live: Any = {"show_progress": "hidden", "trigger_mode": "multiple"}
    start.click(started, task, outputs, **live, api_name="teach")
    for action, key in enumerate(keys):
        key.click(mover(action), None, outputs, **live, api_visibility="private")
    again.click(anew, None, outputs, **live, api_visibility="private")
    go.click(trained, None, [words, curve], concurrency_limit=None, show_progress="hidden", api_visibility="private")
    watch.click(watched, None, outputs, **live, concurrency_limit=None, api_visibility="private")
    stop.click(end, None, None, queue=False, api_visibility="private")
