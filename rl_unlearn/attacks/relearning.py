"""Relearning: a few steps of ordinary fine-tuning, on the concept or, as a control, on anything
else.

The attacker is taken to hold the unlearned model as one set of weights and trains a *fresh* LoRA on
top of it; the unlearning adapter itself stays frozen. The same is done to the untouched model, for
comparison.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig

from rl_unlearn.attacks.denoising import descend, draw
from rl_unlearn.attacks.references import References
from rl_unlearn.config import Attack
from rl_unlearn.noise import generator, seed_of
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook

_FRESH = "relearned"
_PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]


@contextmanager
def fresh_lora(
    policy: DiffusionPolicy, rank: int, seed: int, unlearned: bool = True
) -> Iterator[list[torch.nn.Parameter]]:
    """Puts a new LoRA beside the policy's adapter (without ``unlearned``: in its place), until it
    is left.

    Yields its parameters, fp32; it starts without effect.
    """
    network = policy.network
    before, wanted = (
        list(network.active_adapters()),
        {p: p.requires_grad for p in network.parameters()},
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.filterwarnings(
            "ignore", message="Already found a `peft_config`"
        )  # a second adapter is meant
        network.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=_PROJECTIONS), adapter_name=_FRESH
        )
    try:
        network.set_adapters([*before, _FRESH] if unlearned else [_FRESH])
        fresh = [p for name, p in network.named_parameters() if f".{_FRESH}." in name]
        for parameter in fresh:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        yield fresh
    finally:
        network.set_adapters(before)
        network.delete_adapters(_FRESH)
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)


def relearn(
    policy: DiffusionPolicy,
    book: PromptBook,
    references: References,
    attack: Attack,
    names: tuple[int | str, ...],
    microbatch: int,
    unlearned: bool = True,
) -> Iterator[int]:
    """Fine-tunes on the references and yields the steps done at each of ``attack.relearn_steps``.

    While it is suspended there the policy samples the fine-tuned model; when it ends the policy is
    what it was. ``names`` name the randomness.
    """
    source = generator(*names)
    condition = policy.encode([book.prompts[prompt].text for prompt in references.prompts])
    with fresh_lora(policy, attack.relearn_rank, seed_of(*names, "lora"), unlearned) as parameters:
        optimizer = torch.optim.AdamW(parameters, lr=attack.relearn_rate, weight_decay=0)
        done = 0
        for budget in attack.relearn_steps:
            while done < budget:
                rows = torch.randint(len(references), (attack.draws,), generator=source)
                draws = draw(policy, references.latents[rows], source)
                descend(optimizer, policy, draws, lambda part: condition[rows][part], microbatch)  # noqa: B023
                done += 1
            yield done
