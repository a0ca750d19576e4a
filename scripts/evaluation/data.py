"""Evaluation data: the held-out splits of a run's own data, data that the user names, and newly generated scenes.

All of it has one form, so that one suite evaluates captions of photographs and of generated scenes alike.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calico.datasets.documents import Caption, CaptionReader, Dialogue, DialogueReader, Document
from calico.datasets.episodes import EpisodeReader
from calico.datasets.synthetic.captions import ask, caption
from calico.datasets.texts import TextReader
from calico.envs.scenes import WORLDS, scenes
from calico.scripts.common import console
from calico.scripts.common.settings import RunSettings, SourceSettings
from calico.scripts.common.sources import OpenedSource, Split, open_source, whole

UNSEEN_SCENES = 10_000_000   # first seed of evaluation pictures
KNOWN = 5000                 # documents of the training split that baselines use


def replies(dialogue: Dialogue) -> bool:
    return any(message["role"] == "assistant" for message in dialogue.messages)


def shows(dialogue: Dialogue) -> bool:
    """Whether there is a picture or a sound in it."""
    return bool(dialogue.images or dialogue.sounds)


SUITES: dict[str, Callable[[Document], bool]] = {
    "captions": lambda document: isinstance(document, Caption),
    "vqa": lambda document: isinstance(document, Dialogue) and shows(document) and replies(document),
    "chat": lambda document: isinstance(document, Dialogue) and not shows(document) and replies(document),
    "text": lambda document: isinstance(document, str),
}
READERS: dict[str, type] = {"captions": CaptionReader, "vqa": DialogueReader, "chat": DialogueReader, "text": TextReader}


@dataclass(frozen=True)
class EvaluationSet:
    """Documents that were not trained on.

    Attributes:
        name: of the data set.
        documents: for evaluation.
        known: documents of the same set's training split, for the baselines; empty where they are not available.
        fingerprint: identifies the documents.
    """

    name: str
    documents: Sequence[Document]
    known: Sequence[Document]
    fingerprint: str

    def part(self, suite: str) -> "EvaluationSet":
        chosen, known = ([d for d in documents if SUITES[suite](d)] for documents in (self.documents, self.known))
        return replace(self, documents=chosen, known=known)


def found_again(source: SourceSettings, run: Path) -> SourceSettings:
    """The source where its data lie now: paths are stored as they were given, so a relative one that is not here is looked for
    in the folders above the run, where the run was trained in most cases."""
    def place(path: str) -> str:
        if not path or Path(path).is_absolute() or Path(path).exists():
            return path
        return next((str(above / path) for above in run.resolve().parents if (above / path).exists()), path)

    return replace(source, path=place(source.path), images=place(source.images))


def open_here(settings: RunSettings, suites: Iterable[str]) -> list[OpenedSource]:
    """The run's sources for these suites; those that cannot be opened are named on stderr."""
    readers = tuple(READERS[suite] for suite in suites)
    opened: list[OpenedSource] = []
    for source in settings.data.sources:
        try:
            found = open_source(source, {o.name for o in opened})
        except ValueError as error:
            where = "" if Path(source.path).exists() else "; run the command where the run was trained, or name data by --data"
            console.note(f"not judged: {console.one_line(error)}{where}")
            continue
        if isinstance(found.data, readers):
            opened.append(found)
    return opened


def held_out_sets(opened: Sequence[OpenedSource], limit: int | None) -> Iterator[EvaluationSet]:
    """The held-out splits of the run's own config."""
    for source in opened:
        train, held = source.splits
        if len(held.numbers):
            yield EvaluationSet(source.name, list(held.documents(limit)), known(train), fingerprint(held, limit))


def named_sets(paths: Sequence[str], opened: Sequence[OpenedSource], limit: int | None) -> Iterator[EvaluationSet]:
    """Data that the user names, without a split; pictures in the size of the run's training data of that kind.

    Raises:
        ValueError: not documents.
    """
    for path in paths:
        name = Path(path).stem
        data = open_source(SourceSettings(path=path), set()).data
        if isinstance(data, EpisodeReader):
            raise ValueError(f"--data {path} holds episodes; the suite `control` plays tasks itself. Give captions, questions, "
                             "dialogues or text")
        like = [source for source in opened if type(source.data) is type(data)]
        like.sort(key=lambda source: source.name != name)
        if like:
            data = open_source(SourceSettings(path=path, max_side=like[0].settings.max_side), set()).data
        split = whole(data)
        yield EvaluationSet(name, list(split.documents(limit)), known(like[0].splits[0]) if like else [],
                            fingerprint(split, limit))


def known(split: Split) -> list[Document]:
    return list(split.documents(KNOWN))


def fingerprint(split: Split, limit: int | None) -> str:
    return f"{split.data.fingerprint[:16]}-{zlib.crc32(split.numbers[:limit].tobytes()):08x}"


def trained_worlds(opened: Sequence[OpenedSource]) -> list[str]:
    """The worlds whose pictures the run was trained on, by the data set names that `calico collect --scenes` gives."""
    names = {source.name for source in opened}
    return [world for world in WORLDS if {f"{world}-captions", f"{world}-dialogues"} & names]


def drawn_captions(world: str, count: int, opened: Sequence[OpenedSource] = ()) -> EvaluationSet:
    """Pictures of a world that are in no data set, each with its caption; `extra` has the facts."""
    drawn = scenes(world, range(UNSEEN_SCENES, UNSEEN_SCENES + count))
    documents = [Caption(name=str(scene.seed), image=scene.image, captions=(caption(scene.facts),),
                         extra={"facts": scene.facts}) for scene in drawn]
    return EvaluationSet(world, documents, trained_on(f"{world}-captions", opened), f"drawn-{count}")


def drawn_questions(world: str, count: int, opened: Sequence[OpenedSource] = ()) -> EvaluationSet:
    """One question about each of such pictures."""
    rng = np.random.default_rng(UNSEEN_SCENES)
    documents = []
    for scene in scenes(world, range(UNSEEN_SCENES, UNSEEN_SCENES + count)):
        question, answer = ask(scene.facts, rng)[0]
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "image", "image": "it"}, {"type": "text", "text": question}]},
            {"role": "assistant", "content": answer}]
        documents.append(Dialogue(messages=messages, images={"it": scene.image}, extra={"facts": scene.facts}))
    return EvaluationSet(world, documents, trained_on(f"{world}-dialogues", opened), f"drawn-{count}")


def trained_on(name: str, opened: Sequence[OpenedSource]) -> list[Document]:
    """The training split of the source of that name, if there is one."""
    return next((known(source.splits[0]) for source in opened if source.name == name), [])
