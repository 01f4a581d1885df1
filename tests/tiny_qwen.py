"""Tokenizers of Qwen's models that know few words, and a chat template like theirs."""

from transformers import Qwen2Tokenizer

MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
FIRST = ["system", "user", "assistant", "Describe"]
INNER = [
    "the", "image", "by", "detailing", "color", "shape", "size", "texture", "quantity", "text",
    "spatial",
    "relationships", "of", "objects", "and", "background",
]  # fmt: skip
"""Words of the templates, at the beginning and behind a space; others are read by the letter."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content "
    "}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def _bytes() -> list[str]:
    """The letters that stand for the 256 bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


def tokenizer() -> Qwen2Tokenizer:
    """Each word of the templates is a token."""
    vocabulary = {letter: i for i, letter in enumerate(_bytes())}
    merges = []
    for word in [*FIRST, *(f"Ġ{word}" for word in INNER)]:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    vocabulary["ĊĊ"] = len(vocabulary)
    merges.append(("Ċ", "Ċ"))
    made = Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, chat_template=TEMPLATE, model_max_length=131072
    )
    made.add_special_tokens({"additional_special_tokens": MARKS[1:]})
    return made
