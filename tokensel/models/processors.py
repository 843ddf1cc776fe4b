"""Processors of all families, always with PIL, for videos too."""

import importlib
import inspect
from functools import cache
from typing import Any

from PIL import Image
from transformers import AutoProcessor

# Imported from its module: up to transformers 5.17 the top-level name requires torchvision, the class does not.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin

from tokensel.errors import TokenselError
from tokensel.models.checkpoint_files import naming
from tokensel.models.families import family_of, pixels_of
from tokensel.models.frame_processor import load_frame_processor


def load_processor(source: str, path: str, config: Any, hub: dict[str, Any]) -> Any:
    """The processor of a checkpoint. It pads prompts on the left and prepares pictures with PIL.

    Parameters:
        source: a folder or hub id
        path: the model's path as the user gave it, for messages
        hub: keyword arguments of every from_pretrained

    Raises TokenselError for a processor that has no chat template or needs a missing package, and for one that cannot
    prepare a prompt and a picture; it names the file.
    """
    with naming(path, source, "tokenizer_config.json", "processor_config.json"):
        processor = _load(source, path, config, hub)
    tokenizer = processor.tokenizer
    with naming(path, source, "chat_template.jinja"):
        text = {"type": "text", "text": "A"}
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}, text]}])
    with naming(path, source, "tokenizer_config.json"):
        tokenizer("A", padding=True, return_tensors="pt")
    with naming(path, source, "preprocessor_config.json", "processor_config.json"):
        images = family_of(config).for_processor([Image.new("RGB", (32, 32))])
        prepared = processor(images=images, text=[processor.image_token], return_tensors="pt")
        side = getattr(getattr(config, "vision_config", None), "image_size", None)
        shape = tuple(pixels_of(prepared).shape[-2:])
        if family_of(config).fixed_size and isinstance(side, int) and shape != (side, side):
            raise ValueError(f"it makes pictures of {shape} pixels; config.json has image_size={side}")
    return processor


def _load(source: str, path: str, config: Any, hub: dict[str, Any]) -> Any:
    kind = processor_class(family_of(config).processor_type or config.model_type)
    try:
        processor = (kind or AutoProcessor).from_pretrained(source, **hub)
    except ImportError as error:
        raise TokenselError(f"model.path={path}: its processor needs a package ({str(error).strip()})") from error
    if getattr(processor, "chat_template", None) is None:
        raise TokenselError(f"model.path={path}: has no chat_template.jinja; one is needed to build prompts")
    # AutoProcessor would pass `backend` on to the tokenizer, where it means something else.
    processor.image_processor = AutoImageProcessor.from_pretrained(source, backend="pil", **hub)
    if getattr(processor.image_processor, "do_pan_and_scan", False):
        processor.image_processor.do_pan_and_scan = False  # crops would be further pictures of the prompt
    if family_of(config).videos:
        processor.video_processor = load_frame_processor(
            source, family_of(config).processor_type or config.model_type, hub
        )
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    # Checkpoints saved before transformers 4.45 keep these values only in the model's config.
    if getattr(processor, "patch_size", 0) is None:
        processor.patch_size = config.vision_config.patch_size
        processor.num_additional_image_tokens = 1
    if getattr(processor, "vision_feature_select_strategy", "") is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    return processor


@cache
def processor_class(model_type: str) -> Any:
    """A family's processor class without its video part, which requires torchvision; None if it has no video part."""
    name = PROCESSOR_MAPPING_NAMES.get(model_type)
    try:
        module = importlib.import_module(f"transformers.models.{model_type}.processing_{model_type}")
        kind = getattr(module, str(name))
    except (ImportError, AttributeError):
        return None
    signature = inspect.signature(kind.__init__)
    if "video_processor" not in signature.parameters:
        return None

    class PicturesOnly(kind, _WithoutVideo):  # type: ignore[misc, valid-type]
        """The family's processor without its video part."""

        def __init__(self, image_processor: Any = None, tokenizer: Any = None, **options: Any) -> None:
            super().__init__(image_processor=image_processor, tokenizer=tokenizer, video_processor=None, **options)

        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
            return ProcessorMixin.apply_chat_template(self, *args, **kwargs)

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            kept = {name: value for name, value in (processor_dict | kwargs).items() if name in options}
            return (cls(*args, **kept), {}) if kwargs.get("return_unused_kwargs") else cls(*args, **kept)

    # transformers reads a processor's parts and accepted options from the constructor's signature.
    others = [each for name, each in signature.parameters.items() if name != "video_processor"]
    options = {each.name for each in others} - {"self", "image_processor", "tokenizer", "kwargs"}
    PicturesOnly.__init__.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    PicturesOnly.__name__ = PicturesOnly.__qualname__ = kind.__name__
    return PicturesOnly


class _WithoutVideo(ProcessorMixin):
    """Calls ProcessorMixin's constructor without the video processor that the family's processor passes."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        ProcessorMixin.__init__(self, *(part for part in parts if part is not None), **options)
