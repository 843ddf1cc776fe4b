"""tokensel as a model of lmms-eval, a public collection of benchmarks.

    python -m lmms_eval --model tokensel --model_args pretrained=tiny,method=fps,kept=64 --tasks pope --batch_size 8

lmms-eval finds it by the entry point `lmms_eval.models`. It is imported only when it asks for it.
"""

from typing import Any

#: Other names of the model. A task looks its own words up by the name that was asked for, under
#: `lmms_eval_specific_kwargs`; lmms-eval's tasks have none for these, and then use those for every model.
ALIASES = (
    "tokensel_llava",
    "tokensel_llava_next",
    "tokensel_llava_onevision",
    "tokensel_qwen2_5_vl",
    "tokensel_smolvlm",
)


def manifest() -> Any:
    """What lmms-eval registers: its ModelManifest, with the class's path. Loads neither torch nor the class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="tokensel", simple_class_path="tokensel.compat.lmms_eval.model.Tokensel", aliases=ALIASES
    )
