"""Checkpoints from Hugging Face's hub, kept in its own cache, where every other tool finds them.

Nothing is downloaded unless the user asks for it. Then only files that a checkpoint is made of are: never code, never
pickles. What was broken off goes on where it stopped, also in another run, and every file is compared with the hash
that the hub names for its commit before it gets its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifacts.files import rename, sync, write_atomically
from edgekit.artifacts.folders import locked
from edgekit.artifacts.licenses import AGREEMENTS
from edgekit.checkpoints.checkpoint import COMMIT, SOURCE_FILES
from edgekit.checkpoints.json_files import read_json
from edgekit.checkpoints.weight_files import ADAPTER, INDEX, SINGLE
from edgekit.errors import CheckpointError, HubError, MissingDependencyError, NoSpaceError
from edgekit.terminal import stripped_line

_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", re.ASCII)
_REVISION = re.compile(r"^(?!.*\.\.)[A-Za-z0-9][\w./-]*$", re.ASCII)
_WEIGHTS = re.compile(r"^model(-\d+-of-\d+)?\.safetensors$")


@dataclass(frozen=True)
class Terms:
    """What one accepts by downloading a model."""

    repository: str
    name: str
    url: str


@dataclass(frozen=True)
class _File:
    """One file of a commit; `digest` is SHA-256 for a large file, git's SHA-1 for a small one, as the hub has it."""

    name: str
    size: int
    digest: str


def is_id(name: str) -> bool:
    """Whether a text looks like `owner/name`."""
    return _ID.match(name) is not None


def cached(repository: str, revision: str | None = None, *, cache: Path | None = None) -> Path:
    """A model's folder in the local cache; the network is not asked.

    Raises:
        HubError: it is not there, or not completely.
    """
    hub = library()
    remedy = f"add --download to fetch {repository} from the hub"
    asked = _revision(revision)
    with explained(repository):
        try:
            snapshot = hub.snapshot_download(
                repository, revision=asked, cache_dir=cache, local_files_only=True, allow_patterns=[]
            )
        except hub.errors.LocalEntryNotFoundError as error:
            raise HubError(f"{repository}, {asked}: neither a folder nor in the local cache", remedy=remedy) from error
    folder = Path(snapshot)
    if missing := _missing(folder):
        raise HubError(f"{folder}: {missing} is missing: the download is not complete", remedy=remedy)
    return folder


def fetch(
    repository: str,
    revision: str | None = None,
    *,
    accept: Callable[[Terms], bool],
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Download a model, or what is missing of it, and return its folder in the cache.

    Args:
        revision: a branch, a tag or a commit; `main` for None.
        accept: asked before anything is downloaded of a model that has terms of use.
        endpoint: the hub's address; what huggingface_hub is set to for None.
        cache: the cache's folder, likewise.

    Raises:
        HubError: offline mode is on, terms were not accepted, the hub refuses or cannot be reached, or a file is not
            what the hub says it is. The message says what to do.
        ArtifactError: another command is downloading it, or the disk is too small.
    """
    hub = library()
    if hub.is_offline_mode():
        raise HubError(f"{repository}: HF_HUB_OFFLINE is set, so nothing is downloaded", remedy="unset HF_HUB_OFFLINE")
    asked = _revision(revision)
    with explained(repository):
        api = hub.HfApi(endpoint=endpoint)
        info = api.model_info(repository, revision=asked, files_metadata=True)
        if not COMMIT.match(info.sha or ""):
            raise HubError(f"{repository}: the hub names no commit: {info.sha!r}")
        files = _wanted(repository, info.siblings or [])
        terms = _terms(repository, info, api.endpoint)
        if terms and not accept(terms):
            raise HubError(
                f"{repository}: its terms were not accepted: {terms.name}, {terms.url}",
                remedy="read them, and add --accept-terms if you accept",
            )
        storage = _download(hub, repository, str(info.sha), files, api.endpoint, cache)
    branch = storage / "refs" / asked
    if asked != info.sha:  # so that the cache answers for the branch, too
        branch.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(branch, str(info.sha))
    return storage / "snapshots" / str(info.sha)


def go_offline() -> None:
    """Keep every library in this process from the network from now on."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    library().constants.HF_HUB_OFFLINE = True  # read from the environment when the library was imported


def library() -> Any:
    """The library huggingface_hub with the parts that are used; raises MissingDependencyError without it."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise MissingDependencyError(
            "models of the hub need huggingface_hub", remedy="pip install 'edgekit[export]'"
        ) from error
    if huggingface_hub.constants.HF_HUB_CACHE.startswith("~"):
        raise HubError("this user has no home folder for models of the hub", remedy="set HF_HOME to a folder")
    return huggingface_hub


def _revision(revision: str | None) -> str:
    asked = revision or "main"
    if not _REVISION.match(asked):
        raise HubError(f"revision {asked!r}", allowed="a branch, a tag or a commit")
    return asked


def _wanted(repository: str, siblings: Sequence[Any]) -> list[_File]:
    """The files that a checkpoint is made of, small ones first."""
    names = {sibling.rfilename for sibling in siblings}
    weights = any(_WEIGHTS.match(name) for name in names)
    if ADAPTER in names:  # transformers would load it too, where peft is installed
        what = "a model and an adapter beside it" if weights else "an adapter, not a model"
        raise HubError(f"{repository}: {what}", allowed="safetensors of a whole model")
    if not weights:
        raise HubError(f"{repository}: no {SINGLE}", allowed="safetensors of a whole model")
    files = []
    for sibling in siblings:
        if sibling.rfilename in (*SOURCE_FILES, INDEX) or _WEIGHTS.match(sibling.rfilename):
            digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
            if sibling.size is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest or ""):
                raise HubError(f"{repository}: the hub names no size or hash of {sibling.rfilename}")
            files.append(_File(sibling.rfilename, sibling.size, digest))
    return sorted(files, key=lambda file: (file.size, file.name))


def _missing(folder: Path) -> str | None:
    """The name of a file that a checkpoint's folder should have."""
    shards = [SINGLE]
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        shards = [str(name) for name in weight_map.values()] if isinstance(weight_map, dict) else []
    return next((name for name in ("config.json", *shards) if not (folder / name).is_file()), None)


def _terms(repository: str, info: Any, endpoint: str) -> Terms | None:
    """What the model card names, and for a gated model at least its page."""
    card = info.card_data
    license_, name, link = (getattr(card, key, None) for key in ("license", "license_name", "license_link"))
    for agreement in AGREEMENTS:
        if agreement.id in (name, license_):
            return Terms(repository, agreement.title, agreement.url)
    if not info.gated:
        return None
    page = f"{endpoint}/{repository}"
    url = link if isinstance(link, str) and link.startswith("https://") else page
    return Terms(repository, stripped_line(name or license_ or "terms on the model's page"), stripped_line(url))


def _check_space(storage: Path, files: Sequence[_File]) -> None:
    need = sum(file.size for file in files if not (storage / "blobs" / file.digest).is_file())
    free = shutil.disk_usage(storage).free
    if need > free:
        raise NoSpaceError(
            f"{storage}: {need / 1e9:.1f} GB are to be downloaded, {free / 1e9:.1f} GB are free",
            remedy="make room, or set HF_HOME to a folder on another disk",
        )


def _download(
    hub: Any, repository: str, commit: str, files: Sequence[_File], endpoint: str, cache: Path | None
) -> Path:
    """Fetch what the cache lacks of a commit's files; returns the model's folder in the cache."""
    name = str(hub.file_download.repo_folder_name(repo_id=repository, repo_type="model"))
    storage = Path(cache or hub.constants.HF_HUB_CACHE) / name
    with locked(storage):
        _check_space(storage, files)
        for file in files:
            _fetch_blob(hub, repository, commit, file, storage / "blobs" / file.digest, endpoint)
    for file in files:
        _link(hub, repository, commit, file, storage / "blobs" / file.digest, endpoint, cache)
    return storage


def _fetch_blob(hub: Any, repository: str, commit: str, file: _File, blob: Path, endpoint: str) -> None:
    """Put a file's content where the cache keeps it, continuing what an earlier run left.

    huggingface_hub itself goes on after a broken connection only within one call.
    """
    if not blob.is_file():
        blob.parent.mkdir(parents=True, exist_ok=True)
        partial = blob.with_name(f"{blob.name}.edgekit")
        with partial.open("ab") as stream:
            there = stream.tell() if stream.tell() <= file.size else 0
            stream.truncate(there)
            hub.file_download.http_get(
                hub.hf_hub_url(repository, file.name, revision=commit, endpoint=endpoint),
                stream,
                resume_size=there,
                headers=hub.utils.build_hf_headers(),
                expected_size=file.size,
                displayed_filename=file.name,
            )
        _verify(partial, file)
        sync(partial)
        rename(partial, blob)
    else:
        _verify(blob, file)


def _link(hub: Any, repository: str, commit: str, file: _File, blob: Path, endpoint: str, cache: Path | None) -> None:
    """Give a blob its name in the snapshot, as huggingface_hub does it on this system."""
    named = Path(hub.hf_hub_download(repository, file.name, revision=commit, cache_dir=cache, endpoint=endpoint))
    if named.resolve() != blob.resolve():  # no links here, or the file's own address states another hash
        _verify(named, file)


def _verify(path: Path, file: _File) -> None:
    """Compare with the hub's hash. Raises HubError, the file removed, where it differs."""
    git = len(file.digest) == 40
    digest = hashlib.sha1(usedforsecurity=False) if git else hashlib.sha256()
    if git:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        hashlib.file_digest(stream, lambda: digest)
    if digest.hexdigest() != file.digest:
        path.unlink()
        raise HubError(
            f"{file.name}: what was downloaded has the hash {digest.hexdigest()[:16]}..., "
            f"the hub names {file.digest[:16]}...; it was removed",
            remedy="run the same command again",
        )


@contextmanager
def explained(repository: str) -> Iterator[None]:
    """huggingface_hub's errors, each with what to do about it."""
    errors = library().errors
    again = "run the same command again: what is complete stays, and what broke off goes on"
    try:
        yield
    except (HubError, CheckpointError):
        raise
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repository}: no such revision", allowed="a branch, a tag or a commit") from error
    except errors.HfHubHTTPError as error:
        raise _refused(repository, error) from error
    except errors.HTTPError as error:  # the transport's: no connection, or a broken one
        raise HubError(f"{repository}: the connection failed: {error}", remedy=again) from error
    except errors.HFValidationError as error:
        raise HubError(f"{repository}: {error}", allowed="owner/name") from error
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):  # a full disk, say
            raise
        raise HubError(f"{repository}: the download failed: {error}", remedy=again) from error


def _refused(repository: str, error: Any) -> HubError:
    """What the hub's answer means."""
    status, page = error.response.status_code, f"https://huggingface.co/{repository}"
    if status == 401:
        return HubError(
            f"{repository}: the hub asks who you are: a gated or private model, or none of this name (401)",
            remedy=f"hf auth login, or set HF_TOKEN, with an account that accepted the terms at {page}",
        )
    if status == 403:
        return HubError(
            f"{repository}: your account has no access yet (403)",
            remedy=f"accept the terms at {page}; a token must be allowed to read gated models",
        )
    if status == 404:
        return HubError(f"{repository}: no such model, or a file of it is gone (404)", allowed="owner/name on the hub")
    return HubError(f"{repository}: the hub answered {status}", remedy="run the same command again, later")
