"""From a source string to batches: `open(experiment)`."""

from research.data.corpus import Corpus, open

__all__ = ["Corpus", "open"]
