"""Three objectives in one run, on the documentation that every Python carries.

./launch/local.sh train configs/quickstart.py

Hardware: a laptop without a network; 2 CPU cores.
Measured there: 244 s and 1.1 GB; held-out loss as a share of the unigram baseline's: causal 0.68, masked 0.77 and
prefix (span corruption) 0.73.
"""

from research.config import (
    MLP,
    Attention,
    Causal,
    Checkpoint,
    Data,
    Evaluation,
    Experiment,
    Masked,
    Model,
    Optimizer,
    Schedule,
    SpanCorruption,
)


def get_config() -> Experiment:
    return Experiment(
        model=Model(width=192, depth=4, unroll=4, attention=Attention(heads=6), mlp=MLP(width=512)),
        objectives=(
            Causal(rate=0.4),
            Masked(rate=0.35, mask_rate=0.3),
            SpanCorruption(rate=0.25, name="prefix"),
        ),
        data=Data(source="python-docs", held_out=0.05, tokenizer="train:2048", length=128, batch=16),
        optimizer=Optimizer(name="muon", learning_rate=5e-3),
        schedule=Schedule(steps=300, name="linear", warmup=20, final=0.0),
        checkpoint=Checkpoint(every=100),
        evaluation=Evaluation(every=100, batches=4),
    )
