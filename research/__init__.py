"""Causal, masked and prefix language models with one sharded training step."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from research import config
    from research.inference.language_model import LanguageModel
    from research.runs.loading import Dtype


def load(path: str, mesh: "config.Mesh | None" = None, dtype: "Dtype" = "float32") -> "LanguageModel":
    """Loads a run folder (RUN@STEP: a step that is not the last), a Hugging Face folder or hub name, or a GGUF file; on
    several devices where `mesh` says so (`config.Mesh(tensor=8)`). See `research.runs.loading`."""
    from research.runs import loading  # only now, so that `import research` does not wait for JAX

    return loading.load(path, mesh, dtype)
