"""What checkpoints have published beside their weights: configuration, processor, special tokens and chat template.

Each NAME.json holds these of one checkpoint, named as its file in conf/model, and says where its facts come from. A
chat template is worded anew: it writes the same prompts for turns of pictures, videos and text. A checkpoint's
vocabulary is not among them; `write_tokenizer` has a stand-in with the same special tokens at the same ids.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokensel.models.published.tokenizer import write_tokenizer

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))
_FILES = ("config", "preprocessor_config", "video_preprocessor_config", "processor_config")

__all__ = ["NAMES", "published", "write_settings"]


def published(name: str) -> dict[str, Any]:
    """The content of NAME.json."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def write_settings(name: str, folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    """Writes all but the weights into a folder as a hub has it, with the stand-in for the tokenizer. Returns the
    folder. config: instead of the published one."""
    content = published(name)
    if config is not None:
        content["config"] = dict(config)
    for file in _FILES:
        if file in content:
            (folder / f"{file}.json").write_text(json.dumps(content[file]), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(content["chat_template"], encoding="utf-8")
    write_tokenizer(folder, content["tokenizer"])
    return folder
