"""Z-Image: a transformer over one row of tokens, patches of latents before a language model's
words.
"""

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from rl_unlearn.families import flow_matching
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Timesteps
from rl_unlearn.layouts.z_image import PATCH, TOKENS

_SHARED = r"attention\.(to_q|to_k|to_v|to_out\.0)"
_LAYERS = {
    "cross": rf"layers\.\d+\.{_SHARED}",
    "self": rf"(noise|context)_refiner\.\d+\.{_SHARED}",
    "attention": rf".*{_SHARED}",
}
"""`cross` is where words and image attend to each other, `self` where each attends to itself,
before."""
_GROUP = 32
"""Patches, and words, are filled up to a multiple of it with a token that the network has
learned."""


class ZImage(Family):
    """The transformer is told words, and which of the tokens are some.

    Its own forward takes words of different length and fills them up to the longest of the batch,
    so that the last bits of an image would depend on the prompts beside it. Here its layers are
    called on rows of one length.
    """

    trained: ClassVar[str] = "transformer"
    process: ClassVar[ModuleType] = flow_matching
    encoded_at_once: ClassVar[int] = 8  # the language model is large
    layers: ClassVar[Mapping[str, str]] = _LAYERS

    def encode(self, texts: list[str]) -> Condition:
        """Returns the language model's last but one hidden states."""
        # The pipeline writes its template into the list that it is given.
        some, _ = self.pipeline.encode_prompt(
            [*texts], device=self.encodes_on, do_classifier_free_guidance=False
        )
        text = torch.stack([pad(words, (0, 0, 0, TOKENS - len(words))) for words in some])
        lengths = torch.tensor([[len(words)] for words in some], device=text.device)
        is_word = (_count(TOKENS, text) < lengths).to(text.dtype)
        return Condition({"text": text, "words": is_word})

    def unconditional(self) -> Condition:
        """Returns the empty prompt, in its template."""
        return self.encode([""])

    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Timesteps,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the velocity, noise less x0.

        The network answers with the opposite sign, and counts time from the noise.
        """
        network, size = self.network, f"{PATCH}-1"
        batch, channels, height, width = latents.shape
        times = 1 - timesteps / 1000
        time = network.t_embedder(times * network.t_scale).to(latents.dtype)

        is_word = condition.words > 0.5
        lengths = is_word.sum(dim=1)
        filled = lengths + -lengths % _GROUP
        image = network.all_x_embedder[size](patches(latents))
        filling = network.x_pad_token.expand(batch, -image.shape[1] % _GROUP, -1)
        image = torch.cat([image, filling], dim=1)
        words = network.cap_embedder(condition.text)
        words = torch.where(is_word[:, :, None], words, network.cap_pad_token)
        places = (
            self._places(height // PATCH, width // PATCH, filled),
            self._places_of_words(condition.text),
        )
        seen = _count(TOKENS, latents) < filled[:, None]
        everything = pad(seen, (image.shape[1], 0), value=True)

        image = self._through(network.noise_refiner, image, None, places[0], time)
        words = self._through(network.context_refiner, words, seen, places[1])
        both = torch.cat([image, words], dim=1)
        both = self._through(network.layers, both, everything, torch.cat(places, dim=1), time)
        answer = network.all_final_layer[size](both, c=time)[:, : height * width // PATCH**2]
        return -whole(answer, channels, height, width)

    def _through(
        self,
        layers: Iterable[Any],
        states: Float[Tensor, "batch tokens features"],
        seen: Bool[Tensor, "batch tokens"] | None,
        *how: Tensor,
    ) -> Float[Tensor, "batch tokens features"]:
        """Returns the states behind some layers, checkpointed as in the network's own forward."""
        network = self.network
        again = network.gradient_checkpointing and torch.is_grad_enabled()
        for layer in layers:
            if again:
                states = network._gradient_checkpointing_func(layer, states, seen, *how)
            else:
                states = layer(states, seen, *how)
        return states

    def _places(self, rows: int, columns: int, filled: Int[Tensor, " batch"]) -> Tensor:
        """Rotations of the patches, which stand behind the words, each with its row and column.

        What fills them up has no place.
        """
        inside = torch.cartesian_prod(_count(rows, filled), _count(columns, filled))
        behind = (filled + 1)[:, None, None].expand(-1, len(inside), 1)
        places = torch.cat([behind, inside.expand(len(filled), -1, -1)], dim=2)
        return self._rotations(pad(places, (0, 0, 0, -len(inside) % _GROUP)))

    def _places_of_words(self, text: Float[Tensor, "batch tokens features"]) -> Tensor:
        """Rotations of the words, which are counted from 1."""
        counted = pad(_count(TOKENS, text)[:, None] + 1, (0, 2))
        return self._rotations(counted.expand(len(text), -1, -1))

    def _rotations(self, places: Int[Tensor, "batch tokens 3"]) -> Tensor:
        angles: Tensor = self.network.rope_embedder(places.flatten(0, 1)).unflatten(
            0, places.shape[:2]
        )
        return angles


def _count(number: int, like: Tensor) -> Int[Tensor, " number"]:
    return torch.arange(number, device=like.device)


def patches(
    latents: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch tokens packed"]:
    """Patches of latents as tokens, row by row; within one, channels come last."""
    split = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    tokens: Tensor = split.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return tokens


def whole(
    tokens: Float[Tensor, "batch tokens packed"], channels: int, height: int, width: int
) -> Float[Tensor, "batch channels height width"]:
    """Inverse of :func:`patches`."""
    split = tokens.reshape(len(tokens), height // PATCH, width // PATCH, PATCH, PATCH, channels)
    return split.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), channels, height, width)
