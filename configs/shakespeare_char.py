"""nanoGPT's laptop run: a GPT-2 of 0.8 M parameters on the characters of Shakespeare.

./launch/local.sh train configs/shakespeare_char.py --data.source text:PATH/tinyshakespeare.txt

The text is the one of 1,115,394 characters that nanoGPT trains on (data/tinyshakespeare/input.txt of Karpathy's
char-rnn). Hardware: a laptop; minutes on 2 CPU cores.
Expected: a held-out loss of at most 1.91 nats a character, over the whole last tenth of the text. nanoGPT itself
reaches 1.908 with this setting (its README says 1.88). Measured here: 1.894, in 6 minutes on 2 busy cores.
"""

from research.config import (
    MLP,
    Attention,
    Causal,
    Data,
    Evaluation,
    Experiment,
    Model,
    Norm,
    Optimizer,
    Positions,
    Schedule,
)


def get_config() -> Experiment:
    return Experiment(
        model=Model(
            width=128,
            depth=4,
            unroll=4,
            attention=Attention(heads=4),
            positions=Positions(kind="learned"),
            norm=Norm(kind="layernorm", epsilon=1e-5),
            mlp=MLP(activation="gelu", gated=False),
        ),
        objectives=(Causal(),),
        data=Data(source="text:tinyshakespeare.txt", held_out=0.1, tokenizer="characters", length=64, batch=12),
        optimizer=Optimizer(learning_rate=1e-3, b2=0.99),
        schedule=Schedule(steps=2000, warmup=100),
        evaluation=Evaluation(every=250, batches=20),
    )
