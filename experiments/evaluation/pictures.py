"""Image grids as PNG: pictures side by side at whole-number scale, with their words beside them."""

from collections.abc import Sequence
from io import BytesIO
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling
from torch import Tensor

SMALLEST_SIDE = 96
GAP = 4
LETTER = 7


def to_image(pixels: Tensor) -> Image.Image:
    """Returns a (3, H, W) tensor in [0, 1] as a picture, a small one enlarged without smoothing."""
    image = to_tile(pixels, max(pixels.shape))
    factor = -(-SMALLEST_SIDE // min(image.size))
    return image.resize((image.width * factor, image.height * factor), Resampling.NEAREST)


def to_tile(pixels: Tensor, largest: int) -> Image.Image:
    """Returns a (3, H, W) tensor in [0, 1] pixel for pixel, reduced where a side is longer than
    `largest`.
    """
    array = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(np.ascontiguousarray(array), "RGB")
    image.thumbnail((largest, largest))
    return image


def sheet(tiles: Sequence[Image.Image], rows: Sequence[int]) -> Image.Image:
    """Puts tiles of one size edge to edge, `rows[i]` of them in row i."""
    width, height = tiles[0].size
    whole = Image.new("RGB", (max(rows) * width, len(rows) * height), "white")
    each = iter(tiles)
    for i, count in enumerate(rows):
        for j in range(count):
            whole.paste(next(each), (j * width, i * height))
    return whole


def to_png(image: Image.Image) -> bytes:
    """Returns the bytes of a PNG file."""
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def grid(
    images: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> Image.Image:
    """Puts pictures into a table, `rows` on the left, `columns` on top; all of one size, no row
    longer than `columns`.
    """
    width, height = images[0][0].size
    row_words = [wrap(text, 28)[: max(1, height // 16)] or [""] for text in rows]
    column_words = [wrap(text, max(4, width // LETTER)) or [""] for text in columns]
    left = max(max(len(line) for line in words) for words in row_words) * LETTER + 2 * GAP
    top = max(len(words) for words in column_words) * 16 + (22 if title else 0) + 2 * GAP
    canvas = Image.new(
        "RGB", (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP)), "white"
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    draw.text((GAP, GAP), title, "black", ImageFont.load_default(16))
    for j, words in enumerate(column_words):
        x = left + j * (width + GAP) + width // 2
        draw.multiline_text(
            (x, top - GAP), "\n".join(words), "black", font, anchor="md", align="center"
        )
    for i, line in enumerate(images):
        y = top + i * (height + GAP)
        draw.multiline_text(
            (left - 2 * GAP, y + height // 2),
            "\n".join(row_words[i]),
            "black",
            font,
            "rm",
            align="right",
        )
        for j, image in enumerate(line):
            canvas.paste(image, (left + j * (width + GAP), y))
    return canvas


def stack(first: Image.Image, second: Image.Image) -> Image.Image:
    """Puts one picture above the other, with air between."""
    both = Image.new(
        "RGB", (max(first.width, second.width), first.height + second.height + 16), "white"
    )
    both.paste(first, (0, 0))
    both.paste(second, (0, first.height + 16))
    return both
