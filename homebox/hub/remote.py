"""A repository on a hub: which files it has, with their sizes and hashes.

Protocol: https://huggingface.co/docs/hub/api, spoken by huggingface_hub.
The one idea: names, sizes and hashes come from the commit's listing, so that every byte that is
downloaded later can be compared with it. Invariant: a file in a listing has a plain name, one that
is downloaded a size and a hash; the token is in no message.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Read when huggingface_hub is imported: nobody is told what this box does.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import httpx2
import huggingface_hub
from huggingface_hub import errors as hub_errors

from homebox.errors import ModelNotFoundError, PullError, UsageError
from homebox.hub.guard import client

ENDPOINT = "https://huggingface.co"
_REPO = re.compile(r"[A-Za-z0-9_][\w.\-]{0,95}(/[A-Za-z0-9_][\w.\-]{0,95})?", re.ASCII)
_REVISION = re.compile(r"[\w][\w./\-]{0,200}", re.ASCII)
_ENDPOINT = re.compile(r"https?://([\w.\-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/[\w.\-/]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 10_000
_SECONDS = 20.0  # that a hub may take to answer


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit; `digest` is a sha256 (64 digits), or git's hash of a blob (40)."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Repository:
    """A commit of a repository."""

    repo: str
    commit: str
    files: dict[str, tuple[int | None, str]]  # name -> size and hash, as far as they were listed


class Hub:
    """A hub under its address; `token` is None where none is to be sent."""

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        if not _ENDPOINT.fullmatch(self.endpoint):
            raise UsageError(
                "HF_ENDPOINT is no address of a hub such as https://huggingface.co (a name and a "
                "password do not belong into it)"
            )
        self._token = token if token is not None else huggingface_hub.get_token()
        huggingface_hub.set_client_factory(lambda: client(self.endpoint))
        self._api = huggingface_hub.HfApi(
            endpoint=self.endpoint, token=self._token or False, user_agent={"homebox": "pull"}
        )

    def repository(self, repo: str, revision: str) -> Repository:
        """List a commit's files; raises ModelNotFoundError, PullError and UsageError."""
        if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
            raise UsageError(f"{repo[:200]!a} is no name of a repository, such as Qwen/Qwen3-0.6B")
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise UsageError(f"{revision[:200]!a} is no revision: a branch, a tag, or a commit")
        with self.explained(repo, revision):
            try:
                info = self._api.model_info(
                    repo, revision=revision, files_metadata=True, timeout=_SECONDS
                )
                return Repository(repo, _commit(info.sha), _listed(info.siblings or []))
            except (TypeError, LookupError, AttributeError, ValueError, RecursionError) as error:
                if isinstance(error, OSError):
                    raise
                raise PullError(
                    f"{self.endpoint} answered with something that is no list of files "
                    f"({type(error).__name__}); is it a hub?"
                ) from error

    def file(self, repository: Repository, name: str) -> RemoteFile:
        """Return a file with its size and hash, which some mirrors tell file by file only."""
        size, digest = repository.files[name]
        if size is None or not digest:
            with self.explained(repository.repo, repository.commit):
                found = huggingface_hub.get_hf_file_metadata(
                    self.address(repository, name),
                    token=self._token or False,
                    timeout=_SECONDS,
                    endpoint=self.endpoint,
                )
            size, digest = found.size, str(found.etag or "")
        known = _SHA256.fullmatch(digest) or _COMMIT.fullmatch(digest)
        if size is None or size < 0 or not known:
            raise PullError(
                f"{self.endpoint} says no hash for {name} of {repository.repo}, so that nobody "
                "could tell whether it arrives whole; use another hub"
            )
        return RemoteFile(name, size, digest)

    def address(self, repository: Repository, name: str) -> str:
        """Return where a file of a commit is downloaded from."""
        return huggingface_hub.hf_hub_url(
            repository.repo, name, revision=repository.commit, endpoint=self.endpoint
        )

    @property
    def headers(self) -> dict[str, str]:
        """What a download sends; the guard takes the token out for other hosts."""
        secret = {"authorization": f"Bearer {self._token}"} if self._token else {}
        # Compressed answers cannot be continued in the middle.
        return {"user-agent": "homebox", "accept-encoding": "identity", **secret}

    @contextlib.contextmanager
    def explained(self, repo: str, revision: str) -> Iterator[None]:
        """Turn the errors of a hub and of the network into ours, for people."""
        where = f"{self.endpoint}/{repo}"
        try:
            yield
        except hub_errors.GatedRepoError as error:
            raise PullError(
                f"{repo} needs its licence to be accepted: open {where} in a browser, agree, make "
                "a token there, and give it as HF_TOKEN"
            ) from error
        except hub_errors.RevisionNotFoundError as error:
            raise ModelNotFoundError(f"{repo} has no revision {revision}; see {where}") from error
        except hub_errors.EntryNotFoundError as error:
            raise PullError(
                f"{repo} at {revision} lacks a file that it lists; see {where}"
            ) from error
        except hub_errors.RepositoryNotFoundError as error:
            raise self._unknown(repo) from error
        except hub_errors.HfHubHTTPError as error:
            raise self._refused(repo, error.response.status_code) from error
        except (httpx2.HTTPError, hub_errors.OfflineModeIsEnabled) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise PullError(
                f"cannot reach {self.endpoint}: {reason}; check the network, or look what is here "
                'with "homebox models list"'
            ) from error

    def _unknown(self, repo: str) -> ModelNotFoundError:
        help_with = "" if self._token else "; if it is private, give a token as HF_TOKEN"
        return ModelNotFoundError(f"{self.endpoint} has no model {repo}{help_with}")

    def _refused(self, repo: str, status: int) -> Exception:
        if status == 404 or (status == 401 and not self._token):
            return self._unknown(repo)
        reasons = {
            401: "does not take the token in HF_TOKEN; make a new one, or unset it",
            403: f"does not let you have {repo}; give a token that may, as HF_TOKEN",
            429: "says that there were too many requests; try again in some minutes",
        }
        broken = f"is in trouble (status {status}); try again later"
        other = f"refused {repo} (status {status})"
        reason = reasons.get(status) or (broken if status >= 500 else other)
        return PullError(f"{self.endpoint} {reason}")


def plain(name: str) -> bool:
    """Whether a file's name can only be a place inside of its repository."""
    parts = name.split("/")
    good = name.isprintable() and "\\" not in name and ":" not in parts[0]
    return good and all(part not in ("", ".", "..") for part in parts)


def _commit(sha: Any) -> str:
    if not isinstance(sha, str) or not _COMMIT.fullmatch(sha):
        raise ValueError("no commit")
    return sha


def _listed(siblings: list[Any]) -> dict[str, tuple[int | None, str]]:
    """Check a listing; one name that leads out of a repository makes all of it suspect."""
    if len(siblings) > _MOST_FILES:
        raise PullError(f"the repository has more than {_MOST_FILES} files; that is no model")
    files: dict[str, tuple[int | None, str]] = {}
    for sibling in siblings:
        name = sibling.rfilename
        if not isinstance(name, str) or not plain(name):
            raise PullError(
                f"the repository lists a file {str(name)[:100]!a}, which leads out of its folder; "
                "nothing is taken from there"
            )
        digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
        size = sibling.lfs.size if sibling.lfs is not None else sibling.size
        if size is not None and not isinstance(size, int):
            raise ValueError("size")
        files[name] = (size, digest if isinstance(digest, str) else "")
    return files
