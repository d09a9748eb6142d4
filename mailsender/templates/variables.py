"""The variables of a letter: put together, bounded, and held to the template's JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import orjson

from mailsender.templates.template import Limits, TemplateError

MAX_SCHEMA = 64 * 1024
"""Bytes of a schema, written as JSON."""

MAX_CHECKS = 5_000
"""Schemas within a schema, those that are referred to counted each time: ten references to ten references
are a hundred, and what a check takes grows with them."""

MAX_PATTERN = 64 * 1024
"""Bytes of a pattern in its compiled form, against which each letter of a text is held: over as many as
variables may have the worst that was found took 0.5 s, and 2 s without this limit."""

_REFUSED = frozenset(
    {
        "$dynamicRef",
        "$recursiveRef",
        "$dynamicAnchor",
        "$anchor",
        "$id",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
"""What makes references that cannot be followed by reading, or looks at everything again."""


def merged(*layers: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The variables of one message: each of `layers` wins over those before it.

    In a letter they are those for all letters, the letter's own, and the recipient's. Only whole variables
    are replaced, not what is within them.

    Raises:
        TemplateError: they are more than `limits` allows, or no JSON.
    """
    variables: dict[str, Any] = {}
    for each in layers:
        variables.update(each)
    bounded(variables, limits=limits)
    return variables


def bounded(variables: dict[str, Any], *, limits: Limits) -> None:
    """Nothing, if `variables` are JSON within `limits`.

    Raises:
        TemplateError: they are not.
    """
    values = characters = 0
    level: list[Any] = [variables]
    for _ in range(limits.nesting + 1):
        members: list[Any] = []
        for each in level:
            if type(each) is dict:
                if not all(type(key) is str for key in each):
                    raise TemplateError("the keys of an object are texts: variables are what JSON can say")
                members.extend(each)
                members.extend(each.values())
            else:
                members.extend(each)
            values += len(each)
            if values > limits.values:
                raise TemplateError(f"the variables have more than {limits.values} values")
        texts = [each for each in members if type(each) is str]
        characters += sum(map(len, texts))
        if characters > limits.characters:
            raise TemplateError(f"the variables have more than {limits.characters} characters")
        level = [each for each in members if type(each) is dict or type(each) is list]
        if not all(type(each) in _JSON for each in members):
            raise TemplateError(
                "variables are what JSON can say: texts, numbers, true, false, null, lists, objects"
            )
        if not level:
            return
    raise TemplateError(f"the variables are nested more than {limits.nesting} deep")


_JSON = frozenset({str, int, float, bool, type(None), list, dict})


class Schema:
    """A JSON Schema of variables, ready to check them (draft 2020-12 unless it names another).

    Patterns are matched in linear time, so they have no look-around and no back-references; nothing is ever
    fetched; formats (``date``, ``email``, ``uri``) are checked.

    Raises:
        TemplateError: it is no schema, too large, or refers to what is not in itself.
    """

    __slots__ = ("_template", "_validator")

    def __init__(self, schema: Mapping[str, Any], template: str) -> None:
        self._template = template
        try:
            size = len(orjson.dumps(schema))
        except (orjson.JSONEncodeError, RecursionError):
            raise TemplateError("the schema is no JSON", template=template) from None
        if size > MAX_SCHEMA:
            raise TemplateError(f"the schema has more than {MAX_SCHEMA} bytes", template=template)
        _bound_schema(schema, template)
        try:
            self._validator = jsonschema_rs.validator_for(
                dict(schema),
                offline=True,
                validate_formats=True,
                mask="the value",
                pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN),
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            reason = (getattr(error, "message", None) or str(error))[:300]
            if "regex" in reason:
                reason = (
                    f"{reason}; it has no look-around and no back-reference, and repeats no large part often"
                )
            raise TemplateError(f"the schema: {reason}", template=template) from None

    def check(self, variables: Mapping[str, Any]) -> None:
        """Nothing, if `variables` are as the schema wants them.

        Raises:
            TemplateError: they are not; `variable` is the first that is not, as ``items[3].price``.
        """
        try:
            self._validator.validate(variables)
        except jsonschema_rs.ValidationError as error:
            path = _path(error.instance_path)
            if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
                path = f"{path}.{error.kind.property}".lstrip(".")
                raise TemplateError("it is missing", template=self._template, variable=path[:200]) from None
            raise TemplateError(
                error.message[:300], template=self._template, variable=path[:200] or None
            ) from None
        except ValueError:
            raise TemplateError("the variables cannot be checked", template=self._template) from None


def _path(steps: list[str | int]) -> str:
    path = ""
    for each in steps:
        path += f"[{each}]" if isinstance(each, int) else f".{each}"
    return path.lstrip(".")


def _bound_schema(schema: Mapping[str, Any], template: str) -> None:
    """Follows every reference, so that the size that counts is the one that is checked against."""
    count = 0
    open_: list[tuple[Any, frozenset[str]]] = [(schema, frozenset())]
    while open_:
        each, within = open_.pop()
        count += 1
        if count > MAX_CHECKS:
            raise TemplateError(f"the schema comes to more than {MAX_CHECKS} parts", template=template)
        if isinstance(each, list):
            open_.extend((member, within) for member in each)
        if not isinstance(each, Mapping):
            continue
        refused = _REFUSED & each.keys()
        if refused:
            raise TemplateError(f"the schema: {min(refused)} is not supported", template=template)
        target = each.get("$ref")
        if isinstance(target, str):
            if target in within or target == "#":
                raise TemplateError("the schema refers to itself in a circle", template=template)
            open_.append((_found(schema, target, template), within | {target}))
        # Definitions count where they are referred to.
        open_.extend((value, within) for key, value in each.items() if key not in {"$defs", "definitions"})


def _found(schema: Mapping[str, Any], target: str, template: str) -> Any:
    where: Any = schema
    for step in target.removeprefix("#/").split("/") if target.startswith("#/") else [""]:
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(where, Mapping) or key not in where:
            raise TemplateError(
                "the schema refers to what is not in it: $ref is '#/$defs/…'", template=template
            )
        where = where[key]
    return where
