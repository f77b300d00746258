"""``python -m gateway.settings > docs/settings.md``: every setting, from the code."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.cli import serve
from gateway.settings import Settings, variables_of
from gateway.settings.fields import Section

HEAD = """# Settings

Each is given as an option of `chatglm-gateway serve`, where it has one, in the environment, or in a file
`.env` in the working directory; the first of these wins. `chatglm-gateway settings` prints the values that
hold here and where each comes from. Lists and objects are JSON.

This page is made from the code: `python -m gateway.settings > docs/settings.md`.
"""

# What depends on the machine.
DEFAULTS = {"data_dir": "`/var/lib/chatglm-gateway` for root, else the user's own data folder"}


def page() -> Iterator[str]:
    """The lines of docs/settings.md."""
    yield HEAD
    options = inspect.signature(serve).parameters
    for section in reversed(Settings.__bases__):
        assert issubclass(section, Section)
        yield f"## {' '.join((section.__doc__ or section.__name__).split()).rstrip('.')}\n"
        yield "| setting | option | environment | default | |"
        yield "|---|---|---|---|---|"
        for name in section.__annotations__:
            if name in section.model_fields:
                yield row(name, section.model_fields[name], has_option=name in options)
        yield ""


def row(name: str, field: FieldInfo, *, has_option: bool) -> str:
    """One setting."""
    option = f"`--{name.replace('_', '-')}`" if has_option else ""
    variables = ", ".join(f"`{variable}`" for variable in variables_of(name))
    description = (field.description or "").replace("|", "\\|").replace("\n", " ")
    return (
        f"| `{name}` | {option} | {variables} | {DEFAULTS.get(name) or default_of(field)} | {description} |"
    )


def default_of(field: FieldInfo) -> str:
    """As it would be written."""
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str | int | float):
        return f"`{value}`"
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print("\n".join(page()), end="")
