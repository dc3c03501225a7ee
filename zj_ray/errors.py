"""The one error that users see: what is wrong, where, and what to do.

Everything a user can mend is raised as a `ZjError`; the command line prints it as one clear line and exits with status
2, without a traceback. Anything else that reaches the command line is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

from functools import partial


class ZjError(Exception):
    """A fault the user can mend.

    what:   the fault in one sentence ("unknown key 'ppo.stesp'")
    where:  file and line, config key, engine or role ("configs/demo.yaml:12"); empty when the fault stands nowhere
    remedy: what to do about it ("did you mean 'ppo.steps'?")
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        location = f"{where}: " if where else ""
        advice = f" — {remedy}" if remedy else ""
        super().__init__(f"{location}{what}{advice}")

    def __reduce__(self) -> tuple:
        """Survive the pickling between Ray processes: keyword arguments are not restored by default."""
        return partial(type(self), where=self.where, remedy=self.remedy), (self.what,)


def brief(error: BaseException) -> str:
    """What happened, in one line. A traceback from another process says it in its last line."""
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__


class ConfigError(ZjError):
    """A configuration that can't be run: unknown key, wrong type, value out of range, key without effect."""


class DataError(ZjError):
    """A data file that can't be used: missing, malformed row, wrong role order, empty answer."""


class CheckpointError(ZjError):
    """A checkpoint or model folder that is missing, damaged or of another architecture."""


class WaitTimeout(ZjError):
    """Something did not answer in time; names the engine, role, prompt and version that was waited for."""


class PeopleNeeded(ZjError):
    """The run stands still until people have done their part; then the same command goes on."""


class RoleLost(ZjError):
    """A rank of a PPO role died. The roles can be built anew from the last checkpoint, inside the run."""
