"""Secrets stay out of everything that is kept or shown: they are struck out of error messages.

What is struck out: the values of environment variables whose names say that they are secret, and every `SecretStr`
and header of the models that agents were made from. Prompts and recordings never hold a key, because a model's client
adds it below them; an endpoint's error message may echo one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel, SecretStr

_TELLING = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)

_SHORTEST = 8
"""Characters of a secret; striking out shorter ones would maim ordinary words."""

_KEY_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})

_known: set[str] = set()


def keep_secret(model: Any) -> None:
    """Remember the secrets of a model's client, to strike them out from now on."""
    if isinstance(model, BaseModel):
        _known.update(value for value in _secrets_of(model) if len(value) >= _SHORTEST)


def keep_secrets_of(error: BaseException) -> None:
    """Remember the keys of the request that failed, if the error carries it: an endpoint may echo them."""
    found: Any = getattr(getattr(error, "request", None), "headers", None)
    if isinstance(found, Mapping):
        for name, value in cast("Mapping[Any, Any]", found).items():
            if _TELLING.search(str(name)) or str(name).lower() in _KEY_HEADERS:
                _known.update(word for word in str(value).split() if len(word) >= _SHORTEST)


def strike_out(text: str) -> str:
    """A text without any known secret."""
    for secret in sorted({*_known, *_in_environment()}, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, "***")
    return text


def _in_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _TELLING.search(name) and not os.path.exists(value):  # noqa: PTH110 -- a path to a key is no key
            yield value


def _secrets_of(model: BaseModel) -> Iterator[str]:
    for name in type(model).model_fields:
        value: Any = getattr(model, name, None)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, Mapping) and "header" in name:
            headers = cast("Mapping[Any, Any]", value)
            yield from (word for header in headers.values() for word in str(header).split())
