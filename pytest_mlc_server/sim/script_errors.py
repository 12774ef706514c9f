"""What is wrong with a script file, in words for the person who wrote it."""

from __future__ import annotations

import copy
import difflib
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

ModelT = TypeVar("ModelT", bound=BaseModel)

Place = tuple[str | int, ...]

_SHOWN = 80


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Attributes
    ----------
    place : tuple
        The keys and indices that lead to it.
    message : str
        What is wrong there.
    name : str, optional
        The name of the rule in which it is.
    meant : str, optional
        For a key that is not known: the one that was probably meant, empty for none.
    """

    place: Place
    message: str
    name: str | None = None
    meant: str | None = None

    def __str__(self) -> str:
        """Name the table, its number, counted from 1, and the key within it."""
        table, *rest = self.place or ("",)
        if rest and isinstance(rest[0], int):
            number = rest.pop(0)
            title = f"[[{table}]] number {int(number) + 1}"
            title += f" ({self.name})" if self.name else ""
        else:
            title = f"[{table}]" if rest else str(table)
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
        return f"{title}{f', {key[1:]}' if key else ''}: {self.message}"


def check(model: type[ModelT], data: dict[str, Any]) -> tuple[ModelT | None, list[Problem]]:
    """Make a `model` of `data`, or tell everything that is wrong with it.

    pydantic looks for contradictions in a table only when each of its keys is right. So what is
    wrong is mended or taken out, and the rest is checked again: a contradiction beside a slip of
    the pen is told at once with it.
    """
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        problems = _problems(model, data, error)
    mended, taken = _mended(data, problems)
    try:
        model.model_validate(mended)
    except ValidationError as error:
        told = {problem.place for problem in problems} | taken
        more = _problems(model, mended, error)
        problems += [problem for problem in more if problem.place not in told]
    return None, sorted(
        problems, key=lambda problem: [str(part).zfill(6) for part in problem.place]
    )


def _problems(model: type[BaseModel], data: Any, error: ValidationError) -> list[Problem]:
    found: dict[Place, list[str]] = {}
    meant: dict[Place, str] = {}
    for item in error.errors(include_url=False):
        place = _place(data, item["loc"], missing=item["type"] == "missing")
        message = _message(item)
        if item["type"] == "extra_forbidden":
            known = _known_keys(model, data, place[:-1])
            near = difflib.get_close_matches(str(place[-1]), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            message = f"is not known; {hint}"
            meant[place] = near[0] if near else ""
        messages = found.setdefault(place, [])
        if message not in messages:
            messages.append(message)
    return [
        Problem(place, "; or ".join(messages), _name(data, place), meant.get(place))
        for place, messages in found.items()
    ]


def _mended(data: Any, problems: list[Problem]) -> tuple[Any, set[Place]]:
    """Return `data` without what is wrong, and the tables from which something was taken."""
    mended = copy.deepcopy(data)
    taken: set[Place] = set()
    for *place, key in (problem.place for problem in problems if problem.place):
        table = _at(mended, place)
        if "fault" in (*place, key):
            # A whole fault goes: without its kind, or a part of it, there is nothing to check.
            depth = [*place, key].index("fault")
            _at(mended, [*place, key][:depth])["fault"] = {"kind": "none"}
        elif isinstance(table, dict) and key in table:
            value = table.pop(key)
            meant = next(problem.meant for problem in problems if problem.place == (*place, key))
            if meant and meant not in table:
                table[meant] = value
            else:
                taken.add(tuple(place))
    return mended, taken


def _place(given: Any, loc: tuple[int | str, ...], *, missing: bool) -> Place:
    """Return the part of pydantic's `loc` that is in the file: without the names of choices."""
    data: Any = given
    place: list[str | int] = []
    entered = False
    for index, part in enumerate(loc):
        if entered and isinstance(data, dict) and data.get("kind") == part:
            entered = False  # the choice among the faults
        elif (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and part in range(len(data))
        ):
            data = _at(data, [part])
            place.append(part)
            entered = True
        elif missing and index == len(loc) - 1:
            place.append(part)
    return tuple(place)


def _message(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return "is missing"
    if item["type"] == "union_tag_not_found":
        return "kind is missing"
    if item["type"] == "union_tag_invalid":
        return f"kind is {item['ctx']['tag']!r}, not one of {item['ctx']['expected_tags']}"
    if item["type"] == "value_error":
        return message
    given = repr(item["input"])
    given = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
    return f"{message.replace('Input should be', 'has to be')}, not {given}"


def _at(data: Any, place: Sequence[str | int]) -> Any:
    for part in place:
        data = data[part]
    return data


def _name(data: Any, place: Place) -> str | None:
    item = _at(data, place[:2]) if len(place) > 1 and isinstance(place[1], int) else None
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else None


def _known_keys(model: type[BaseModel], data: Any, place: Place) -> list[str]:
    """Return the keys of the table at `place`."""
    annotation: Any = model
    for part in place:
        data = data[part]
        if isinstance(part, str):
            fields = {
                field.alias or name: field.annotation
                for kind in _models(annotation, None)
                for name, field in kind.model_fields.items()
            }
            annotation = fields.get(part)
    kind = data.get("kind") if isinstance(data, dict) else None
    return sorted(
        field.alias or name
        for found in _models(annotation, kind)
        for name, field in found.model_fields.items()
    )


def _models(annotation: Any, kind: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation; of the faults, only the one of this `kind`."""
    # Python 3.10 takes `list[int]` for a type as well.
    plain = typing.get_origin(annotation) is None and isinstance(annotation, type)
    if plain and issubclass(annotation, BaseModel):
        tag = annotation.model_fields.get("kind")
        return [annotation] if kind is None or tag is None or tag.default == kind else []
    if typing.get_origin(annotation) is dict:
        return []
    inner = (argument for argument in typing.get_args(annotation))
    return [found for argument in inner for found in _models(argument, kind)]
