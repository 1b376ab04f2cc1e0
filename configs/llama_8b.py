"""The shape of Llama 3.1 8B, trained from scratch on 160 billion tokens, 20 for each parameter.

./launch/local.sh plan configs/llama_8b.py --topology v5p:4x4x4
./launch/tpu_pod.sh --name NAME --zone ZONE --bucket BUCKET --type v5p-128 train configs/llama_8b.py \
    --workdir /bucket/RUN --data.source 'jsonl:/bucket/corpus/*.jsonl#text' --data.tokenizer /bucket/tokenizer

Hardware: 64 chips of a TPU v5p; `docs/scale.md` has what others need and how fast they are predicted to be.
Predicted by the first command, not measured: 5.80 s a step, 361,340 tokens/s, MFU 63.3 %, 122 hours (7,842
chip-hours) and 29.7 GiB of a chip's 95.7. The loss is not measured yet.
The tokenizer that the config names is given to those who accept its licence on the Hugging Face hub and set HF_TOKEN;
a folder with its files, as above, needs neither.
"""

from dataclasses import replace

from research.config import Causal, Data, Evaluation, Experiment, Mesh, Optimizer, Schedule, Step
from research.models import families


def get_config() -> Experiment:
    return Experiment(
        model=replace(families.llama("8b"), remat="dots"),
        objectives=(Causal(),),
        data=Data(
            source="jsonl:corpus/*.jsonl#text",
            held_out=0.0005,
            tokenizer="meta-llama/Llama-3.1-8B",
            length=4096,
            batch=512,
            workers=4,
        ),
        optimizer=Optimizer(learning_rate=3e-4),
        schedule=Schedule(steps=76_000, warmup=2000),
        mesh=Mesh(data=-1, fsdp=16),
        step=Step(accumulation=8, compute_dtype="bfloat16"),
        evaluation=Evaluation(every=1000, batches=4),
    )
