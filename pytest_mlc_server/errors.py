"""Every error of this package: what happened, the evidence, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence


class MLCServerError(Exception):
    """Base class of the errors that this package raises on purpose.

    The text is written for the person who reads it in a red CI run. A test session shows the
    whole text once; every further test that needs the same server gets `brief` instead.

    Parameters
    ----------
    text
        What happened, the evidence, and what to do.
    brief
        One line of it. Default: the first.
    """

    def __init__(self, text: str, *, brief: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.brief = brief or text.splitlines()[0]
        self.reported_by: str | None = None
        """Node id of the test that showed the whole text, once one did."""

    def __str__(self) -> str:
        if self.reported_by is None:
            return self.text
        return f"{self.brief}\n(first reported by {self.reported_by})"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions rebuild themselves from `args` alone, which would lose the keyword arguments
        # on the way from a multiprocessing worker to its parent.
        return (_rebuild, (type(self), self.text, self.__dict__.copy()))


def _rebuild(kind: type[MLCServerError], text: str, state: dict[str, object]) -> MLCServerError:
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    error.__dict__.update(state)
    return error


class ConfigError(MLCServerError, ValueError):
    """A configuration that cannot be served; found before anything is started.

    When a `ServerConfig` or a `PopenServer` is made of values that contradict themselves, and when
    a start looks at the files: the model's directory, its library, the port, the interpreter. All
    mistakes are told together. Mend what the text names; wrong syntax on the command line, in the
    environment or in the ini file ends a run of pytest at its start, with exit code 4.

    Parameters
    ----------
    problems
        What is wrong: one entry a problem, each naming the setting, its value and where the
        value came from.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        if len(self.problems) == 1:
            text = self.problems[0]
        else:
            text = f"{len(self.problems)} problems in the configuration of the MLC server:\n"
            text += "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(text)


class StartError(MLCServerError, RuntimeError):
    """A server that did not become ready. Nothing of it is left running.

    When its process ended, its engine died, or the time limit was over (``startup_timeout``, or
    ``startup_limit`` while a download or a compilation makes progress). The text has the engine's
    own words, what to do, the phase in which the time went, the command, the exit status or signal
    and the end of the log; the log itself is kept. Upstream's `PopenServer.start` raises
    `RuntimeError` for this, hence the base class.

    Parameters
    ----------
    text, brief
        As in `MLCServerError`.
    returncode
        Exit status of the server's process, negative for a signal; None if it did not exit.
    log_path
        The server's log; None where there is none.
    """

    def __init__(
        self,
        text: str,
        *,
        brief: str | None = None,
        returncode: int | None = None,
        log_path: str | None = None,
    ) -> None:
        super().__init__(text, brief=brief)
        self.returncode = returncode
        """Exit status of the server process, negative for a signal; None if it did not exit."""
        self.log_path = log_path
        """The server's log, kept for reading; None where there is none."""


class EngineUnavailableError(StartError):
    """The chosen engine, or the hardware that it needs, is not on this machine.

    Install what the text names, choose another interpreter (``python``) or engine, or leave these
    tests out here: ``--mlc-unavailable skip`` turns this error, and no other, into a skip.
    """


class SimulatorError(MLCServerError, RuntimeError):
    """The simulator cannot be scripted: it is gone, or it is none that this process started.

    `MLCSim` raises it. It needs a running server with engine ``sim``, of which this process has the
    handle; one that a test ended on purpose is there again for the next test.
    """


class UsageUnknownError(MLCServerError):
    """A number of `mlc_usage` that is not known, or that there is none of yet.

    The engine ``mock`` counts no tokens, an external server has no log, and before the first
    request there is no time to a first token; the text says which it is. ``mlc_usage.now()`` has
    None instead.
    """


class RequestError(MLCServerError, RuntimeError):
    """A request of `server.chat` and its like that got no answer, or none that is one.

    The text has the server's own words; or that the server is not started, wedged or dead, with the
    evidence from its log.

    Parameters
    ----------
    text
        As in `MLCServerError`.
    status
        The status of the answer; None where there was none.
    body
        The body of the answer, as it came.
    """

    def __init__(self, text: str, *, status: int | None = None, body: str = "") -> None:
        super().__init__(text)
        self.status = status
        """The status of the answer; None where there was none."""
        self.body = body
        """The body of the answer, as it came."""


def nearest(word: str, known: Sequence[str]) -> str:
    """Return a hint at the known word that is nearest, or nothing."""
    import difflib  # only a mistake needs it

    matches = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
