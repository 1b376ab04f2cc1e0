"""Folders from the Hugging Face hub: out of its cache on this machine, or downloaded into that."""

from collections.abc import Sequence
from pathlib import Path

from research.errors import InputError

SECONDS = 5  # within which the hub has to answer


def folder(name: str, files: Sequence[str], needed: Sequence[str], revision: str | None = None) -> Path:
    """The folder of a repository.

    Args:
      name: as "google/t5-v1_1-small".
      files: patterns of what is downloaded.
      needed: patterns of which each must match a file, for what is in the cache to be taken as it is.
      revision: a branch, a tag or a commit; None: the main branch.

    Raises:
      InputError: if it is neither in the cache nor on the hub, or if the hub does not answer.
    """
    import huggingface_hub  # takes a second to import

    def look(offline: bool) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(files), local_files_only=offline
            )
        )

    try:
        cached = look(offline=True)
        if all(any(cached.glob(pattern)) for pattern in needed):
            return cached
    except (huggingface_hub.errors.LocalEntryNotFoundError, ValueError):
        pass
    try:
        # first this: a download would wait for an answer without end
        huggingface_hub.HfApi().repo_info(name, revision=revision, timeout=SECONDS)
        return look(offline=False)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        name = f"{name}@{revision}" if revision else name
        gated = isinstance(error, huggingface_hub.errors.GatedRepoError) or " 401 " in reason or " 403 " in reason
        licence = "accept its licence on its page there and set HF_TOKEN, or " if gated else ""
        raise InputError(
            f"{name!r} is no folder here, and the Hugging Face hub did not give it: {reason}; {licence}name a folder "
            "with its files instead"
        ) from error


def cached() -> Path:
    """Where repositories from the hub are kept."""
    import huggingface_hub

    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def revisions(name: str) -> list[str]:
    """The branches and tags of a repository on the hub, but its main branch; none if the hub does not answer."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().repo_info(name, timeout=SECONDS)
        refs = huggingface_hub.HfApi().list_repo_refs(name)
    except Exception:
        return []
    return [ref.name for ref in (*refs.branches, *refs.tags) if ref.name != "main"]
