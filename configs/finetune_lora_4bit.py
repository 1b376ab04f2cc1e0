"""`finetune_lora.py` beside a base of 4-bit integers, in blocks of 64 with a scale each (Dettmers et al. 2023).

./launch/fetch_smollm2.sh
./launch/local.sh train configs/finetune_lora_4bit.py --data.source 'text:books/*.txt'

Hardware: one NVIDIA GPU. Expected: not measured yet.
Kernels of the layers take a eighth of their memory; embeddings and norms stay float32. An export holds the base
as it was de-quantised.
"""

from dataclasses import replace

import finetune_lora

from research.config import Experiment


def get_config() -> Experiment:
    adapted = finetune_lora.get_config()
    return replace(adapted, model=replace(adapted.model, quantization_bits=4))
