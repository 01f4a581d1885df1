"""The actor-learner loop: two coroutines, rollouts and training, over handles of actors.

The handles are Ray's or inline ones, and the loop cannot tell. It holds references and metrics, never a trajectory.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from rl_unlearn.config import Config
from rl_unlearn.errors import TrainingError
from rl_unlearn.prompts import PromptBook
from rl_unlearn.requests import Look, Request
from rl_unlearn.weights import Weights

Listener = Callable[[str, dict[str, Any]], None]
_ANY_ROUND = 2**31


@dataclass(frozen=True)
class Handles:
    """Actors whose methods are called as ``handle.method.remote(...)`` and give awaitable references."""

    rollouts: list[Any]
    critic: Any
    replay: Any
    learner: Any


@dataclass(frozen=True)
class Result:
    """Outcome of a run: the policy that the selection CLIP liked best, and what it took."""

    adapter: dict[str, Any]
    """LoRA state, see adapter.save_adapter."""
    policy_version: int
    digest: str
    images: int
    """Images generated: warm-up, rounds and looks."""
    updates: int
    seconds: float


class Board:
    """What both coroutines share: references to the policy versions, the newest version, and the best one."""

    def __init__(self, weights: Any):
        self.version = 0
        self.images = 0
        self.best: tuple[float, int, Any] | None = None
        self._weights = {0: weights}
        self._published = asyncio.Condition()

    async def publish(self, version: int, weights: Any, oldest_needed: int) -> None:
        """Makes a version available and forgets those before ``oldest_needed``."""
        async with self._published:
            self.version = version
            self._weights[version] = weights
            for old in [v for v in self._weights if v < min(oldest_needed, version)]:
                del self._weights[old]
            self._published.notify_all()

    async def weights(self, version: int) -> Any:
        """The reference to exactly this version, once there is one."""
        async with self._published:
            await self._published.wait_for(lambda: self.version >= version)
            return self._weights[version]


class Loop:
    """One run. ``run`` reads top to bottom; ``_rollouts`` and ``_training`` are the two coroutines."""

    def __init__(self, config: Config, handles: Handles, listen: Listener):
        self._config, self._handles, self._listen = config, handles, listen
        self._book = PromptBook.from_config(config)
        self._started = time.monotonic()
        self._look_prompts = tuple(self._book.draw(config.seed, 0, config.selection.images, 0.5))

    async def run(self) -> Result:
        """Warm-up, rounds, selection; raises TrainingError when an actor stays silent for ``loop.timeout`` seconds."""
        self._listen("phase", {"phase": "starting actors"})
        await self._same_model()
        board = Board(self._handles.learner.weights.remote())
        self._listen("phase", {"phase": "warm-up"})
        anchor = await self._warm_up(board)
        self._listen("phase", {"phase": f"training, {self._config.concept} -> {anchor}"})
        try:
            async with asyncio.TaskGroup() as group:
                rollouts = group.create_task(self._rollouts(board))
                await self._training(board)
                if self._config.loop.mode == "async":
                    rollouts.cancel()  # they would go on for ever
        except* Exception as errors:
            raise _first(errors) from errors
        await self._look(board, self._config.loop.rounds, board.version, await board.weights(board.version))
        assert board.best is not None
        best: Weights = await self._wait(board.best[2], "learner")
        self._listen("phase", {"phase": "done"})
        return Result(
            best.state, best.version, best.digest, board.images, board.version, time.monotonic() - self._started
        )

    async def _same_model(self) -> None:
        expected = await self._wait(self._handles.learner.base_digest.remote(), "learner")
        for actor in self._handles.rollouts:
            if await self._wait(actor.base_digest.remote(), "rollout") != expected:
                raise TrainingError(
                    "a rollout actor loaded another model than the learner: check model.path on its node"
                )

    async def _warm_up(self, board: Board) -> str:
        config, handles = self._config, self._handles
        images, share = config.critic.warmup_images, config.critic.warmup_target_fraction
        prompts = self._book.draw(config.seed, 0, images, share)
        await self._collect(board, 0, prompts, await board.weights(0), fresh=False)
        warm = handles.replay.recent.remote(images, 0, (config.seed, "warm-up"))
        states = await self._wait(handles.learner.keep.remote(warm), "learner")
        fit = await self._wait(handles.critic.warm_up.remote(warm), "critic")
        anchor: str = await self._wait(handles.rollouts[0].anchor.remote(), "rollout")
        self._listen("warm-up", {"images": board.images, "pool_states": states, "anchor": anchor, **fit})
        return anchor

    async def _rollouts(self, board: Board) -> None:
        # In async mode an update may take more fresh images than a round brings, and stale ones are evicted: only the
        # training can say when it has had enough.
        config = self._config
        for round in range(1, config.loop.rounds + 1) if config.loop.mode == "sync" else itertools.count(1):
            version = board.version
            if config.loop.mode == "sync":
                version = max(0, round - 1 - config.loop.pipeline) * config.learner.updates_per_round
            weights = await board.weights(version)
            prompts = self._book.draw(config.seed, round, config.rollout.images, config.prompts.target_fraction)
            await self._collect(board, round, prompts, weights, fresh=True)
            if (round - 1) % config.selection.every == 0:
                await self._look(board, round, version, weights)

    async def _collect(self, board: Board, round: int, prompts: list[int], weights: Any, fresh: bool) -> None:
        size, actors = self._config.rollout.batch, self._handles.rollouts
        added = []
        for chunk, offset in enumerate(range(0, len(prompts), size)):
            request = Request(round, tuple(prompts[offset : offset + size]), offset)
            actor = actors[(round + chunk) % len(actors)]
            added.append(self._handles.replay.add.remote(actor.sample.remote(request, weights), fresh))
        for reference in added:
            await self._wait(reference, "rollout")
        board.images += len(prompts)

    async def _training(self, board: Board) -> None:
        config, handles = self._config, self._handles
        per_round = config.learner.updates_per_round
        prepared = self._prepare(0)
        for version in range(config.loop.rounds * per_round):
            scored, fit = prepared
            update = handles.learner.update.remote(scored)
            fitted = await self._wait(fit, "critic")
            if version + 1 < config.loop.rounds * per_round:
                prepared = self._prepare(version + 1)  # the critic works on the next batch while the learner learns
            metrics = await self._wait(update, "learner")
            round = version // per_round + 1
            oldest = max(0, round - config.loop.pipeline) * per_round
            await board.publish(metrics["policy_version"], handles.learner.weights.remote(), oldest)
            if (version + 1) % per_round == 0:
                await self._report(board, round, metrics | fitted)

    def _prepare(self, version: int) -> tuple[Any, Any]:
        """A scored batch for the update of policy ``version``, and the metrics of the critic's fit before it.

        The critic is fitted on the newest trajectories before it scores them: its gradient is right only near what it
        has seen. The next call must wait for the fit, which reads the replay store after the batch was drawn.
        """
        config, handles = self._config, self._handles
        round, number = version // config.learner.updates_per_round + 1, version % config.learner.updates_per_round
        up_to = round if config.loop.mode == "sync" else _ANY_ROUND
        fresh = 0 if number else config.rollout.images
        batch = handles.replay.sample.remote(
            config.learner.batch, version, up_to, fresh, (config.seed, "batch", version)
        )
        recent = handles.replay.recent.remote(config.critic.window, up_to, (config.seed, "recent", version))
        fit = handles.critic.fit.remote(recent, config.critic.steps, version + 1)
        return handles.critic.score.remote(batch, config.estimator.name == "pathwise"), fit

    async def _report(self, board: Board, round: int, metrics: dict[str, Any]) -> None:
        metrics["replay"] = await self._wait(self._handles.replay.counts.remote(), "replay")
        seconds = time.monotonic() - self._started
        self._listen(
            "round",
            {
                "round": round,
                "rounds": self._config.loop.rounds,
                "images": board.images,
                "seconds": seconds,
                "images_per_second": board.images / seconds,
                **metrics,
            },
        )

    async def _look(self, board: Board, round: int, version: int, weights: Any) -> None:
        actor = self._handles.rollouts[round % len(self._handles.rollouts)]
        look: Look = await self._wait(actor.look.remote(self._look_prompts, weights), "rollout")
        board.images += len(self._look_prompts)
        best = board.best is None or look.score > board.best[0]
        if best:
            board.best = (look.score, version, weights)
        self._listen(
            "selection",
            {
                "round": round,
                "policy_version": version,
                "images": board.images,
                "seconds": time.monotonic() - self._started,
                "score": look.score,
                **asdict(look),
                "best": best,
            },
        )

    async def _wait(self, reference: Awaitable[Any], who: str) -> Any:
        try:
            # Not wait_for: until Python 3.12 it swallows a cancellation that comes together with the answer.
            async with asyncio.timeout(self._config.loop.timeout):
                return await reference
        except TimeoutError as error:
            raise TrainingError(
                f"the {who} actor gave no answer in {self._config.loop.timeout:g} s: see its log, or raise loop.timeout"
            ) from error


def _first(errors: BaseExceptionGroup) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
