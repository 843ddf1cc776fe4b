"""Whether a question fits a model: its picture in memory once it is prepared, its prompt in the model's positions."""

from typing import Any

from PIL import Image

from tokensel.data import Question
from tokensel.errors import BadSampleError

# Of a picture as it is prepared, 400 MB in RGB.
MOST_PIXELS = 1 << 27


def check_picture(question: Question, image: Image.Image, processor: Any, *, padded: bool, resized: bool) -> None:
    """Raises BadSampleError for a picture that takes too much memory once it is padded or resized.

    A file of 100 bytes can hold a picture of 1 x 60000 pixels: padded to a square, or with its short side resized, it
    has billions.

    padded: whether it is padded to a square first. resized: whether the processor resizes the short side to its
    size["shortest_edge"].
    """
    width, height = image.size
    longer, shorter = max(width, height), min(width, height)
    pixels, how = width * height, "decoded"
    if padded:
        pixels, how, shorter = longer * longer, "padded to a square", longer
    edge = dict(getattr(processor, "size", None) or {}).get("shortest_edge")
    if resized and edge and (larger := edge * edge * longer // shorter) > pixels:
        pixels, how = larger, "resized"
    if pixels > MOST_PIXELS:
        raise BadSampleError(
            f"question {question.id}: its picture of {width} x {height} pixels has {pixels} once {how}; at most "
            f"{MOST_PIXELS} are allowed",
            question_id=question.id,
        )


def check_video(question: Question, tested: bool, config: Any) -> None:
    """Raises BadSampleError for a question with a video unless the model's family is tested with videos."""
    if question.video and not tested:
        raise BadSampleError(
            f"question {question.id}: shows a video; with model_type={config.model_type} only questions about pictures "
            "are tested",
            question_id=question.id,
        )


def check_length(question: Question, text: str, visual_tokens: int, tokenizer: Any, config: Any) -> None:
    """Raises BadSampleError for a prompt that is longer than the model has positions.

    text: the prompt, with the picture as one token. visual_tokens: of the picture. config: the model's
    """
    most = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
    # No tokenizer makes more tokens than there are bytes: usual prompts need not be tokenized for this.
    if not isinstance(most, int) or len(text.encode()) + visual_tokens <= most:
        return
    tokens = len(tokenizer(text, verbose=False)["input_ids"]) + max(visual_tokens - 1, 0)
    if tokens > most:
        raise BadSampleError(
            f"question {question.id}: its prompt has {tokens} tokens; the model has positions for {most}",
            question_id=question.id,
        )
