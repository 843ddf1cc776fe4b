"""One model run in pieces, so that all grid points share a batch's pictures and lower layers."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tokensel.engine.attention import last_real
from tokensel.engine.caches import FixedCache, fork
from tokensel.engine.compiled import TEXT_MULTIPLE, Graphs, graphs_of
from tokensel.engine.forward import advance, approach, reduce_all
from tokensel.engine.pictures import Seen, place_features, row_pictures, say_video, visual_kinds
from tokensel.engine.selection import reduce_state
from tokensel.engine.stages import Stage
from tokensel.engine.state import State, find_visual, slides
from tokensel.errors import TokenselError
from tokensel.functional import take
from tokensel.models.families import ALONG_PROMPT
from tokensel.models.parts import ModelParts, find_parts
from tokensel.models.tap import VisionTap
from tokensel.models.vision import VisionStates

__all__ = ["SplitModel", "State"]


class SplitModel:
    """A LLaVA-like model or Llama-like decoder in pieces, without a cache and without gradients.

        split = SplitModel(model)
        prefix = split.run(split.embed(**inputs), upto=2)
        for stage in stages:
            split.logits(split.reduce(prefix, stage))

    gives the logits of the last position that the model under `reduce_tokens` gives.

    compiled: run the layers behind a reduction as compiled graphs. Where that is not possible a warning says so, and
    `not_compiled` why. Not safe to use from several threads at once. text_multiple: pad prompts to a multiple of this
    many text tokens if compiled, and batches to the size of the largest so far, so that few shapes occur; 1: neither.
    tokenizer: the model's, for methods that read words.

    Raises TokenselError for a model without a Llama-like decoder.
    """

    def __init__(
        self,
        model: nn.Module,
        compiled: bool = False,
        text_multiple: int = TEXT_MULTIPLE,
        tokenizer: Any | None = None,
    ) -> None:
        self.parts, self.text_multiple = find_parts(model, tokenizer=tokenizer), text_multiple
        self.graphs: Graphs | None = None
        self.not_compiled: dict[str, str] = {}
        self._rows = 0
        if compiled:
            graphs = graphs_of(self.parts.layers, self.num_layers)
            self.not_compiled = graphs.failed
            if why := cannot_compile(self.parts):
                graphs.go_without("layers", why)
            else:
                self.graphs = graphs

    @property
    def num_layers(self) -> int:
        return self.parts.num_layers

    @torch.no_grad()
    def features(
        self, pictures: Mapping[str, Any], uses_vision: bool = False
    ) -> tuple[list[Tensor], VisionStates | None]:
        """Projected features of each picture, [N, D], then of each video, the same for every prompt: worth caching.
        Deepstack features, if any, stand beside them. With uses_vision also the vision tower's states, for methods that
        use them.

        pictures: pixel_values and what the processor gives with it (image_sizes, image_grid_thw, ...); and
        pixel_values_videos with its own.
        """
        llava, family = self.parts.llava, self.parts.family
        if llava is None:
            raise TokenselError("pixel_values: this model has no vision tower")
        tap = VisionTap(llava, family) if uses_vision else None
        handles = [] if tap is None else tap.attach()
        try:
            seen = Seen(dict(pictures))
            found = family.features(llava, pictures) if seen.picture else []
            found += family.video_features(llava, pictures) if "pixel_values_videos" in pictures else []
            return found, None if tap is None else tap.take(pictures)
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def embed(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | Sequence[Tensor] | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        image_mask: Tensor | None = None,
        row_keys: Tensor | None = None,
        vision: VisionStates | None = None,
        uses_vision: bool = False,
        questions: Sequence[str] | None = None,
        picture_sizes: Sequence[tuple[int, int] | None] | None = None,
        pictures: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> State:
        """The prompt about to enter the first layer.

        input_ids [B, T], padded where attention_mask [B, T] is 0; pictures and videos as pixel_values or
        pixel_values_videos with what else the processor gives (by name, or all in `pictures`), or as image_features, as
        `features` gives them. Or inputs_embeds [B, T, D] with image_mask [B, T]. row_keys: LongTensor[B], the
        questions' keys for methods that draw at random. vision: the tower's states, a row each; uses_vision: get them
        here, from pixel_values. questions: the bare question of each row, for methods that read it.

        The state is padded on the right: then causal attention hides the padding from all that is real, and needs no
        mask. Raises TokenselError when features and image tokens don't match, or for a prompt of padding alone.
        """
        if self.graphs is not None and input_ids is not None:
            input_ids, attention_mask = self._rounded_up(input_ids, attention_mask)
        mask = None
        if attention_mask is not None and not bool((attention_mask != 0).all()):
            order = (attention_mask == 0).to(torch.uint8).sort(dim=1, stable=True).indices
            mask = (attention_mask != 0).gather(1, order)
            if not bool(mask[:, 0].all()):
                raise TokenselError("attention_mask: every prompt must hold a token")
            input_ids, inputs_embeds, image_mask = (
                None if each is None else take(each, order) for each in (input_ids, inputs_embeds, image_mask)
            )
        if inputs_embeds is None:
            if input_ids is None:
                raise TokenselError("input_ids: needed unless inputs_embeds is given")
            inputs_embeds = self.parts.decoder.get_input_embeddings()(input_ids)
        assert inputs_embeds is not None
        batch = inputs_embeds.shape[0]
        shown = dict(pictures or {}) | {name: value for name, value in given.items() if name not in ALONG_PROMPT}
        if pixel_values is not None:
            shown["pixel_values"] = pixel_values
        told = Seen(shown, batch, video="pixel_values_videos" in shown)
        if told.video and not self.parts.family.videos:
            raise TokenselError(f"{say_video(self.parts, told)}")
        kinds, features, family = None, None, self.parts.family
        if image_mask is None:
            if input_ids is None or self.parts.image_token_id is None:
                raise TokenselError("image_mask: needed where visual tokens cannot be seen in input_ids")
            kinds = visual_kinds(self.parts, input_ids, told)
            image_mask = kinds > 0
        if told.picture:
            told = replace(told, arguments=family.companions(image_mask, shown) | shown)
        if image_features is None and (told.picture or told.video):
            image_features, states = self.features(told.arguments, uses_vision)
            vision = vision if states is None else states
        if image_features is not None:
            inputs_embeds, features = place_features(
                self.parts, inputs_embeds, input_ids, image_mask, image_features, told
            )
        along = input_ids if input_ids is not None else image_mask
        positions = self.parts.family.position_ids(self.parts.llava, along, mask, shown)
        visual_index = find_visual(image_mask)
        if row_keys is None:
            row_keys = torch.zeros(batch, dtype=torch.long)
        return State(
            hidden=inputs_embeds,
            attention_mask=mask,
            position_ids=positions,
            visual_index=visual_index,
            row_keys=row_keys.to(inputs_embeds.device),
            pictures=row_pictures(self.parts, told, visual_index, kinds),
            vision=vision,
            deepstack=None if features is None else features.view(*visual_index.shape, *features.shape[1:]),
            token_types=image_mask.long() if family.both_ways else None,
            questions=None if questions is None else tuple(questions),
            picture_sizes=None if picture_sizes is None else tuple(picture_sizes),
            right_padded=True,
        )

    @torch.no_grad()
    def run(self, state: State, upto: int) -> State:
        """Runs decoder layers state.layer .. upto - 1 and returns the state about to enter layer `upto`."""
        if not state.layer <= upto <= self.num_layers:
            raise TokenselError(f"upto={upto}: must be from {state.layer} to {self.num_layers}")
        state = _with_own_cache(state)
        return approach(self.parts, state, upto) if upto < self.num_layers else self.finish(state, whole=True)

    @torch.no_grad()
    def reduce(self, state: State, stage: Stage) -> State:
        """Applies a stage, exactly as `reduce_tokens` does. The given state stays as it is.

        Raises TokenselError when the stage belongs to another layer.
        """
        if stage.layer != state.layer:
            raise TokenselError(f"agg_layer={stage.layer}: this state is about to enter layer {state.layer}")
        return reduce_state(state, stage, self.parts, self._multiple)

    @torch.no_grad()
    def reduce_all(self, state: State, stages: Sequence[Stage]) -> State:
        """Applies stages one after the other, running the layers between them; ends behind the last one."""
        return reduce_all(self.parts, _with_own_cache(state), stages, multiple=self._multiple)

    @property
    def _multiple(self) -> int:
        """Of which the counts that methods choose by themselves are, so that shapes repeat."""
        return 1 if self.graphs is None else self.text_multiple

    @torch.no_grad()
    def logits(self, state: State) -> Tensor:
        """Runs what is left of the decoder and returns the logits at each row's last real position: [B, vocabulary].

        The last layer's MLP runs for that position alone, which can move the last bits.
        """
        return self.read(self.finish(state))

    @torch.no_grad()
    def finish(self, state: State, whole: bool = False) -> State:
        """The state behind the last layer; unless `whole`, right at each row's last real position alone."""
        if state.layer == self.num_layers:
            return state
        state = _with_own_cache(state)
        if self.graphs is not None and state.cache is None and state.positions is not None:
            # Behind a reduction shapes repeat.
            state = state.followed_by(cache=FixedCache(self.graphs, self.graph_rows(len(state.hidden))))
        if whole or isinstance(state.cache, FixedCache):
            return advance(self.parts, state, self.num_layers)
        layers = list(self.parts.layers[: self.num_layers])
        layers[-1] = _mlp_only_at(layers[-1], last_real(state.attention_mask, state.hidden))
        return advance(self.parts, state, self.num_layers, layers=layers)

    @torch.no_grad()
    def read(self, state: State) -> Tensor:
        """The logits at each row's last real position, [B, vocabulary], of a state behind the last layer."""
        where = last_real(state.attention_mask, state.hidden).to(state.hidden.device)
        return self.head(self.parts.decoder.norm(take(state.hidden, where)))[:, 0]

    @property
    def head(self) -> nn.Module:
        """From normed hidden states to logits. Raises TokenselError for a model without."""
        if self.parts.head is None:
            raise TokenselError("model: has no language-model head to give logits")
        return self.parts.head

    def graph_rows(self, batch: int) -> int:
        """Rows that graphs run for a batch: as many as the largest before it had, so that shapes repeat."""
        if self.text_multiple > 1:
            self._rows = batch = max(batch, self._rows)
        return batch

    def _rounded_up(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The prompts, with padding on the right up to the next multiple of text tokens."""
        visual = int((visual_kinds(self.parts, input_ids[:1], Seen(video=True)) > 0).sum())
        more = (visual - input_ids.shape[1]) % self.text_multiple
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        padding = 1 if self.parts.image_token_id == 0 else 0  # any token: nothing sees it
        padded = nn.functional.pad(input_ids, (0, more), value=padding)
        return padded, nn.functional.pad(attention_mask, (0, more))


def cannot_compile(parts: ModelParts) -> str | None:
    """Why a model's layers cannot run as compiled graphs; None: they can."""
    if parts.uses_flash:
        return f"attn_implementation={parts.attention_name}: takes no 4-D mask; use sdpa or eager"
    if parts.family.deepstack:
        return "deepstack: a graph cannot look up where features are added"
    if slides(parts):
        return "sliding_window: compiled layers take masks without windows"
    if len({weight.device for weight in parts.decoder.parameters()}) > 1:
        return "device_map: the decoder lies on several devices"
    return None


def _with_own_cache(state: State) -> State:
    """The state with a cache that may grow while the given state's stays."""
    return state if state.cache is None else replace(state, cache=fork(state.cache))


def _mlp_only_at(layer: nn.Module, where: Tensor) -> nn.Module:
    """The same layer with its MLP run at one position of each row, where: LongTensor[B, 1]. Outputs elsewhere are
    undefined."""
    if not hasattr(layer, "mlp"):
        return layer
    same = copy(layer)
    same._modules = {**layer._modules, "mlp": _At(layer.mlp, where)}
    return same


class _At(nn.Module):
    """A module that is given one position of each row, LongTensor[B, 1]. Its [B, 1, D] is added to all of them."""

    def __init__(self, inner: Any, where: Tensor) -> None:
        super().__init__()
        self.inner, self.where = inner, where

    def forward(self, hidden: Tensor) -> Any:
        return self.inner(take(hidden, self.where.to(hidden.device)))
