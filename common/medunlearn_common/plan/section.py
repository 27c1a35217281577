"""What all sections of a plan have in common: strictness, and the kinds of numbers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

LEVELS = 4

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
LevelWeights = tuple[
    Annotated[float, Field(ge=0.0)],
    Annotated[float, Field(ge=0.0)],
    Annotated[float, Field(ge=0.0)],
    Annotated[float, Field(ge=0.0)],
]


class Section(BaseModel):
    """A frozen table that refuses keys it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _own_kind(cls, value: Any, info: ValidationInfo) -> Any:
        # Left to itself, pydantic reads `rounds = true` as 1 and `epsilon = "8"` as 8.
        wanted = cls.model_fields[str(info.field_name)].annotation
        if wanted in (int, float) and isinstance(value, bool | str):
            raise ValueError("should be a number, without quotes")
        if wanted is bool and not isinstance(value, bool):
            raise ValueError("should be true or false, without quotes")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        # No file system and no hub has a name with NUL, and each library fails at it differently.
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and "\x00" in text for text in texts):
            raise ValueError("holds a NUL character")
        return value
