"""The numbers from which a method computes its own cost."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """The sizes of a Context for one prompt, and the floating-point operations (FLOPs) of what methods compute.

    kept, count, layer, stage, frames: as in Context.
    text: the number of tokens that are not visual.
    image_count, text_count: both numbers at the input of the first layer.
    hidden: D.
    query_width, key_width: widths of a decoder layer's queries and keys, all heads together; head_width: of one head.
    vision_width, vision_head_width: the same for the vision tower, which sees vision_tiles sequences of vision_tokens,
        [CLS] included. vision_through: the number of its layers that its features pass; vision_mlp: the width inside
        its MLPs. vision_cls: whether VisionStates.cls is known; vision_received: whether `cls_attention` is the
        attention that tokens receive, for lack of a [CLS]. feature_width: of VisionStates.features.
    projector: FLOPs of projecting one token.
    device: where the method runs, "cpu" or "cuda".

    Only matrix products count, with two operations per multiply-add.
    """

    kept: int
    count: int
    layer: int
    stage: int
    text: int
    image_count: int
    text_count: int
    hidden: int
    query_width: int
    key_width: int
    head_width: int
    vision_width: int = 0
    vision_head_width: int = 0
    vision_tokens: int = 0
    vision_tiles: int = 1
    vision_cls: bool = True
    vision_received: bool = False
    feature_width: int = 0
    vision_through: int = 0
    vision_mlp: int = 0
    projector: int = 0
    device: str = "cpu"
    frames: int = 1

    def one_frame(self) -> "Sizes":
        """The sizes for one frame of a video whose frames are reduced each by itself; the others count as text."""
        count = self.count // self.frames
        return replace(
            self,
            kept=self.kept // self.frames,
            count=count,
            text=self.text + self.count - count,
            image_count=self.image_count // self.frames,
            vision_tiles=max(1, self.vision_tiles // self.frames),
            frames=1,
        )

    def cosines(self, rows: int) -> int:
        """FLOPs of `rows` x count cosine similarities, or of `rows` weighted sums of all visual tokens."""
        return 2 * rows * self.count * self.hidden

    def keys(self) -> int:
        """FLOPs of `Context.keys`."""
        return 2 * self.count * self.hidden * self.key_width

    def prompt_keys(self) -> int:
        """FLOPs of `Context.project("key", ..., rotary=True)` for the visual tokens and for the text. None behind layer
        0: the cache holds the keys of the layer before."""
        return 0 if self.layer else 2 * (self.count + self.text) * self.hidden * self.key_width

    def attention(self, queries: str = "last", layer: str = "previous") -> int:
        """FLOPs of `Context.attention`: the keys of the whole prompt, and for each query its projection and logits."""
        if layer == "previous" and self.layer == 0:
            return 0
        rows = {"last": 1, "text": self.text, "image": self.count}[queries]
        length = self.text + self.count
        return 2 * length * self.hidden * self.key_width + 2 * rows * self.query_width * (self.hidden + length)

    def density_peaks(self, points: int, centers: int) -> int:
        """FLOPs of `dpc_knn` on `points` tokens: all distances twice, then the distances to the centres."""
        return 2 * points * (2 * points + centers) * self.hidden if 0 < centers < points else 0

    def clustering(self, points: int, centers: int) -> int:
        """FLOPs of `dpc_knn` and of the mean of each cluster."""
        return self.density_peaks(points, centers) + 2 * points * centers * self.hidden

    def vision_cosines(self, rows: int | None = None) -> int:
        """FLOPs of the cosine similarities of `rows` of the vision tower's features with each other; None = all."""
        rows = self.count if rows is None else rows
        return 2 * rows**2 * self.feature_width

    def vision_components(self, components: int, exact: bool) -> int:
        """FLOPs of `principal_loadings` of the vision tower's features, without its orthogonalisations."""
        values, tall = self.count * self.feature_width, self.count > self.feature_width
        if exact:
            return 2 * values * (min(self.count, self.feature_width) + components * tall)
        return 12 * values * components + 2 * self.count * components**2 * tall

    def vision_keys(self) -> int:
        """FLOPs of `VisionStates.keys`."""
        return 2 * self.vision_tiles * self.vision_tokens * self.vision_width**2

    def cls_attention(self) -> int:
        """FLOPs of `VisionStates.cls_attention`: all keys, and for each query its projection and logits."""
        queries = self.vision_tiles * (self.vision_tokens if self.vision_received else 1)
        return self.vision_keys() + 2 * queries * self.vision_width * (self.vision_width + self.vision_tokens)

    def tower_layer(self, tokens: int) -> int:
        """FLOPs of one layer of a CLIP-like vision tower over `tokens` positions."""
        return tokens * self.vision_width * (8 * self.vision_width + 4 * self.vision_mlp + 4 * tokens)

    def pruned_tower(self) -> int:
        """FLOPs of `prune_tower` of flowcut: scores in all layers up to the last drop; up to the first drop only keys,
        values and one query are computed, then whole layers, and after the last drop those of the patches kept."""
        last = max(self.vision_through - 2, 0)
        first = last % 2
        looks = 2 * self.vision_width**2 * (1 + 2 * self.vision_tokens)
        scores = 4 * self.vision_width * self.vision_tokens
        whole = (last - first) * self.tower_layer(self.vision_tokens)
        after = (self.vision_through - 1 - last) * self.tower_layer(self.kept + 1)
        return (last + 1) * scores + (first + 1) * looks + whole + after
