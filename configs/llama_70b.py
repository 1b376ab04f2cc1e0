"""The shape of Llama 3.1 70B, trained from scratch on 1.4 trillion tokens, 20 for each parameter.

./launch/local.sh plan configs/llama_70b.py --topology v5p:8x8x8
./launch/tpu_pod.sh --name NAME --zone ZONE --bucket BUCKET --type v5p-1024 train configs/llama_70b.py \
    --workdir /bucket/RUN --data.source 'jsonl:/bucket/corpus/*.jsonl#text' --data.tokenizer /bucket/tokenizer

Hardware: 512 chips of a TPU v5p; `docs/scale.md` has what others need and how fast they are predicted to be.
Predicted by the first command, not measured: 14.4 s a step, 291,506 tokens/s, MFU 55.7 %, 1,335 hours (683,480
chip-hours) and 56.3 GiB of a chip's 95.7. The loss is not measured yet.
The tokenizer that the config names is given to those who accept its licence on the Hugging Face hub and set HF_TOKEN;
a folder with its files, as above, needs neither.
"""

from dataclasses import replace

from research.config import Causal, Data, Evaluation, Experiment, Mesh, Optimizer, Schedule, Step
from research.models import families


def get_config() -> Experiment:
    return Experiment(
        model=replace(families.llama("70b"), remat="attention_mlp"),
        objectives=(Causal(),),
        data=Data(
            source="jsonl:corpus/*.jsonl#text",
            held_out=0.0001,
            tokenizer="meta-llama/Llama-3.1-70B",
            length=4096,
            batch=1024,
            workers=4,
        ),
        optimizer=Optimizer(learning_rate=1.5e-4),
        schedule=Schedule(steps=334_000, warmup=2000),
        mesh=Mesh(data=-1, fsdp=64),
        step=Step(accumulation=2, compute_dtype="bfloat16"),
        evaluation=Evaluation(every=1000, batches=4),
    )
