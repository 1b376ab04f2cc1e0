"""`finetune.py` with the embeddings and all attention as they were: only MLPs and norms are trained.

./launch/fetch_smollm2.sh
./launch/local.sh train configs/finetune_frozen.py --data.source 'text:books/*.txt'

Hardware: one NVIDIA GPU. Expected: not measured yet.
`frozen` holds patterns of the names of parameters; one that matches nothing is told, with the nearest names.
"""

from dataclasses import replace

import finetune

from research.config import Experiment


def get_config() -> Experiment:
    return replace(finetune.get_config(), frozen=("embedding", "decoder/layers/attention/*"))
