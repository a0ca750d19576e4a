"""Episodes of other projects become a folder of Calico's; an import that was stopped goes on where it was.

    out/.NAME.unfinished/     parts as they come, one a minute; the same command completes them
    out/NAME/                 the whole data set, when all episodes are there
"""

from pathlib import Path

from calico.agent.run_lock import run_lock
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.formats.importing import ImportedEpisodes
from calico.datasets.publish import publish_folder
from calico.scripts.common import console
from calico.scripts.common.collecting import PART_SECONDS
from calico.scripts.common.sharding import folder_name
from calico.tokenizers.episode import Episode

NAMED = 5      # episodes that were left out; the others are counted


def import_episodes(foreign: ImportedEpisodes, out: Path) -> Path:
    """Write all episodes that can be read; returns the folder.

    Raises:
        ValueError: the folder holds episodes already; another process imports into it; none can be read; what an import that
            was stopped has left is of other data.
    """
    folder = out / folder_name(foreign.task["name"])
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    with run_lock(out, f".{folder.name}.lock"):
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds episodes already; choose another --out or --task, or remove it")
        before = _imported_before(unfinished, foreign)
        skipped: list[str] = []
        with EpisodeWriter(unfinished, foreign.task, part_seconds=PART_SECONDS) as writer, \
                console.progress(f"import {foreign.task['name']}", total=foreign.total, unit="episodes") as bar:
            # All are read again, for which of them are left out is found by reading only.
            for number, episode in enumerate(foreign.usable(skipped)):
                if number >= len(before):
                    writer.append(episode)
                elif _about(episode) != before[number]:
                    raise ValueError(f"{unfinished} was begun from other data: episode {number} is another one; remove it")
                bar.advance(note=f"return {episode.score:g}")
        publish_folder(unfinished, folder)
    for why in skipped[:NAMED]:
        console.note(f"left out: {why}")
    if skipped:
        console.note(f"{len(skipped)} of {foreign.total} episodes were left out")
    return folder


def _imported_before(unfinished: Path, foreign: ImportedEpisodes) -> list[tuple[int, int, float]]:
    """What a stopped import has written, episode by episode."""
    if not any(unfinished.glob("_*.json")):
        return []
    reader = EpisodeReader(unfinished)
    if reader.task != foreign.task:
        raise ValueError(f"{unfinished} was begun from other data, {reader.task.get('source')}, not "
                         f"{foreign.task.get('source')}; remove it")
    console.note(f"going on with {unfinished}: {len(reader)} of {foreign.total} episodes are there")
    return list(zip(reader.seeds.tolist(), reader.lengths.tolist(), reader.scores.tolist(), strict=True))


def _about(episode: Episode) -> tuple[int, int, float]:
    return int(episode.seed), len(episode), float(episode.score)
