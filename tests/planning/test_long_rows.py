"""No array of queries by keys in a training step that is compiled for TPUs, whatever the model, by its text."""

import importlib.util
import re
import subprocess
import sys

import pytest

from research.planning import chips, compiling

LENGTH = 2048
MODELS = {
    "decoder": "Model(vocabulary=256, width=128, depth=2, attention=Attention(heads=2, kv_heads=1))",
    "encoder": "Model(vocabulary=256, width=128, depth=2, attention=Attention(heads=2, window=300, global_every=2))",
    "encoder-decoder": "Model(vocabulary=256, width=128, depth=1, encoder_depth=1, attention=Attention(heads=2), "
    'positions=Positions(kind="relative"))',
}
OBJECTIVES = {"decoder": "Causal()", "encoder": "Masked()", "encoder-decoder": "SpanCorruption()"}
SCRIPT = """
from research.config import *
from research.config.model import *
from research.planning import chips, compiling
experiment = Experiment(
    model=resolve(replace(MODEL, remat="attention_mlp"), 256, LENGTH),
    objectives=(OBJECTIVE,),
    data=Data(length=LENGTH, batch=4),
    mesh=Mesh(data=1, fsdp=2, context=2),
    step=Step(compute_dtype="bfloat16"),
)
program, batch = compiling.step_and_batch(experiment, chips.topology("v5e:2x2", 1))
print(program.train_step.lower(program.state, batch).compile().as_text())
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: the extra tpu")
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_as_large_as_queries_by_keys(name):
    """Of a row that is split over two devices, whose scores would be 1024 x 2048."""
    script = SCRIPT.replace("MODEL", MODELS[name]).replace("OBJECTIVE", OBJECTIVES[name])
    environment = compiling._environment(chips.topology("v5e:2x2", 1))
    command = [sys.executable, "-c", script.replace("LENGTH", str(LENGTH))]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert name == "encoder-decoder" or "splash_backward" in text
    shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"\b(?:bf16|f32|s32|pred)\[([\d,]+)\]", text)}
    assert any(LENGTH in shape for shape in shapes)
    assert not [shape for shape in shapes if sum(size >= LENGTH // 2 for size in shape) > 1]
