"""Control loops of many clients: sessions, and one thread that acts for all that wait in one forward.

Each session plays one task with its own memory and its own random generator, so what it gets does not depend on the others
(agent/policy.py: rows of one batch may play different tasks). While a forward runs, observations gather; the next one takes
them all. Clients in lock-step come within milliseconds of each other, so the thread waits a moment for as many as came in the
last two batches: without that, one of them would go alone and the others wait for it.
"""

import asyncio
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from calico.agent.agent import Agent
from calico.agent.policy import AgentPolicy, PlayedTask, chunk_of
from calico.agent.sampling import SamplingConfig
from calico.envs.checks import complaint
from calico.scripts.common import console
from calico.scripts.serving.limits import Limits, Refused
from calico.scripts.serving.metrics import Metrics
from calico.scripts.serving.values import from_json
from calico.tokenizers.spaces import space_to_json

BUSY = "this session's last answer is still on its way; wait for it"
GAP = 0.002            # seconds without another observation after which a batch goes
MOST_GATHERING = 0.5   # of the last batch's own time


@dataclass(eq=False)
class Session:
    """One client's episode.

    Attributes:
        row: of the policy.
        used: when it last said something, time.monotonic().
        busy: an answer is on its way.
        steps: actions since the last reset.
    """

    id: str
    row: int
    task: str
    used: float
    busy: bool = False
    steps: int = 0


@dataclass(eq=False)
class _Job:
    """What the acting thread does: one session's reset, action or end."""

    kind: Literal["reset", "act", "leave", "stop"]
    row: int = -1
    value: Any = None                  # reset: (PlayedTask, seed, SamplingConfig); act: the observation
    answer: "asyncio.Future[Any] | None" = None
    arrived: float = field(default_factory=time.perf_counter)


class Control:
    """The sessions of one server; all methods but the thread's are called in the event loop."""

    def __init__(self, agent: Agent, limits: Limits, metrics: Metrics) -> None:
        self.agent, self.limits, self.metrics = agent, limits, metrics
        self.codecs = {name: agent.codec(name) for name in sorted(agent.tasks)}
        self.played: dict[str, PlayedTask] = {}
        self.complaints: dict[str, Callable[[Any], str | None]] = {}
        self.sessions: dict[str, Session] = {}
        self.rows = 0
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.policy: AgentPolicy | None = None
        if self.codecs:
            chunk = max(map(chunk_of, self.codecs.values()))
            self.policy = AgentPolicy(agent.model, next(iter(self.codecs.values())), chunk=chunk, keep=True)
        self.thread = threading.Thread(target=self._run, name="calico-acting", daemon=True)
        self.thread.start()

    # ---- in the event loop

    def spaces(self, task: str) -> dict[str, Any]:
        """A task's name and its spaces. Raises Refused where the network does not know it."""
        if task not in self.codecs:
            try:
                self.agent.codec(task)
            except ValueError as error:
                raise Refused(404, str(error)) from None
        codec = self.codecs[task]
        return {"task": task, "observation_space": space_to_json(codec.observation_space),
                "action_space": space_to_json(codec.action_space), "memory": codec.memory}

    def find(self, session: str) -> Session:
        """Raises Refused where there is none."""
        if session not in self.sessions:
            raise Refused(404, f"there is no session {session[:40]!r}: it has ended, or was idle for {self.limits.idle:g} "
                               'seconds; begin one with {"reset": TASK}')
        return self.sessions[session]

    def reset(self, session: Session | None, task: str, seed: int, temperature: float | None, top_k: int) -> Session:
        """Begin an episode, in a new session or in one that is there.

        Raises:
            Refused: an unknown task, too many sessions, or the session's answer is still on its way.
        """
        self.spaces(task)
        assert self.policy is not None
        if task not in self.played:
            self.played[task] = PlayedTask.of(self.policy.model, self.codecs[task])
            self.complaints[task] = complaint(self.codecs[task].observation_space)
        if session is None:
            if len(self.sessions) >= self.limits.sessions:
                raise Refused(429, f"{len(self.sessions)} sessions are open, which is the limit; end one, or try again later",
                              {"Retry-After": "5"})
            session = Session(secrets.token_hex(16), self.rows, task, time.monotonic())
            self.rows += 1
            self.sessions[session.id] = session
            self.metrics.sessions.set(len(self.sessions))
        sampling = SamplingConfig(temperature=self.agent.temperature if temperature is None else temperature, top_k=top_k)
        if session.busy:
            raise Refused(409, BUSY)
        self.jobs.put(_Job("reset", session.row, (self.played[task], seed, sampling)))    # before any act that follows
        session.task, session.steps, session.used = task, 0, time.monotonic()
        return session

    async def act(self, session: Session, observation: Any) -> Any:
        """The action for what a session observes, as JSON values.

        Raises:
            Refused: an observation that does not fit the task, or the answer before is still on its way.
        """
        try:
            value = from_json(self.codecs[session.task].observation_space, observation)
        except ValueError as error:
            raise Refused(400, f"{session.task}: {error}") from None
        if said := self.complaints[session.task](value):
            raise Refused(400, f"{session.task}: {said}")
        if session.busy:
            raise Refused(409, BUSY)
        job = _Job("act", session.row, value, asyncio.get_running_loop().create_future())
        assert job.answer is not None
        session.busy = True
        job.answer.add_done_callback(lambda done: self._answered(session, done))
        self.jobs.put(job)
        try:
            # shielded: a client that leaves must not take back what the thread is about to do
            action = await asyncio.shield(job.answer)
        except ValueError as error:
            raise Refused(400, f"{session.task}: {error}") from None
        session.steps += 1
        return console.jsonable(action)

    def _answered(self, session: Session, done: "asyncio.Future[Any]") -> None:
        """A session may ask again, also where nobody waited for the answer to the end."""
        session.busy, session.used = False, time.monotonic()
        if not done.cancelled():
            done.exception()               # looked at: asyncio complains of errors that nobody has seen

    def end(self, session: Session) -> None:
        """A session's memory is given back."""
        if self.sessions.pop(session.id, None):
            self.jobs.put(_Job("leave", session.row))
            self.metrics.sessions.set(len(self.sessions))

    def end_idle(self) -> None:
        """End all sessions that have said nothing for too long."""
        for session in list(self.sessions.values()):
            if not session.busy and time.monotonic() - session.used > self.limits.idle:
                self.end(session)

    def stop(self) -> None:
        """End the thread."""
        self.jobs.put(_Job("stop"))
        self.thread.join(timeout=10)

    # ---- in the acting thread

    def _run(self) -> None:
        last: tuple[set[int], set[int]] = set(), set()         # rows of the last two batches: who is likely to come again
        took = 0.0
        while True:
            jobs = [self.jobs.get(), *self._waiting()]
            deadline, expected = time.perf_counter() + MOST_GATHERING * took, len(last[0] | last[1])
            while sum(job.kind == "act" for job in jobs) < expected and time.perf_counter() < deadline:
                try:
                    jobs += [self.jobs.get(timeout=GAP), *self._waiting()]
                except queue.Empty:
                    break
            for job in jobs:
                if job.kind == "stop":
                    return
                if self.policy is not None and job.kind != "act":
                    self._prepare(job)
            acting = [job for job in jobs if job.kind == "act"]
            if acting:
                began = time.perf_counter()
                self._act(acting)
                took, last = time.perf_counter() - began, (last[1], {job.row for job in acting})

    def _waiting(self) -> list[_Job]:
        found = []
        while not self.jobs.empty():
            found.append(self.jobs.get())
        return found

    def _prepare(self, job: _Job) -> None:
        assert self.policy is not None
        if job.kind == "leave":
            self.policy.leave(job.row)
        else:
            task, seed, sampling = job.value
            self.policy.reset(job.row, seed, task=task, sampling=sampling)

    def _act(self, jobs: list[_Job]) -> None:
        """One forward for all; where an observation cannot be encoded, each goes alone, and the wrong ones are told."""
        assert self.policy is not None
        deliver([(job, Refused(404, "this session has ended")) for job in jobs if job.row not in self.policy.rows])
        jobs = [job for job in jobs if job.row in self.policy.rows]
        try:
            actions = self.policy.act([job.value for job in jobs], [job.row for job in jobs]) if jobs else []
        except ValueError as error:       # from the codec, before anything has changed
            if len(jobs) == 1:
                deliver([(jobs[0], error)])
            else:
                for job in jobs:
                    self._act([job])
            return
        except Exception as error:        # our mistake: it is told, and the next batch is served all the same
            console.note(f"acting failed: {type(error).__name__}: {console.one_line(error)}")
            for job in jobs:
                self.policy.leave(job.row)
            deliver([(job, Refused(500, "acting failed; the session is over")) for job in jobs])
            return
        now = time.perf_counter()
        self.metrics.batch_rows.observe(len(jobs))
        self.metrics.actions.inc(len(jobs))
        for job in jobs:
            self.metrics.act_seconds.observe(now - job.arrived)
        deliver(list(zip(jobs, actions, strict=True)))


def deliver(answers: list[tuple[_Job, Any]]) -> None:
    """Hand results, or errors, to those who wait for them, from another thread: one call into the event loop for all."""
    def hand_over() -> None:
        for job, answer in answers:
            if job.answer is not None and not job.answer.done():
                if isinstance(answer, Exception):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)

    if answers and answers[0][0].answer is not None:
        loop = answers[0][0].answer.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(hand_over)
