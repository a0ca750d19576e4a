"""What the tabs of the page share: the network, the visitors and their state, and how errors are told.

Every browser tab is a session of its own, with its own environment. The network's weights are shared; one forward at a time.
"""

import contextlib
import html
import queue
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico.envs import task_table
from calico.scripts.api.agents import Agent
from calico.scripts.common import console

if TYPE_CHECKING:
    from calico.scripts.web.lessons import Lesson

MOST_SESSIONS = 32       # those that programs open through the page's API are never closed by a browser that leaves
# Tasks that show something at once and are quick on any machine; the first one that the network knows is shown first.
FIRST = ("BabyAI-GoToLocal-v0", "CartPole-v1", "LunarLander-v3", "ALE/Freeway-v5", "MiniGrid-DoorKey-8x8-v0", "Acrobot-v1",
         "MountainCar-v0", "Sokoban-6x6-1")


@dataclass(eq=False)
class Session:
    """One browser tab.

    Attributes:
        turn: number of the latest play or reply; a loop that has an older one ends.
        temperature: of actions; may change while it plays.
        looks: whether it is shown which patches the agent looked at; may change while it plays.
        lesson: what is taught; None before the first one.
        worker: the process that trains on it.
        taught: the network that came out.
    """

    turn: int = 0
    temperature: float = 1.0
    looks: bool = False
    lesson: "Lesson | None" = None
    worker: "subprocess.Popen[bytes] | None" = None
    taught: Agent | None = None

    def take_turn(self) -> int:
        """Begin something that goes on for a while, and end what was begun before."""
        self.turn += 1
        return self.turn

    def close(self) -> None:
        """End its loops, its training and its environment."""
        self.take_turn()
        if self.worker is not None and self.worker.poll() is None:
            self.worker.terminate()
        if self.lesson is not None:
            self.lesson.close()


@dataclass(eq=False)
class Desk:
    """Attributes:
        agent: the run's network.
        run: its name or folder, as it was given.
        out: where what is taught is kept.
        runs: where Perceivers and encoders are looked for.
        tasks: of the user's own, to be taught.
        lock: held by whoever computes with the network.
    """

    agent: Agent
    run: str
    out: Path
    runs: Path
    tasks: Sequence[str] = ()
    device: str = "cpu"
    lock: threading.Lock = field(default_factory=threading.Lock)
    sessions: dict[str, Session] = field(default_factory=dict)

    def session(self, request: Any) -> Session:
        """That of a gradio.Request; the oldest ones end where there are too many."""
        found = self.sessions.setdefault(str(request.session_hash), Session(temperature=self.agent.network.temperature))
        while len(self.sessions) > MOST_SESSIONS:
            self.sessions.pop(next(iter(self.sessions))).close()
        return found

    def leave(self, request: Any) -> None:
        """A browser tab was closed."""
        if session := self.sessions.pop(str(request.session_hash), None):
            session.close()

    def close(self) -> None:
        """The page ends."""
        for name in list(self.sessions):
            self.sessions.pop(name).close()


def task_choices(names: list[str]) -> list[tuple[str, str]]:
    """(what is shown, task) for a list to choose from: FIRST, then the others by name; what is missing here says so."""
    def shown(name: str) -> str:
        row = task_table.rows().get(name)
        return f"{name} (not installed)" if row and task_table.missing_module(row["family"]) else name

    known = set(names)
    return [(shown(name), name) for name in (*filter(known.__contains__, FIRST), *sorted(known - set(FIRST)))]


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What a user can cause is shown on the page, in the sentence that the command would print."""
    import gradio as gr

    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        raise gr.Error(html.escape(console.one_line(error), quote=False), duration=None, print_exception=False) from None


def streamed(work: Callable[[Callable[[str], None]], str], lock: threading.Lock) -> Generator[str, None, None]:
    """A text while it grows.

    Args:
        work: gets a function to call with the text so far, and returns the whole; it runs in a thread of its own.
        lock: held while it works. Where nobody reads on, the work ends at its next call.
    Raises:
        what `work` raises.
    """
    said: queue.SimpleQueue[tuple[str, BaseException | None, bool]] = queue.SimpleQueue()
    left = threading.Event()

    def show(text: str) -> None:
        if left.is_set():
            raise GeneratorExit
        if not text.endswith("\ufffd"):                  # the bytes of a character that is not complete yet
            said.put((text, None, False))

    def run() -> None:
        try:
            with lock:
                said.put((work(show), None, True))
        except BaseException as error:                   # told by the thread that waits for it
            said.put(("", error, True))

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            text, error, ended = said.get()
            if error is not None:
                raise error
            yield text
            if ended:
                return
    finally:
        left.set()
