"""Causal, masked and prefix language models with one sharded training step."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from research.inference.language_model import LanguageModel


def load(path: str) -> "LanguageModel":
    """Loads a run folder (RUN@STEP: a step that is not the last), a Hugging Face folder or hub name, or a GGUF file;
    see `research.runs.loading`."""
    from research.runs import loading  # only now, so that `import research` does not wait for JAX

    return loading.load(path)
