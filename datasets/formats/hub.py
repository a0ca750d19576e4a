"""The Hugging Face Hub: which names are its own, repositories as folders on this disk, folders as repositories.

    local("runs/demo")                     a path as it is, where there is one
    local("ada/cartpole@v1", "dataset")    downloaded into Hugging Face's cache, at that revision; the next time only looked up

What was downloaded is compared with the hashes that the Hub names its files by, and counts only once every file is there. A
download that was interrupted begins again with the files that are missing, and so does an upload. Without a network, what was
downloaded whole before is used.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from ..publish import replace_file

Kind = Literal["model", "dataset"]
HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")    # owner/name[@revision]
DATA_PICKLES = tuple(f"*{suffix}" for suffix in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"))
WHOLE = ".calico"        # in a repository's cache: names of the commits that were downloaded whole, and are what the Hub has
BLOCK = 1 << 20
TRIES = 3                # of a download whose connection ends in the middle


class HubError(ValueError):
    """The Hub cannot be reached, refuses, or gives something else than it has; the message says what to do."""


def hub_name(which: str | Path) -> tuple[str, str | None] | None:
    """(owner/name, revision) of a name that is no folder here and not in one; None: it is no such name."""
    found = HUB.fullmatch(str(which))
    if found is None or found[1].startswith(".") or Path(which).exists() or Path(found[1]).parent.is_dir():
        return None
    return found[1], found[2]


def local(which: str | Path, kind: Kind = "dataset") -> Path:
    """A path as it is, or the folder of a repository of the Hub where no file or folder has that name.

    Raises:
        HubError: see `hub_folder`.
    """
    name = hub_name(which)
    if name is None:
        return Path(which)
    try:
        return hub_folder(*name, kind=kind)
    except HubError as error:
        raise HubError(f"{which} does not exist here; {error}") from None


def hub_folder(name: str, revision: str | None = None, *, kind: Kind = "model",
               without: Sequence[str] = DATA_PICKLES) -> Path:
    """A repository as a folder of Hugging Face's cache.

    Args:
        revision: a branch, a tag or a commit; None: the newest.
        without: patterns of files that are left out.
    Raises:
        HubError: it does not exist, is not for you, or did not arrive as it is there.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    no_network: tuple[type[Exception], ...] = (OfflineModeIsEnabled, ConnectionError, *_unreachable())
    with hub_errors(name, kind, revision):
        try:
            about = HfApi().repo_info(name, repo_type=kind, revision=revision)
        except no_network:
            if (found := _downloaded_before(name, revision, kind)) is not None:
                return found
            raise
        siblings = getattr(about, "siblings", None) or ()
        wanted = [file.rfilename for file in siblings if not any(fnmatch(file.rfilename, each) for each in without)]
        folder = again_where_cut(lambda: Path(snapshot_download(name, repo_type=kind, revision=about.sha,
                                                                allow_patterns=wanted or ["-"])))
        _remember(folder, revision)
    if (mark := _mark(folder)).exists():
        return folder
    if missing := [file for file in wanted if not (folder / file).is_file()]:
        raise HubError(f"Hugging Face Hub, {name!r}: {missing[0]} did not arrive; run the same command again")
    for file in wanted:
        _check(folder / file, name)
    mark.parent.mkdir(exist_ok=True)
    replace_file(mark, "")
    return folder


def again_where_cut(download: Callable[[], Path]) -> Path:
    """Try again where a connection ends in the middle; files that are whole are not fetched again."""
    for _ in range(TRIES - 1):
        with suppress(*_unreachable()):
            return download()
    return download()


def _mark(folder: Path) -> Path:
    return folder.parent.parent / WHOLE / folder.name


def _remember(folder: Path, revision: str | None) -> None:
    """Which commit a branch was at, where Hugging Face's own functions look for it without a network."""
    if revision != folder.name:
        reference = folder.parent.parent / "refs" / (revision or "main")
        reference.parent.mkdir(parents=True, exist_ok=True)
        replace_file(reference, folder.name)


def _downloaded_before(name: str, revision: str | None, kind: Kind) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    if not _mark(folder).exists():
        raise HubError(f"Hugging Face Hub, {name!r}: only a part was downloaded, and the Hub cannot be reached now; run the "
                       "same command again with a network")
    return folder


def _check(file: Path, name: str) -> None:
    """Compare a file with its hash, which is what the cache calls it: SHA-256, or git's own for small files."""
    blob = file.resolve()
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return                                   # of a system without links, where the cache holds plain files
    digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(f"blob {blob.stat().st_size}\0".encode())
    with blob.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != blob.name:
        blob.unlink()
        if file.is_symlink():
            file.unlink()
        raise HubError(f"Hugging Face Hub, {name!r}: {file.name} does not match its hash: it was changed or damaged on its "
                       "way; run the same command again, which downloads it anew")


def upload(folder: Path, name: str, *, kind: Kind, private: bool = False, message: str) -> str:
    """Make a folder's files those of a repository, which is made where it is not there; returns its address.

    Raises:
        HubError: it is not yours, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with hub_errors(name, kind, None, writes=True):
        api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, repo_type=kind, folder_path=folder, commit_message=message, delete_patterns="*")
    return f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"


def _unreachable() -> tuple[type[Exception], ...]:
    """What is raised where no connection comes about: httpx's errors up to huggingface_hub 1, httpx2's from 2 on."""
    from huggingface_hub.errors import HfHubHTTPError

    root: Any = HfHubHTTPError.__bases__[0]      # HTTPError, of which those of connections are kinds, too
    return tuple(each for each in root.__subclasses__() if each.__name__ == "RequestError")


@contextmanager
def hub_errors(name: str, kind: Kind, revision: str | None, writes: bool = False) -> Iterator[None]:
    """One sentence for what goes wrong between here and the Hub."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import disable_progress_bars

    http_error: Any = HfHubHTTPError.__bases__[0]
    if not os.isatty(2):
        disable_progress_bars()
    try:
        yield
    except HubError:
        raise
    except (http_error, HFValidationError, OSError, ValueError, RuntimeError) as error:
        raise HubError(f"Hugging Face Hub, {name!r}: {_reason(error, kind, revision, writes)}") from None


def _reason(error: BaseException, kind: Kind, revision: str | None, writes: bool) -> str:
    what = "data set" if kind == "dataset" else "model"
    login = f"run `hf auth login`, or set HF_TOKEN to a token that may {'write' if writes else 'read'} there"
    causes = [error, error.__cause__, error.__context__]
    status = next((code for cause in causes if (code := getattr(getattr(cause, "response", None), "status_code", None))), None)
    name = next((type(cause).__name__ for cause in causes if type(cause).__name__ in KNOWN), "")
    if name == "RevisionNotFoundError":
        return f"the {what} has no revision {revision!r}; give one of its branches, tags or commits"
    if status == 401 or status == 403:
        return f"it says {status}: the {what} does not exist, or is not yours to {'change' if writes else 'read'}; {login}"
    if status == 404:
        return f"there is no such {what}" + (", or a file of it is missing" if name != "RepositoryNotFoundError" else "") \
            + f"; check the name, and if it is private, {login}"
    if status == 429:
        return "it says 429, too many requests; wait some minutes and run the same command again, which goes on from there"
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "onsistency check failed" in said or name in ("IncompleteDownload", "RemoteProtocolError"):
        return f"only a part of a file arrived ({said[:200]}); run the same command again"
    return f"{said[:300]}; check the name, the network and `hf auth login`"


KNOWN = frozenset({"RevisionNotFoundError", "RepositoryNotFoundError", "IncompleteDownload", "RemoteProtocolError"})
