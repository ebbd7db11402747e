"""Exceptions of the package: one base class, each child also the builtin that a caller would guess."""


class WarmstartError(Exception):
    """Base of every error that this package raises on purpose."""


class ProblemError(WarmstartError, ValueError):
    """Problem data that no solver may be given: the message names the field."""


class StartError(WarmstartError, ValueError):
    """A start that was passed explicitly and does not fit the problem."""


class StructureError(WarmstartError, ValueError):
    """A problem of another structure, or with another constant, than a Solver or Model was made for."""


class ModelFileError(WarmstartError, ValueError):
    """A model file that is damaged, foreign or newer than this package."""


class FamilyError(WarmstartError, LookupError):
    """A family that does not exist or cannot be read."""


class TrainingError(WarmstartError, RuntimeError):
    """Training that cannot go on: no usable labels, nothing varies, an interrupted run of other settings."""


class DriftWarning(UserWarning):
    """A model that has stopped paying, and that its Solver uses no more: see `warmstart.statistics`."""


class MissingExtraError(WarmstartError, ImportError):
    """An optional dependency that is not installed: the message names the extra to install."""
