"""Noise by name: the same for the same name, whatever else is drawn, before or beside."""

import torch

from rl_unlearn.noise import generator, seed_of, trajectory_noise


def test_seeds_are_frozen():
    assert seed_of(0, "rollout", 1, 2, 3) == seed_of(0, "rollout", 1, 2, 3)
    # A change would silently make all published seeds name other runs.
    assert seed_of("a", 1) == 6_431_086_039_603_022_688


def test_seeds_fit_a_generator_and_differ():
    seeds = [
        seed_of(*names)
        for names in [(0,), (1,), (0, 1), (1, 0), ("0", "1", "2"), ("a",), (10, 1), (1, 1)]
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)
    assert torch.equal(
        torch.randn(4, generator=generator(7)), torch.randn(4, generator=generator(7))
    )


def test_order_and_company_do_not_matter():
    together = trajectory_noise([3, 1, 2], 4, (2, 5, 5))
    assert together.shape == (3, 5, 2, 5, 5)
    torch.randn(100)  # the global generator plays no part
    backwards = trajectory_noise([2, 1, 3], 4, (2, 5, 5))
    alone = trajectory_noise([1], 4, (2, 5, 5))
    assert torch.equal(together, backwards.flip(0))
    assert torch.equal(together[1:2], alone)


def test_every_level_has_its_own_standard_normal_draw():
    noise = trajectory_noise(list(range(20)), 9, (4, 8, 8))
    flat = noise.flatten(2)
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1) < 0.02
    between = torch.einsum("nlx,nmx->nlm", flat, flat) / flat.shape[2]
    off_diagonal = between - torch.eye(10) * between
    assert off_diagonal.abs().max() < 0.4, "two steps of a trajectory share their noise"
