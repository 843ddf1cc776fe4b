"""A stand-in for a checkpoint's tokenizer: bytes instead of its vocabulary, its special tokens at their own ids."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

# Answers that begin with one token behind a space: the letters of choices, Yes and No.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SPACE = "Ġ"


def write_tokenizer(folder: Path, tokenizer: Mapping[str, Any]) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    tokenizer: "special", the ids of special tokens; "names", which of them is which ("eos_token"); "adds_bos", whether
    a text begins with the first.
    """
    special, names = tokenizer["special"], tokenizer["names"]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(id, token) for token, id in sorted(special.items(), key=lambda item: item[1])],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": _post_processor(names["bos_token"], special) if tokenizer.get("adds_bos") else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary(special),
            "merges": [[_SPACE, letter] for letter in _LETTERS],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", **names}
    usual = {"bos_token", "eos_token", "pad_token", "unk_token"}
    settings["extra_special_tokens"] = {name: token for name, token in names.items() if name not in usual}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def vocabulary(special: Mapping[str, int]) -> dict[str, int]:
    """The ids of all tokens: the special ones at their own, bytes and answers at the first free ones, and names that no
    text has at all others, as a vocabulary must not have holes."""
    tokens = [*sorted(ByteLevel.alphabet()), *(_SPACE + letter for letter in _LETTERS)]
    by_id = {id: token for token, id in special.items()}
    size, waiting = max(max(by_id) + 1, len(tokens) + len(special)), iter(tokens)
    found = {}
    for id in range(size):
        token = by_id.get(id) or next(waiting, None) or f"\0unused {id}"
        found[token] = id
    return found


def _added(id: int, token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": token, **flags, "special": True}


def _post_processor(bos: str, special: Mapping[str, int]) -> dict[str, Any]:
    first, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [special[bos]], "tokens": [bos]}},
    }
