"""The estimators of the policy gradient as rows of one table.

A new estimator is a row here and a pure function in :mod:`rl_unlearn.advantages`, or both in an
installed package; actors, learner, plan and configuration ask the row. Nothing heavy is imported,
so that the command line knows the names without torch.
"""

from dataclasses import dataclass
from typing import Literal

from rl_unlearn import plugins
from rl_unlearn.errors import ConfigError


@dataclass(frozen=True)
class Estimator:
    """One way to turn the rewards of a batch into a gradient."""

    name: str
    summary: str
    """What it does, in a few words."""
    paper: str
    """Where it comes from."""
    advantages: str
    """Function that says what each step is worth: of :mod:`rl_unlearn.advantages`, or, in an
    installed package, ``module:function``."""
    also: tuple[str, ...] = ()
    """Other names that people know it by."""
    critic: bool = False
    """Whether a learned critic is needed."""
    timed: bool = True
    """Whether the critic is told the timestep."""
    gradients: Literal["actions", "means"] | None = None
    """Where the critic's action gradient is taken: at the stored actions, at the behaviour means,
    or not at all."""
    predicts: bool = False
    """Whether rollouts reward the decoded prediction of x0 at each step."""
    reweighs: bool = False
    """Whether the batch is evaluated under the present policy before the first optimizer step."""
    backprop: bool = False
    """Whether rollouts take the reward's own gradient by each action, through decoder, CLIP and the
    rest of the trajectory."""
    scores_first: bool = True
    """Whether the critic must score a batch before it is fitted on it: a baseline or a control
    variate that has seen the outcomes takes some of the gradient away. The action gradient alone is
    best near what it has seen."""

    @property
    def valued(self) -> bool:
        """Whether each state of a scored batch has a value."""
        return self.critic or self.predicts


_ROWS = (
    Estimator(
        "terminal",
        "reward against the prompt's running statistics (DDPO)",
        "Black et al. 2023, arXiv 2305.13301",
        "against_prompt",
        also=("ddpo",),
    ),
    Estimator(
        "group",
        "reward against the same prompt's images of the round (GRPO)",
        "Shao et al. 2024, arXiv 2402.03300",
        "against_group",
        also=("grpo",),
    ),
    Estimator(
        "critic",
        "GAE on the critic's values (CGRU)",
        "arXiv 2601.03213; Schulman et al. 2016, arXiv 1506.02438",
        "by_gae",
        also=("cgru",),
        critic=True,
    ),
    Estimator(
        "critic_no_t",
        "`critic` whose critic is not told the timestep",
        "arXiv 2601.03213; Schulman et al. 2016, arXiv 1506.02438",
        "by_gae",
        critic=True,
        timed=False,
    ),
    Estimator(
        "vtrace",
        "V-trace on the critic's values, for replayed steps",
        "Espeholt et al. 2018, arXiv 1802.01561",
        "by_vtrace",
        critic=True,
        reweighs=True,
    ),
    Estimator(
        "x0hat",
        "GAE on the rewards of the decoded predictions of x0",
        "Schulman et al. 2016, arXiv 1506.02438",
        "by_gae",
        predicts=True,
    ),
    Estimator(
        "qprop",
        "`critic` with the critic's action gradient as control variate",
        "Gu et al. 2017, arXiv 1611.02247",
        "by_gae",
        critic=True,
        gradients="means",
    ),
    Estimator(
        "pathwise",
        "the critic's action gradient alone (SVG(0))",
        "Heess et al. 2015, arXiv 1510.09142",
        "by_gradients",
        critic=True,
        gradients="actions",
        scores_first=False,
    ),
    Estimator(
        "pathwise_no_t",
        "`pathwise` whose critic is not told the timestep",
        "Heess et al. 2015, arXiv 1510.09142",
        "by_gradients",
        critic=True,
        timed=False,
        gradients="actions",
        scores_first=False,
    ),
    Estimator(
        "backprop",
        "the reward's own gradient through the rest of the trajectory, without a critic (DRaFT)",
        "Clark et al. 2023, arXiv 2309.17400; Prabhudesai et al. 2023, arXiv 2310.03739",
        "by_gradients",
        also=("draft", "alignprop"),
        backprop=True,
    ),
)

ESTIMATORS = {row.name: row for row in _ROWS}
NAMES = tuple(ESTIMATORS)

KNOWN_AS = {other: row.name for row in _ROWS for other in row.also}
"""Names of the table by the others that people know them by."""


def find(name: str) -> Estimator:
    """Returns the estimator of that name: a row of the table, or of an installed package.

    Raises ConfigError for one that is not what its entry point says.
    """
    if name in ESTIMATORS:
        return ESTIMATORS[name]
    row = plugins.load(plugins.ESTIMATORS, name)
    if not isinstance(row, Estimator) or row.name != name:
        package = plugins.version(plugins.ESTIMATORS, name)
        raise ConfigError(f"estimator.name: {package} has no Estimator of the name {name!r}")
    return row


def described() -> str:
    """Returns a sentence on each estimator, for the configuration's own documentation."""
    sentences = " ".join(f"{row.name}: {row.summary}." for row in _ROWS)
    others = ", ".join(f"`{other}` for {name}" for other, name in KNOWN_AS.items())
    return f"{sentences} Also taken: {others}, and what installed packages add."
