"""The server of one model, as a diagnosis sees it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_mlc_server import engines, masking
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.doctor.findings import Section

#: Fields of the configuration by the section that tells of them.
FIELDS = {
    "model": ("model", "embedding_model", "additional_models"),
    "library": ("model_lib", "embedding_model_lib"),
    "interpreter": ("python",),
    "port": ("port", "host"),
    "machine": ("log_dir", "cwd"),
}


@dataclass
class Case:
    """The server of one model.

    Parameters
    ----------
    config
        Its configuration, with the GPUs that the run would give it.
    problems
        What the run's own checks find before the start.
    workers
        How many processes would want one on this host.
    share
        Equal for servers of other runs that this run would use instead; empty for none.
    """

    config: ServerConfig
    problems: Sequence[str] = ()
    workers: int = 1
    share: str = ""
    environment: dict[str, str] = field(init=False)
    """Its whole environment."""
    cwd: str = field(init=False)
    """Its directory."""

    def __post_init__(self) -> None:
        self.environment = engines.environment(self.config, {})
        self.cwd = os.path.abspath(self.config.cwd or os.getcwd())

    @property
    def is_real(self) -> bool:
        """Whether ``mlc_llm`` serves."""
        return self.config.engine in ("mlc", "mock")

    def problems_of(self, section: str) -> list[str]:
        """Return the problems that belong into a section; those of none are of the settings."""
        named = {name for names in FIELDS.values() for name in names}
        wanted = FIELDS.get(section)
        return [
            problem
            for problem in self.problems
            if (_field(problem) in wanted if wanted else _field(problem) not in named)
        ]

    def add_problems(self, section: Section, code: str, remedy: str) -> bool:
        """Add the problems of a section to it; tell whether there are any.

        Parameters
        ----------
        section
            The section.
        code
            The kind of the findings.
        remedy
            What to do where a problem does not say it.
        """
        found = self.problems_of(section.name)
        for problem in found:
            section.add(code, *with_remedy(problem, remedy, self.config))
        return bool(found)

    @property
    def secrets(self) -> list[str]:
        """What must not be shown."""
        return masking.secrets_of(self.config.api_key, self.config.env)


def _field(problem: str) -> str:
    return problem.partition(" = ")[0]


#: How remedies begin that stand at the end of an error of this package.
_IMPERATIVE = re.compile(
    r"[;:] (?=(?:`mlc_llm|stop|copy|make|compile|download|give|use|set|start|leave|write|add|list|"
    r"prepare|did|install|remove|spread|let)\b)"
)


def with_remedy(
    problem: str, otherwise: str, config: ServerConfig | None = None
) -> tuple[str, str]:
    """Divide an error of this package into what is wrong and what to do.

    Parameters
    ----------
    problem
        The error.
    otherwise
        What to do where the error does not say it.
    config
        Where the error's values come from: what stands in a value is no remedy.
    """
    values = " ".join(str(value) for value in vars(config).values()) if config is not None else ""
    for match in _IMPERATIVE.finditer(problem):
        remedy = problem[match.end() :]
        if remedy not in values:
            return problem[: match.start()], remedy
    return problem, otherwise
