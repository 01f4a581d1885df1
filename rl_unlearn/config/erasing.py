"""The section on supervised erasers."""

from typing import Literal

from pydantic import Field

from rl_unlearn.config.section import Section

Method = Literal["uce", "esd", "ca"]


class Erase(Section):
    method: Method = "uce"
    """Supervised eraser of the verb `erase`: `uce` edits keys and values of the cross-attention in
    closed form (arXiv 2308.14761), `esd` learns to steer away from the concept (arXiv 2303.07345),
    `ca` to draw the anchor in its place (arXiv 2303.13516)."""
    ridge: float = Field(0.1, gt=0)
    """uce: weight of leaving the layers as they are."""
    preserve: float = Field(1.0, gt=0)
    """uce: weight of each word of the retained prompts."""
    steps: int = Field(60, ge=1)
    """esd, ca: optimizer steps."""
    lr: float = Field(1e-3, gt=0, lt=1)
    """esd, ca: AdamW step size."""
    batch: int = Field(64, ge=1)
    """esd, ca: noisy latents in an optimizer step."""
    retained: float = Field(0.5, ge=0, lt=1)
    """esd, ca: share of these that are of retained prompts, where the untouched model's answer is
    to be kept."""
    images: int = Field(64, ge=1)
    """ca: images of the anchor that the untouched model draws, and of retained prompts as many; esd
    has the latter alone."""
    negative: float = Field(1.0, gt=0)
    """esd: strength of the guidance away from the concept."""

    @property
    def kept(self) -> int:
        """Noisy latents of a step that are of retained prompts."""
        return round(self.batch * self.retained)
