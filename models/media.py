"""Responses that are files, such as speech."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, field_validator

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
MEDIA_TYPE = re.compile(
    rf"{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|\"(?:[\t !#-\[\]-~]|\\[\t -~])*\"))*[ \t]*;?"
)
"""A media type with parameters, of RFC 9110."""


class Media(BaseModel):
    """A response that is a file, such as speech; the service sends its content under its media type."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    content: bytes
    media_type: str

    @field_validator("media_type", check_fields=False)
    @classmethod
    def _is_media_type(cls, value: str) -> str:
        # It is sent as a header; a line break would begin another one.
        if not MEDIA_TYPE.fullmatch(value):
            raise ValueError(f"{value!r} is not a media type; give type/subtype, with parameters if need be")
        return value
