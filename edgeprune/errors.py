"""What can go wrong for a reason that a person can act on.

Every error says in one sentence what is wrong, with the value and the limit, and names one thing to try. The
command line prints exactly that and exits with ``exit_code``; a traceback means a bug in edgeprune.
"""

import math


class EdgepruneError(Exception):
    """A failure with a sentence to read and one thing to try.

    Args:
        problem: one sentence with the wrong value and the limit, ending in a full stop.
        remedy: one thing to try, without the leading "try:".
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n  try: {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Subclasses have arguments of their own; what arrives from another process has the same words and exit code.
        return _rebuild, (type(self), self.problem, self.remedy)


def _rebuild(kind: type[EdgepruneError], problem: str, remedy: str) -> EdgepruneError:
    error = kind.__new__(kind)
    EdgepruneError.__init__(error, problem, remedy)
    return error


class InputError(EdgepruneError):
    """The recipe, an argument, a file or a folder cannot be used as it is (exit code 2)."""

    exit_code = 2


class UnreachableTargetError(EdgepruneError):
    """A schedule asks for more than can be removed while every layer keeps a block."""

    def __init__(self, target: float, *, highest: float, align: int) -> None:
        super().__init__(
            f"Target {target:g} cannot be reached: with {align} channel(s) left in every layer, the most that can go "
            f"is {highest:.4f}.",
            f"a target of at most {math.floor(highest * 1000) / 1000:g}, a smaller `align`, or fewer protected modules",
        )


class TargetMissingError(EdgepruneError):
    """The level that was asked for does not exist at the end of a prune run (exit code 1)."""


class GateFailedError(EdgepruneError):
    """At least one gate failed, so nothing was published (exit code 1)."""


class MissingExtraError(InputError):
    """A command needs packages that the base install leaves out.

    >>> print(MissingExtraError("edgeprune prune", "prune", "torch"))
    `edgeprune prune` needs the package torch, which is not installed here.
      try: pip install 'edgeprune[prune]'
    """

    def __init__(self, command: str, extra: str, module: str) -> None:
        super().__init__(
            f"`{command}` needs the package {module}, which is not installed here.",
            f"pip install 'edgeprune[{extra}]'",
        )
