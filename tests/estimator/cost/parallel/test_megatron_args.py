"""Options of Megatron-LM as scripts and test suites write them: with variables, comments and YAML."""

from __future__ import annotations

import pytest

from joulecast.estimator.cost.parallel.megatron_args import UnsetError, is_megatron, of_text, of_yaml

SCRIPT = """
TP_SIZE=8
export PP="4"
MICRO=${MICRO:-2}
LAYERS=$LAYERS_OF_ALL
LAYERS_OF_ALL=48
TRAINING=(
    --tensor-model-parallel-size $TP_SIZE
    # --context-parallel-size 2
    --pipeline-model-parallel-size ${PP}   # --expert-model-parallel-size 8
    --micro-batch-size $MICRO
    --num-layers $LAYERS
    --seq-length ${1:-4096}
    --save $CHECKPOINTS
    "--fp8-format hybrid"
    --bf16
)
"""


def test_variables_are_replaced_and_comments_do_not_count():
    assert of_text(SCRIPT) == {
        "tensor-model-parallel-size": "8",
        "pipeline-model-parallel-size": "4",
        "micro-batch-size": "2",
        "num-layers": "48",
        "seq-length": "4096",
        "save": "$CHECKPOINTS",
        "fp8-format": "hybrid",
        "bf16": "",
    }


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("--micro-batch-size $MBS", "--micro-batch-size $MBS, and does not set MBS; write the value there"),
        ("MBS=$1\n--micro-batch-size ${MBS}", "--micro-batch-size ${MBS}, and does not set MBS; write the value there"),
        (
            "if x; then\n  MBS=1\nelse\n  MBS=4\nfi\n--micro-batch-size $MBS",
            "--micro-batch-size $MBS, and sets MBS to 1 and 4; write the value there",
        ),
        ("MBS=$MBS\n--micro-batch-size $MBS", "--micro-batch-size $MBS, which has no value of its own"),
    ],
)
def test_a_variable_without_one_value_is_an_error(script: str, message: str):
    with pytest.raises(UnsetError) as error:
        of_text(script)
    assert str(error.value).startswith(message)


def test_options_of_a_test_suite_in_yaml():
    text = "MODEL_ARGS:\n  --tensor-model-parallel-size: 2\n  --sequence-parallel: true\n  --fp16: false\n"
    assert of_text(text) == {"tensor-model-parallel-size": "2", "sequence-parallel": ""}
    assert is_megatron(text)


def test_options_of_its_own_yaml():
    document = {
        "model_parallel": {"tensor_model_parallel_size": 4, "sequence_parallel": True, "bf16": False},
        "micro_batch_size": 2,
        "save": None,
    }
    assert of_yaml(document) == {"tensor-model-parallel-size": "4", "sequence-parallel": "", "micro-batch-size": "2"}
    assert of_yaml({"micro_batch_size": 2, "optimizer": "adamw"}) == {}


def test_other_texts_are_not_megatron():
    assert not is_megatron("python train.py --batch-size 4 --lr 0.1")
