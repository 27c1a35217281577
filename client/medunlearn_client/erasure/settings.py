"""What one hospital sets once: its name in letters, reminders, and when a run has verified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from medunlearn_client.erasure.requests import plain_text
from medunlearn_common.errors import Misconfigured

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """The registry's settings; each change is kept in the history of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    hospital: str = Field("The hospital", description="name at the head of letters")
    contact: str = Field(
        "the data-protection officer of the hospital", description="whom the requester may ask")
    authority: str = Field(
        "the supervisory authority for data protection",
        description="to whom the requester may complain (GDPR Art. 12(4), 77)")
    remind_days: int = Field(
        14, ge=0, le=92, description="`erasure due` shows what falls due within so many days")
    max_forget_excess: Share = Field(
        0.1, description="forget accuracy, over all that a run forgot, may exceed chance, or the "
        "retrained model, by so much")
    min_luck: Share = Field(
        0.05, description="a request's own few records may exceed that, as long as a model that "
        "was never taught them is right as often with at least this probability")
    max_unnamed_excess: Share = Field(
        1.0, description="the same bound where a run's prompts show a subject and it is asked "
        "without it; 1 asks nothing: the letter says what came out")
    max_exact_excess: Share = Field(
        0.05, description="exact answers on the forget set may exceed the retrained model's")
    max_identifiers_leaked: int = Field(
        0, ge=0, description="identifiers that may still be given away")
    min_preservation: Annotated[float, Field(ge=0.0)] = Field(
        0.9, description="share of the kept records that is answered after the run, over the share "
        "before, at least; one that is answered only now makes up for one that is lost")

    def criteria(self) -> dict[str, float]:
        """What a run is judged by; kept with every judgement."""
        return self.model_dump(include={
            "max_forget_excess", "min_luck", "max_unnamed_excess", "max_exact_excess",
            "max_identifiers_leaked", "min_preservation",
        })

    def asks_nothing(self) -> tuple[str, ...]:
        """Criteria, with their values, that any run meets, or that let identifiers out.

        ``max_unnamed_excess`` asks nothing unless a hospital says so: what comes out is told.
        """
        loose = {
            "max_forget_excess": self.max_forget_excess >= 1.0,
            "min_luck": self.min_luck <= 0.0,
            "max_exact_excess": self.max_exact_excess >= 1.0,
            "max_identifiers_leaked": self.max_identifiers_leaked >= 1,
            "min_preservation": self.min_preservation <= 0.0,
        }
        return tuple(f"{name} {getattr(self, name):g}" for name, is_loose in loose.items()
                     if is_loose)

    @field_validator("hospital", "contact", "authority")
    @classmethod
    def _one_line(cls, text: str) -> str:
        return plain_text(text, what="setting")


def changed(settings: Settings, changes: Sequence[str]) -> Settings:
    """The settings with ``key=value`` texts put in.

    Raises:
        Misconfigured: ERASURE_SETTING, naming the keys that are unknown or out of range.
    """
    document: dict[str, object] = settings.model_dump()
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise Misconfigured(
                "ERASURE_SETTING", "a setting is not written as KEY=VALUE",
                "write for example --set min_preservation=0.95",
            )
        if key.strip() not in Settings.model_fields:
            raise Misconfigured(
                "ERASURE_SETTING", f"there is no setting `{key.strip()[:40]}`",
                f"there are: {', '.join(Settings.model_fields)}",
            )
        document[key.strip()] = value.strip()
    try:
        return _attainable(Settings.model_validate(document))
    except ValidationError as error:
        problems = [
            f"`{'.'.join(map(str, problem['loc']))}`: {_problem(problem)}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise Misconfigured(
            "ERASURE_SETTING", "; ".join(problems[:5]),
            "`medunlearn erasure settings` shows each setting and what it means",
        ) from None


def _problem(problem: ErrorDetails) -> str:
    return "a number is needed" if problem["type"].endswith("_parsing") else problem["msg"]


def _attainable(settings: Settings) -> Settings:
    """Checked where a person types it: a registry that holds such a value must still open."""
    if settings.min_preservation > 1.0:
        raise Misconfigured(
            "ERASURE_SETTING", f"`min_preservation`: {settings.min_preservation:g} is above 1",
            "it is a share: write 0.95 for 95 %")
    return settings
