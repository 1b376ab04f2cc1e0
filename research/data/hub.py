"""Folders from the Hugging Face hub: out of its cache on this machine, or downloaded into that."""

from collections.abc import Sequence
from pathlib import Path

from research.errors import InputError

SECONDS = 5  # within which the hub has to answer


def folder(name: str, files: Sequence[str], needed: Sequence[str]) -> Path:
    """The folder of a repository.

    Args:
      name: as "google/t5-v1_1-small".
      files: patterns of what is downloaded.
      needed: patterns of which each must match a file, for what is in the cache to be taken as it is.

    Raises:
      InputError: if it is neither in the cache nor on the hub, or if the hub does not answer.
    """
    import huggingface_hub  # takes a second to import

    def look(offline: bool) -> Path:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files), local_files_only=offline))

    try:
        cached = look(offline=True)
        if all(any(cached.glob(pattern)) for pattern in needed):
            return cached
    except (huggingface_hub.errors.LocalEntryNotFoundError, ValueError):
        pass
    try:
        huggingface_hub.HfApi().repo_info(name, timeout=SECONDS)  # a download would wait for an answer without end
        return look(offline=False)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name!r} is no folder here, and the Hugging Face hub did not give it: {reason}") from error
