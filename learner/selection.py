"""Selection: the policy version that a run returns is the best one that the selection CLIP saw."""

import asyncio
import functools
import math
from collections.abc import Awaitable
from dataclasses import asdict, replace

from learner import events
from learner.calls import Answer
from learner.roles import Ref, RolloutHandle
from learner.session import Session
from learner.versions import Candidate, Versions
from rl_unlearn.messages import Weights
from rl_unlearn.untouched import check_untouched
from rl_unlearn.validation import Sightings, Validation, summary


class Selection:
    """Validates policy versions on fixed prompts and noise, and remembers the best."""

    def __init__(self, session: Session):
        self._session = session
        prompts = session.book.prompts
        self._drawn: asyncio.Queue[tuple[Candidate, Answer[Validation] | None]] = asyncio.Queue()
        self._retained = sum(not prompts[i].target for i in session.validated)

    async def run(self, versions: Versions) -> None:
        """Considers one version after another, in the order of the rounds that they drew; has no
        end of its own.

        Each is considered once an update could learn from its round: then the choice is a function
        of the timeline, in asynchronous mode, too.
        """
        while True:
            candidate, validation = await self._drawn.get()
            await versions.wait_until_learned(candidate.round)
            if self._is_due(candidate.round):
                # What the untouched model draws was validated before anything was learned.
                seen = versions.untouched if validation is None else await validation()
                assert seen is not None
                self.consider(versions, candidate, seen)
            await versions.passed(candidate.round)

    def ask(self, weights: Ref[Weights]) -> Answer[Validation]:
        """Asks the rollout actors to validate a version, a part each; what is returned waits for
        the answers.
        """
        session, prompts = self._session, self._session.validated

        def look(actor: RolloutHandle, offset: int) -> Awaitable[Sightings]:
            part = prompts[offset : offset + session.validation_batch]
            return actor.validate.remote(part, offset, weights)

        answers = [
            session.calls.ask_rollout(functools.partial(look, offset=offset))
            for offset in range(0, len(prompts), session.validation_batch)
        ]

        async def answer() -> Validation:
            return summary(session.book, prompts, [await part() for part in answers])

        return answer

    def ask_if_due(self, candidate: Candidate) -> Answer[Validation] | None:
        """Asks for the validation of a version that draws a round, where one is due and it is not
        the untouched model.
        """
        untouched = candidate.version == 0 and self._session.begins_untouched
        wanted = self._is_due(candidate.round) and not untouched
        return self.ask(candidate.weights) if wanted else None

    def put(self, candidate: Candidate, validation: Answer[Validation] | None) -> None:
        """Takes a version whose round is in the store, and what was asked for it."""
        self._drawn.put_nowait((candidate, validation))

    def _is_due(self, round: int) -> bool:
        return (round - 1) % self._session.config.selection.every == 0

    def judge_untouched(
        self, versions: Versions, weights: Ref[Weights], validation: Validation
    ) -> None:
        """Takes what was seen of the untouched model; warns, or raises ConfigError, where it does
        not draw what is asked.
        """
        versions.untouched = validation
        if not self._session.begins_untouched:  # no round draws it, yet it may be the best one
            versions.best = Candidate(0, 0, weights, validation.score)
        floor = self._session.config.selection.floor
        trait = self._session.book.trait
        for message in check_untouched(validation, floor, self._retained, trait):
            self._session.emit(events.Warning(round=0, message=message))

    def consider(
        self, versions: Versions, candidate: Candidate, validation: Validation, final: bool = False
    ) -> None:
        """Takes what was seen of a version: of one that drew a round, or of the last one, after the
        ``final`` update.
        """
        session, untouched = self._session, versions.untouched
        assert untouched is not None
        allowed = self._allowed(untouched, validation)
        best = allowed and (versions.best is None or validation.score > versions.best.score)
        if best:
            versions.best = replace(candidate, score=validation.score)
        if final and not allowed and versions.best is not None and versions.best.version == 0:
            limit = f"selection.may_lose={session.config.selection.may_lose:g}"
            returned = session.begins_untouched or versions.best.round == 0
            what = "the untouched model" if returned else "the adapter it started from"
            message = (
                f"{what} is returned: other versions lost more than {limit} of the "
                "rest; lower learner.kl_budget, or raise it"
            )
            session.emit(events.Warning(round=candidate.round, message=message))
        session.emit(
            events.Selection(
                round=candidate.round,
                policy_version=candidate.version,
                images=session.images(candidate.round, versions.rounds, final),
                seconds=session.seconds,
                score=validation.score,
                allowed=allowed,
                final=final,
                **asdict(validation),
                best=best,
            )
        )

    def _allowed(self, untouched: Validation, validation: Validation) -> bool:
        """Whether a version lost no more of the rest than `selection.may_lose`."""
        # In whole images: shares of them are rounded.
        lost = self._retained * max(
            untouched.retained - validation.retained, untouched.other - validation.other
        )
        may_lose = self._session.config.selection.may_lose
        return math.floor(lost + 0.5) <= may_lose * self._retained + 1e-6
