"""Peak speeds of cards that are known, for those who do not say it themselves."""

PEAKS = {"H100": 790.0, "H200": 790.0, "A100": 250.0, "4090": 165.0}
"""Dense bf16 in TFLOP/s, by a part of the card's name. The 4090's is its vendor's; of the others it
is four fifths of the vendor's 989 and 312, a share that an H100 was measured to reach."""
MFU = 0.4
"""Share of the peak that the network's own FLOPs get; what a run of long passes may hope for."""


def peak(card: str) -> float | None:
    """TFLOP/s of a card by its name, None for an unknown one."""
    return next((speed for part, speed in PEAKS.items() if part in card), None)
