"""What the tiny checkpoints of all families have in common."""

from transformers import CLIPVisionConfig

SIDE = 56  # 4 x 4 patches of 14


def template(picture: str, video: str = "<video>") -> str:
    return (
        "{% for message in messages %}USER: "
        "{% for part in message['content'] if part['type'] == 'image' %}" + picture + "\n{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'video' %}" + video + "\n{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )


def text_settings(tokenizer) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def tower_settings(kind, patch_size: int = 14) -> dict:
    size = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    scale = {"initializer_factor": 10.0} if kind is CLIPVisionConfig else {}
    return kind(image_size=SIDE, patch_size=patch_size, **size, **scale)
