"""Writers of captions and dialogues: a JSON Lines manifest and a zip of PNG and WAV files, in the layout of documents.py.

What is written reads back identically, pixels included; sounds to 16 bits.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..tokenizers.tokens import SOUND_RATE
from .documents import check_messages
from .images import encode_file
from .publish import finish_publishing, publish_together, remove_leftovers, temporary_name, uninterrupted, write_error
from .records import require_text
from .sounds import encode_wav


class DocumentWriter:
    """A manifest and a zip of its files that appear together when the writer is closed, or not at all after an error.

    The parent of CaptionWriter and DialogueWriter; use those as context managers. Without files there is no zip.

    Args:
        path: a folder, or the manifest itself, a .jsonl file.
    """

    manifest_name = ""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path) if Path(path).suffix == ".jsonl" else Path(path) / self.manifest_name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path.parent)
        finish_publishing(self.path)
        self._zip_path = self.path.with_suffix(".zip")
        self._temporary = temporary_name(self._zip_path), temporary_name(self.path)
        self._zip = zipfile.ZipFile(self._temporary[0], "w", zipfile.ZIP_STORED)   # PNG is compressed already
        self._lines = open(self._temporary[1], "wb")   # noqa: SIM115 - closed in __exit__
        self._digests: dict[str, str] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def _append(self, line: dict[str, Any], files: Mapping[str, bytes]) -> None:
        try:
            data = json.dumps(line, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(f"document {self._count} is not plain JSON: {error}") from error
        digests = {name: hashlib.sha256(file).hexdigest() for name, file in files.items()}
        for name in files:
            if self._digests.get(name, digests[name]) != digests[name]:
                raise ValueError(f"two different files are called {name!r}; give each a name of its own")
        try:
            for name in files:
                if name not in self._digests:   # ZipInfo holds no time of day, so equal data gives equal bytes
                    self._zip.writestr(zipfile.ZipInfo(name), files[name])
            self._lines.write(data + b"\n")
        except OSError as error:
            raise write_error(self.path, error) from error
        self._digests |= digests
        self._count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._zip.close()
            self._lines.close()
            if kind is None:
                files = {self._temporary[0]: self._zip_path} if self._digests else {}
                with uninterrupted():
                    publish_together({**files, self._temporary[1]: self.path}, self.path,
                                     gone=() if self._digests else (self._zip_path,))
        except OSError as failure:
            raise write_error(self.path, failure) from failure
        finally:
            for temporary in self._temporary:
                temporary.unlink(missing_ok=True)


class CaptionWriter(DocumentWriter):
    """Write captions.jsonl and captions.zip into a folder; a pair that is there is replaced."""

    manifest_name = "captions.jsonl"

    def append(self, image: np.ndarray, captions: str | Sequence[str], *, name: str | None = None,
               **extra: Any) -> None:
        """Add one image, uint8 (height, width, 3), with its captions and whatever else shall stand in the line.

        Raises:
            ValueError: no caption, not an image, a name used for another image.
            OSError: the disk is full.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        if not captions:
            raise ValueError("an image needs at least one caption")
        for caption in captions:
            require_text(caption, "caption")
        name = f"{self._count:06d}.png" if name is None else name
        self._append({"image": name, "captions": captions, **extra}, {name: encode_file(image)})


class DialogueWriter(DocumentWriter):
    """Write dialogues.jsonl and dialogues.zip into a folder; a pair that is there is replaced."""

    manifest_name = "dialogues.jsonl"

    def append(self, messages: Sequence[Mapping[str, Any]], images: Mapping[str, np.ndarray] | None = None,
               sounds: Mapping[str, np.ndarray] | None = None, **extra: Any) -> None:
        """Add one dialogue.

        Several dialogues may show the same image or play the same sound under the same name; it is stored once.

        Args:
            images: uint8 (height, width, 3) under each name that the messages show.
            sounds: float (samples,) in [-1, 1] at SOUND_RATE under each name that they play.
        Raises:
            ValueError: malformed messages, an image or sound that is missing or not shown, a name used for another one.
            OSError: the disk is full.
        """
        shown = check_messages([dict(message) for message in messages])
        for what, names, given in (("images", shown.images, images or {}), ("sounds", shown.sounds, sounds or {})):
            if set(names) != set(given):
                raise ValueError(f"the messages show {sorted(set(names))} but the {what} given are {sorted(given)}")
        files = {name: encode_file(pixels) for name, pixels in (images or {}).items()}
        files |= {name: encode_wav(samples, SOUND_RATE) for name, samples in (sounds or {}).items()}
        self._append({"messages": list(messages), **extra}, files)
