"""The teacher of a training run: another run, whose probabilities of actions are learnt; see agent/training/distillation.py.

Both networks read the same tokens, so they must have the same vocabulary, text pieces and form of each task.
"""

from collections.abc import Sequence
from dataclasses import replace

from calico.agent import checkpoint
from calico.agent.agent import TOKENIZER_FILE, Agent, located
from calico.agent.training.distillation import Teacher
from calico.datasets.mixture import first_difference
from calico.scripts.common import sources
from calico.scripts.common.settings import RunSettings
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.vocabulary import Vocabulary


def load_teacher(settings: RunSettings, device: str) -> Agent | None:
    """The run that `settings.teacher` names; None without one. Raises CheckpointError where there is no such run."""
    return Agent.load(settings.teacher, device) if settings.teacher else None


def with_fingerprint(settings: RunSettings, teacher: Agent | None) -> RunSettings:
    """The settings with the fingerprint of the teacher's weights, by which a continued run knows it again.

    Raises:
        ValueError: another fingerprint is asked for; or one, and there is no teacher.
    """
    found, asked = "" if teacher is None else teacher.fingerprint(), settings.distillation.fingerprint
    if asked and found != asked:
        there = f"teacher={settings.teacher} has {found}" if found else "there is no teacher"
        raise ValueError(f"distillation.fingerprint={asked} is asked for, but {there}; name the run with those weights, or "
                         "leave the fingerprint out")
    return replace(settings, distillation=replace(settings.distillation, fingerprint=found))


def text_of(settings: RunSettings, opened: list[sources.OpenedSource], teacher: Agent | None) -> TextTokenizer:
    """The text pieces of a run that starts from random weights: those of the teacher, unless the settings name a file or a
    pre-trained encoder that brings them; without a teacher see `sources.text_tokenizer`."""
    if teacher is not None and not settings.data.tokenizer and settings.embedding.text is None:
        return teacher.text
    return sources.text_tokenizer(settings, opened)


def check_teacher(settings: RunSettings, opened: list[sources.OpenedSource], teacher: Agent) -> None:
    """Raise ValueError, with the first difference, where the teacher would not read these rows as the student does."""
    name, vocabulary = f"teacher={settings.teacher}", Vocabulary(settings.vocabulary)
    if difference := first_difference(vocabulary.to_json(), teacher.vocabulary.to_json(), "vocabulary"):
        raise ValueError(f"{name} has another vocabulary: {difference}; give the teacher's, or another teacher")
    if settings.init:
        pieces = (checkpoint.find(located(settings.init)) / TOKENIZER_FILE).read_bytes()   # verified when the run begins
    else:
        pieces = text_of(settings, opened, teacher).to_bytes()
    if pieces != teacher.text.to_bytes():
        whose = f"init={settings.init}" if settings.init else f"data.tokenizer={settings.data.tokenizer or '(an encoder)'}"
        raise ValueError(f"{name} has other text pieces than {whose}; leave that out, and the teacher's are taken")
    if settings.backbone.context > (longest := teacher.model.config.backbone.context):
        raise ValueError(f"{name} reads {longest} tokens at most, but backbone.context={settings.backbone.context}; set "
                         f"backbone.context={longest}")
    for task, spec in sources.task_specs(opened, settings, vocabulary, teacher.text).items():
        if task not in teacher.tasks:
            raise ValueError(f"{name} does not know {task}, a task of these data; leave its source out, or choose a teacher "
                             "that was trained on it")
        if difference := first_difference(spec["codec"], teacher.tasks[task]["codec"]):
            raise ValueError(f"{name} knows {task} otherwise than these data show it: {difference}; give the teacher's "
                             "settings")


def teaching(settings: RunSettings, opened: Sequence[sources.OpenedSource], teacher: Agent) -> Teacher:
    """What the loss is given: the teacher's network and the legal ids of each source's task."""
    tasks = [source.data.task for source in opened]
    legal = [None if task is None else teacher.codec(task["name"]).action_mask for task in tasks]
    return Teacher(teacher.model, legal, settings.distillation)


def described(settings: RunSettings) -> str:
    """One line about the teacher."""
    found = settings.distillation
    return (f"teacher: {settings.teacher} (fingerprint {found.fingerprint}), {found.weight:.0%} of the loss of an action at "
            f"temperature {found.temperature:g}")
