"""From a source string to batches: `open_corpus(experiment)`."""

from research.data.corpus import Corpus, open_corpus

__all__ = ["Corpus", "open_corpus"]
