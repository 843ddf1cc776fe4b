"""The classic interface, for code written against the original research repository.

    from tokensel.compat import IMAGE_TOKEN_INDEX, load_pretrained_model, process_images, tokenizer_image_token

    tokenizer, model, image_processor, context_len = load_pretrained_model(
        "tiny", None, "llava-tiny", use_custom_selection=True
    )
    model.config.custom_kept_tokens = 8
    model.model.reset_custom_selection()
    images = process_images([image], image_processor, model.config).to(model.dtype)
    input_ids = tokenizer_image_token(prompt, tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt").unsqueeze(0)
    output = model.generate(input_ids, images=images, max_new_tokens=16)
    model.model.last_selected_positions, model.model.last_gen_kept_indices

It wraps a stock transformers model, which `tokensel.reduce_tokens` reduces while `generate` runs.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokensel.compat.config import DEFAULTS, classic_reduction, span_warnings
from tokensel.compat.inputs import (
    IMAGE_TOKEN_INDEX,
    expand_placeholder,
    picture_values,
    placeholder_indices,
    process_images,
    prompt_mask,
    tokenizer_image_token,
)
from tokensel.engine.reduce import reduce_tokens
from tokensel.errors import TokenselError
from tokensel.models import LoadedModel, load_model

__all__ = [
    "IMAGE_TOKEN_INDEX",
    "ClassicModel",
    "load_pretrained_model",
    "process_images",
    "tokenizer_image_token",
]

# Methods of a torch module that return the module; on a wrapper they return the wrapper.
_RETURN_SELF = ("to", "cuda", "cpu", "half", "float", "bfloat16", "eval", "train", "requires_grad_")


def load_pretrained_model(
    model_path: str | Path,
    model_base: str | Path | None,
    model_name: str,
    use_custom_selection: bool = False,
    *,
    device: str = "auto",
    dtype: str = "float32",
    family: str | None = None,
) -> tuple[Any, "ClassicModel", Any, int]:
    """Tokenizer, model, image processor and context length of a checkpoint.

    Parameters:
        model_path: "tiny" (embedded), a folder or a hub id; model_path, device, dtype and family as in `load_model`
        model_base: None or model_path; weights that are a difference to a base (LoRA) must be merged first
        model_name: ignored: the checkpoint states its own type

    Raises TokenselError for another model_base, and what `load_model` raises.
    """
    if model_base is not None and str(model_base) != str(model_path):
        raise TokenselError(f"model_base={model_base}: must be None; merge weights into their base first")
    loaded = load_model(model_path, device=device, dtype=dtype, family=family)
    model = ClassicModel(loaded)
    model.config.use_custom_selection = use_custom_selection
    context_len = loaded.model.config.text_config.max_position_embeddings
    return loaded.processor.tokenizer, model, loaded.processor.image_processor, context_len


class _Wrapper:
    """Passes all attributes that it lacks on to `stock`, a module of transformers."""

    def __init__(self, stock: Any) -> None:
        self.stock = stock

    def __getattr__(self, name: str) -> Any:
        if name == "stock" or name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.stock, name)
        return self._returning_self(value) if name in _RETURN_SELF else value

    def _returning_self(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            method(*args, **kwargs)
            return self

        return call


class ClassicInner(_Wrapper):
    """`model.model`: the selection of the last `generate`.

    Attributes:
        last_selected_positions: LongTensor[B, M] within the picture, in the order of the reduced sequence
        last_gen_kept_indices: LongTensor[B, M] in the sequence, in which the picture's visual tokens replace the -200

    Both are None before the first picture, after a reset, and if nothing was removed.
    """

    last_selected_positions: Tensor | None = None
    last_gen_kept_indices: Tensor | None = None

    def reset_custom_selection(self) -> None:
        """Clears the last selection. Settings need no reset: each `generate` reads them from `config`."""
        self.last_selected_positions = self.last_gen_kept_indices = None

    reset_fastv = reset_hmapv = reset_custom_selection


class ClassicModel(_Wrapper):
    """A stock LLaVA with the classic `generate`. Everything else is the stock model's, available as `stock`.

    Attributes:
        config: the stock model's own, with the attributes of `tokensel.compat.config.DEFAULTS` added; attributes that
            the checkpoint was saved with keep their values
        model: a `ClassicInner`
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded.model)
        self.model = ClassicInner(loaded.model.model)
        self._tokenizer = loaded.processor.tokenizer
        self._pad_token_id = self._tokenizer.pad_token_id
        self._image_token_id = loaded.image_token_id
        self._num_image_tokens = loaded.num_image_tokens
        self._printed: set[str] = set()
        for name, value in DEFAULTS.items():
            if not hasattr(self.config, name):
                setattr(self.config, name, value)

    def generate(
        self,
        input_ids: Tensor | None = None,
        images: Any = None,
        image_sizes: Any = None,
        attention_mask: Tensor | None = None,
        *,
        inputs: Tensor | None = None,
        row_keys: Tensor | None = None,
        questions: Sequence[str] | None = None,
        **options: Any,
    ) -> Any:
        """Generates answers with the reduction that `config` describes at the time of the call.

        Parameters:
            input_ids: LongTensor[B, T], left padded, with one -200 for the picture in each row, or none in any row;
                older code calls it inputs
            images: pixel values [B, 3, H, W], or a list of [3, H, W]
            image_sizes: width and height of each picture before it was padded to a square, for methods that use it
            attention_mask: [B, T]; None: all but leading pad tokens
            row_keys: LongTensor[B] that seeds random choices together with config.custom_seed; a sweep uses
                `tokensel.evaluation.answers.row_keys(questions, device)`
            questions: the bare question of each row, for methods that read it apart from the prompt
            options: of transformers' `generate`; output_attentions is ignored, since no method needs it

        Returns LongTensor[B, T + new], or with return_dict_in_generate an output with these `sequences`. The first T
        tokens are the pad token, so both ways of reading the answer work: the original code's output[:, T:], and newer
        LLaVA's batch_decode(output, skip_special_tokens=True).

        Raises TokenselError for rows with several or unequal numbers of -200, a missing or superfluous picture, padding
        on the right, and anything that `reduce_tokens` refuses.
        """
        self.model.reset_custom_selection()
        prompt = input_ids if inputs is None else inputs
        prepared = self._prepare(prompt, images, attention_mask)
        if options.pop("output_attentions", False):
            self._warn_once("output_attentions=True: ignored; no method needs attention maps")
        reduction = classic_reduction(self.config)
        given = {"row_keys": row_keys, "questions": questions, "tokenizer": self._tokenizer}
        given["picture_sizes"] = None if image_sizes is None else [tuple(map(int, size)) for size in image_sizes]
        with reduce_tokens(self.stock, **given, **reduction) as record:
            self._print_seed(reduction)
            output = self.stock.generate(**prepared, **options)
        self.model.last_selected_positions, self.model.last_gen_kept_indices = record.positions, record.indices
        assert prompt is not None
        lengths = prepared["input_ids"].shape[1], prompt.shape[1]
        if isinstance(output, Tensor):
            return self._realign(output, *lengths)
        output.sequences = self._realign(output.sequences, *lengths)
        return output

    def _prepare(self, input_ids: Any, images: Any, attention_mask: Tensor | None) -> dict[str, Tensor]:
        """The stock model's keyword arguments, in which the picture's visual tokens replace each -200."""
        device = self.stock.device
        mask = prompt_mask(input_ids, attention_mask, self._pad_token_id).to(device)
        prompt = input_ids.to(device)
        starts = placeholder_indices(prompt)
        if starts is None:
            if images is not None:
                raise TokenselError(f"images: given, but no row of input_ids holds {IMAGE_TOKEN_INDEX}")
            return {"input_ids": prompt, "attention_mask": mask}
        for line in span_warnings(self.config, starts - (mask == 0).sum(1), self._num_image_tokens):
            self._warn_once(line)
        prompt, mask = (expand_placeholder(values, starts, self._num_image_tokens) for values in (prompt, mask))
        return {
            "input_ids": prompt.masked_fill(prompt == IMAGE_TOKEN_INDEX, self._image_token_id),
            "attention_mask": mask,
            "pixel_values": picture_values(images, len(prompt), device, self.stock.dtype),
        }

    def _realign(self, sequences: Tensor, expanded: int, length: int) -> Tensor:
        """Sequences [B, expanded + new] -> [B, length + new], with pad tokens before the new ones."""
        return torch.cat([sequences.new_full((len(sequences), length), self._pad_token_id), sequences[:, expanded:]], 1)

    def _warn_once(self, message: str) -> None:
        if self._is_new(message):
            warnings.warn(message, stacklevel=3)

    def _print_seed(self, reduction: dict[str, Any]) -> None:
        if "seed" in reduction:
            message = f"custom_seed={reduction['seed']}: {reduction['method']} draws from it"
            if self._is_new(message):
                print(message, file=sys.stderr)

    def _is_new(self, message: str) -> bool:
        new = message not in self._printed
        self._printed.add(message)
        return new
