"""The errors a user can cause or mend: one line each, naming the input and the remedy, with a
stable exit code.
"""


class UserError(Exception):
    """Base of every error shown without a traceback; ``exit_code`` is what the command line
    returns.
    """

    exit_code = 2


class ConfigError(UserError):
    """A wrong argument, key or value (exit code 2)."""


class MachineError(UserError):
    """The machine or cluster lacks something: a GPU, write permission, a reachable head node (exit
    code 3).
    """

    exit_code = 3


class NoRoomError(MachineError):
    """The cluster has no room for the actors, perhaps only for a while."""


class TrainingError(UserError):
    """Training started and could not be finished (exit code 4)."""

    exit_code = 4


class LostError(TrainingError):
    """An actor died, hangs or is out of reach; a run may go on from its newest checkpoint."""


class NonFiniteError(TrainingError):
    """Rewards or gradients are not finite again and again; a run may go on once from its newest
    checkpoint.
    """


class DataError(UserError):
    """A model, adapter, prompt list or stored batch is missing or invalid (exit code 5)."""

    exit_code = 5
