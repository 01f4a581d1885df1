"""The actor-learner loop: two coroutines, rollouts and training, over handles of actors.

The handles are Ray's or inline ones, and the loop cannot tell. It holds references and metrics,
never a trajectory.

    _rollouts   round r:   rollout.sample ──> replay.add          every few rounds: rollout.look
                               ^                  |
                 weights of a  |                  |  trajectories of whole rounds
                 known version |                  v
    _training   update v:  learner.update <── critic.score <── critic.fit
                               |              replay.sample    replay.states
                               v
                           board.publish: version v + 1, which a later round draws by

In synchronous mode a round is drawn by a version that is known beforehand, at most
``loop.pipeline`` rounds ahead; in asynchronous mode by the newest one, and the ledger holds which.
The batch after the present one is asked for before the present update ends, so that the critic
works while the learner does.
"""

import asyncio
import functools
import itertools
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from learner.board import Board, Choice, Keeper, Resumption
from learner.diagnostics import Metrics, of_round
from learner.handles import Handles, Patience, awaited, first_of
from learner.order import Order
from rl_unlearn.config import Config
from rl_unlearn.errors import NonFiniteError, TrainingError
from rl_unlearn.prompts import PromptBook
from rl_unlearn.requests import Look, Request
from rl_unlearn.snapshot import Snapshot
from rl_unlearn.untouched import check_untouched
from rl_unlearn.weights import Weights

Listener = Callable[[str, dict[str, Any]], None]
MAX_POISONED = 3
"""Rounds in a row with trajectories that are not finite, after which a run does not just go on."""


@dataclass(frozen=True)
class Result:
    """Outcome of a run: the policy that the selection CLIP liked best, and what it took."""

    adapter: dict[str, Any]
    """LoRA state, see adapter.save_adapter."""
    policy_version: int
    digest: str
    critic: Any
    """critic_file.CriticState of the last critic; None if there was none."""
    images: int
    """Images generated: warm-up, rounds and looks."""
    updates: int
    seconds: float


class Loop:
    """One run.

    ``run`` reads top to bottom; ``_rollouts`` and ``_training`` are the two coroutines.
    """

    def __init__(
        self,
        config: Config,
        handles: Handles,
        listen: Listener,
        keeper: Keeper | None = None,
        order: Order | None = None,
    ):
        """``order``: of the run so far, if it is gone on with."""
        self._config, self._handles, self._listen, self._keeper = config, handles, listen, keeper
        self._order = order or Order(config)
        self._book = PromptBook.from_config(config)
        self._actors = Patience(handles, config.loop.timeout)
        self._started = time.monotonic()
        self._poisoned = 0
        self._look_prompts = tuple(
            self._book.draw(config.seed, 0, config.selection.images, 0.5, self._book.watched)
        )
        self._watched = sum(not self._book.prompts[i].target for i in self._look_prompts)

    async def run(self, start: Resumption | None = None) -> Result:
        """Warm-up, rounds, selection; raises LostError when an actor stays silent for
        ``loop.timeout`` seconds.
        """
        self._listen("phase", {"phase": "starting actors"})
        self._order.forget_unseen()
        await self._same_model()
        if start is None:
            self._listen("phase", {"phase": "warm-up"})
            board = Board(0, {0: self._handles.learner.weights.remote()}, self._order)
            await self._warm_up(board)
        else:
            self._listen("phase", {"phase": "restoring"})
            board = await self._restore(start)
        anchor = await self._actors.wait(self._handles.rollouts[0].anchor.remote(), "rollout")
        self._listen("phase", {"phase": f"training, {self._config.concept} -> {anchor}"})
        try:
            async with asyncio.TaskGroup() as group:
                rollouts = group.create_task(self._rollouts(board))
                await self._training(board)
                if self._config.loop.mode == "async":
                    rollouts.cancel()  # they would go on for ever
        except* Exception as errors:
            raise first_of(errors) from errors
        rounds = self._config.loop.rounds
        await self._look(board, rounds, board.version, board.newest, final=True)
        assert board.best is not None
        best = await self._fetch_weights(board.best.weights)
        critic = await self._actors.wait(self._handles.critic.state.remote(), "critic")
        self._listen("phase", {"phase": "done"})
        images, seconds = self._images(board, rounds, final=True), time.monotonic() - self._started
        return Result(best.state, best.version, best.digest, critic, images, board.version, seconds)

    async def _same_model(self) -> None:
        expected = await self._actors.wait(self._handles.learner.base_digest.remote(), "learner")
        for actor in self._handles.rollouts:
            if await self._actors.wait(actor.base_digest.remote(), "rollout") != expected:
                raise TrainingError(
                    "a rollout actor loaded another model than the learner: check model.path on "
                    "its node"
                )

    async def _warm_up(self, board: Board) -> None:
        config, handles = self._config, self._handles
        images, share = config.critic.warmup_images, config.critic.warmup_target_fraction
        prompts = self._book.draw(config.seed, 0, images, share)
        await self._collect(0, prompts, board.newest, fresh=False)
        look = self._ask_look(1, board.newest)
        warm = handles.replay.recent.remote(images, -1, (config.seed, "warm-up"))
        keep, fitted = (
            handles.learner.keep.remote(warm),
            handles.critic.warm_up.remote(warm),
        )  # at the same time
        board.first = await look()
        for line in check_untouched(board.first, config.selection.floor, self._watched):
            self._listen("warning", {"round": 0, "message": line})
        states, fit = (
            await self._actors.wait(keep, "learner"),
            await self._actors.wait(fitted, "critic"),
        )
        if self._keeper is not None:
            self._keeper.keep_warm_up(Snapshot((await self._actors.wait(warm, "replay")).tensors()))
        self._listen("warm-up", {"images": images, "pool_states": states, **fit})

    async def _restore(self, start: Resumption) -> Board:
        """Gives all actors what they held; returns the board as it was."""
        handles, parts = self._handles, start.parts
        restored = [
            (handles.learner.restore.remote(parts["learner"], start.warm_up), "learner"),
            (handles.critic.restore.remote(parts["critic"], start.warm_up), "critic"),
            (handles.replay.restore.remote(parts["replay"]), "replay"),
        ]
        for reference, who in restored:
            await self._actors.wait(reference, who)
        self._started -= parts["loop"].values["seconds"]
        return Board.restored(parts["loop"], self._order)

    async def _checkpoint(
        self, keeper: Keeper, board: Board, round: int, newest_round: int, parts: dict[str, Any]
    ) -> None:
        """Commits what the actors held between two updates, and the driver's own share of it."""
        await board.wait_for_round(newest_round)  # its look may be the best one
        found: dict[str, Snapshot] = {}
        for who, reference in parts.items():
            found[who] = await self._actors.wait(reference, who)
        own = await board.snapshot(
            newest_round, time.monotonic() - self._started, self._fetch_weights
        )
        keeper.commit(round, found | {"loop": own})
        board.settle(newest_round)

    def _images(self, board: Board, round: int, final: bool = False) -> int:
        """Images of the warm-up, the rounds so far and their looks; those drawn ahead count in
        their own round.
        """
        config = self._config
        rounds = round if config.loop.mode == "sync" else max(round, board.rounds)
        looks = 1 + (rounds - 1) // config.selection.every + final
        return (
            config.critic.warmup_images
            + rounds * config.rollout.images
            + looks * len(self._look_prompts)
        )

    async def _rollouts(self, board: Board) -> None:
        # In async mode an update may take more fresh images than a round brings, and stale ones are
        # evicted: only the training can say when it has had enough.
        config, first = self._config, board.rounds + 1
        sync = config.loop.mode == "sync"
        for round in range(first, config.loop.rounds + 1) if sync else itertools.count(first):
            version, weights = await board.behaviour(round)
            prompts = self._book.draw(
                config.seed, round, config.rollout.images, config.prompts.target_fraction
            )
            await self._collect(round, prompts, weights, fresh=True)
            if (round - 1) % config.selection.every == 0:
                await self._look(board, round, version, weights)
            await board.passed(round)

    async def _collect(self, round: int, prompts: list[int], weights: Any, fresh: bool) -> None:
        def add(actor: Any, request: Request) -> Any:
            return self._handles.replay.add.remote(actor.sample.remote(request, weights), fresh)

        size, added = self._config.rollout.batch, []
        for chunk, offset in enumerate(range(0, len(prompts), size)):
            request = Request(round, tuple(prompts[offset : offset + size]), offset)
            added.append(self._actors.ask(round + chunk, functools.partial(add, request=request)))
        kept = 0
        for answer in added:
            kept += await answer()
        await self._judge(round, len(prompts), len(prompts) - kept)

    async def _judge(self, round: int, images: int, refused: int) -> None:
        """Tells of trajectories that were not finite, and ends the run when they do not cease."""
        self._poisoned = self._poisoned + 1 if refused else 0
        if not refused:
            return
        trajectories = await self._actors.wait(self._handles.replay.refused.remote(round), "replay")
        where = (
            self._keeper.keep_refused(round, Snapshot(trajectories.tensors()))
            if self._keeper is not None
            else None
        )
        told = f"{refused} of {images} trajectories of round {round} are not finite"
        self._listen(
            "warning",
            {"round": round, "message": f"{told}; refused{f', kept in {where}' if where else ''}"},
        )
        if refused == images or self._poisoned == MAX_POISONED:
            raise NonFiniteError(
                f"{told}, {self._poisoned} rounds in a row: check the reward, or lower learner.lr"
            )

    async def _training(self, board: Board) -> None:
        config, handles, keeper = self._config, self._handles, self._keeper
        per_round, total = (
            config.learner.updates_per_round,
            config.loop.rounds * config.learner.updates_per_round,
        )
        if (
            board.version >= total
        ):  # resumed from the last checkpoint: only the final look is missing
            return
        newest = board.rounds  # no rollouts have begun
        updates: list[Metrics] = []
        prepared = self._prepare(board.version)
        for version in range(board.version, total):
            scored, fit, looked = prepared
            update = handles.learner.update.remote(scored, version)
            fitted = await self._actors.wait(fit, "critic")
            round, ends = version // per_round + 1, (version + 1) % per_round == 0
            due = keeper is not None and ends and keeper.due(round)
            parts: dict[str, Any] = {}
            if due:  # before the next update's calls, so that they show the actors between the two
                parts["critic"] = handles.critic.snapshot.remote()
                # Asked before is not enough for the replay store: Ray takes an asynchronous actor's
                # calls out of order.
                parts["replay"] = awaited(handles.replay.snapshot.remote(version))
                await self._actors.wait(parts["replay"], "replay")
            if version + 1 < total:
                prepared = self._prepare(
                    version + 1
                )  # the critic works on the next batch while the learner learns
            metrics = dict(await self._actors.wait(update, "learner"))
            before, newest = newest, await self._actors.wait(looked, "replay")
            self._order.learned(version, newest)
            drawn_by = self._order.between(before, newest)
            self._listen("update", _ledger_row(round, version, metrics, newest, drawn_by))
            await board.publish(metrics["policy_version"], handles.learner.weights.remote(), newest)
            updates.append(metrics | fitted)
            if ends:
                await self._report(board, round, of_round(updates))
                updates = []
            if due:
                assert keeper is not None
                parts["learner"] = handles.learner.snapshot.remote()
                await self._checkpoint(keeper, board, round, newest, parts)

    def _prepare(self, version: int) -> tuple[Any, Any, Any]:
        """A scored batch for the update of policy ``version``, the metrics of the critic's fit
        before it, and the newest round that the batch could hold.

        The critic is fitted on what the store holds, these trajectories among it, before it scores
        them or after (`Estimator.scores_first`). The next call must wait for the fit, which reads
        the replay store after the batch was drawn.
        """
        config, handles = self._config, self._handles
        fresh = 0 if version % config.learner.updates_per_round else config.rollout.images
        batch = handles.replay.sample.remote(
            config.learner.batch,
            version,
            self._order.newest_round(version),
            fresh,
            (config.seed, "batch", version),
        )
        looked = handles.replay.newest_round.remote(version)
        wanted = config.critic.steps * config.critic.fresh if config.estimator.row.critic else 0
        states = handles.replay.states.remote(
            config.critic.window,
            wanted,
            config.critic.renoised,
            version,
            (config.seed, "recent", version),
        )
        if config.estimator.row.scores_first:
            scored = handles.critic.score.remote(batch)
            return scored, handles.critic.fit.remote(states, version + 1), looked
        fit = handles.critic.fit.remote(states, version + 1)
        return handles.critic.score.remote(batch), fit, looked

    async def _report(self, board: Board, round: int, metrics: dict[str, Any]) -> None:
        metrics["replay"] = await self._actors.wait(self._handles.replay.counts.remote(), "replay")
        seconds = time.monotonic() - self._started
        self._listen(
            "round",
            {
                "round": round,
                "rounds": self._config.loop.rounds,
                "images": (images := self._images(board, round)),
                "seconds": seconds,
                "images_per_second": images / seconds,
                **metrics,
            },
        )

    async def _look(
        self, board: Board, round: int, version: int, weights: Any, final: bool = False
    ) -> None:
        assert board.first is not None
        # The first round is drawn by the untouched model, which was looked at before anything was
        # learned.
        look = board.first if version == 0 else await self._ask_look(round, weights)()
        # In whole images: shares of them are rounded.
        lost = self._watched * max(
            board.first.retained - look.retained, board.first.other - look.other
        )
        may_lose = self._config.selection.may_lose
        allowed = math.floor(lost + 0.5) <= may_lose * self._watched + 1e-6
        best = allowed and (board.best is None or look.score > board.best.score)
        if best:
            board.choices.append(Choice(round, version, look.score, weights))
        if final and not allowed and board.best is not None and board.best.version == 0:
            told = (
                "the untouched model is returned: other versions lost more than "
                f"selection.may_lose={may_lose:g}"
            )
            self._listen(
                "warning",
                {
                    "round": round,
                    "message": f"{told} of the rest; lower learner.kl_budget, or raise it",
                },
            )
        self._listen(
            "selection",
            {
                "round": round,
                "policy_version": version,
                "images": self._images(board, round, final),
                "seconds": time.monotonic() - self._started,
                "score": look.score,
                "allowed": allowed,
                "final": final,
                **asdict(look),
                "best": best,
            },
        )

    def _ask_look(self, round: int, weights: Any) -> Callable[[], Awaitable[Look]]:
        """Asks for a look; what is returned waits for it."""
        return self._actors.ask(round, lambda actor: actor.look.remote(self._look_prompts, weights))

    async def _fetch_weights(self, reference: Any) -> Weights:
        """The weights behind a reference; those of a checkpoint are there already."""
        return (
            reference
            if isinstance(reference, Weights)
            else await self._actors.wait(reference, "learner")
        )


def _ledger_row(
    round: int, version: int, metrics: dict[str, Any], newest_round: int, drawn_by: dict[int, int]
) -> dict[str, Any]:
    """What is on record of one update: which policy became which one, by which trajectories, and
    who drew them.

    ``newest_round`` and ``drawn_by``, of the rounds that are new since the update before, are what
    `Order` reads.
    """
    row = {
        "update": version + 1,
        "round": round,
        "version_in": version,
        "version_out": metrics["policy_version"],
    }
    drawn = {
        "policy_lag_max": metrics["policy_lag_max"],
        "newest_round": newest_round,
        "drawn_by": drawn_by,
    }
    return row | drawn | {key: metrics.pop(key) for key in ("trajectories", "batch", "weights")}
