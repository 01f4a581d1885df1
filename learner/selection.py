"""Selection: the policy version that a run returns is the best one that the selection CLIP saw."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from learner import events
from learner.roles import Ref
from learner.session import Session
from learner.versions import Candidate, Versions
from rl_unlearn.messages import Weights
from rl_unlearn.untouched import check_untouched
from rl_unlearn.validation import Validation


class Selection:
    """Validates policy versions on fixed prompts and noise, and remembers the best."""

    def __init__(self, session: Session):
        self._session = session
        prompts = session.book.prompts
        self._retained = sum(not prompts[i].target for i in session.validated)

    def ask(self, round: int, weights: Ref[Weights]) -> Callable[[], Awaitable[Validation]]:
        """Asks a rollout actor to validate a version; what is returned waits for the answer."""
        prompts = self._session.validated
        return self._session.calls.ask_rollout(
            round, lambda actor: actor.validate.remote(prompts, weights)
        )

    def judge_untouched(self, versions: Versions, validation: Validation) -> None:
        """Takes what was seen of the untouched model; warns, or raises ConfigError, where it does
        not draw what is asked.
        """
        versions.untouched = validation
        floor = self._session.config.selection.floor
        for message in check_untouched(validation, floor, self._retained):
            self._session.emit(events.Warning(round=0, message=message))

    async def consider(
        self,
        versions: Versions,
        round: int,
        version: int,
        weights: Ref[Weights],
        final: bool = False,
    ) -> None:
        """Validates the version that drew a round, or after the ``final`` update the last one."""
        session, untouched = self._session, versions.untouched
        assert untouched is not None
        # The first round is drawn by the untouched model, which was validated before anything was
        # learned.
        validation = untouched if version == 0 else await self.ask(round, weights)()
        allowed = self._allowed(untouched, validation)
        best = allowed and (versions.best is None or validation.score > versions.best.score)
        if best:
            versions.candidates.append(Candidate(round, version, validation.score, weights))
        if final and not allowed and versions.best is not None and versions.best.version == 0:
            limit = f"selection.may_lose={session.config.selection.may_lose:g}"
            message = (
                f"the untouched model is returned: other versions lost more than {limit} of the "
                "rest; lower learner.kl_budget, or raise it"
            )
            session.emit(events.Warning(round=round, message=message))
        session.emit(
            events.Selection(
                round=round,
                policy_version=version,
                images=session.images(round, versions.rounds, final),
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
