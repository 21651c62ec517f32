"""Errors that a user can act on.

Every `InputError` names the field, the value found, what is required and what to do about it.  The
command line prints it without a traceback and ends with exit code 2; any other exception is a
defect or a failure (exit code 1).
"""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Unusable input: `field` had `value`, which breaks `requirement`; `remedy` says what to do."""

    def __init__(self, field: str, value: object, requirement: str, remedy: str) -> None:
        self.field = field
        self.value = value
        self.requirement = requirement
        self.remedy = remedy
        super().__init__(f"{field} is {value!r}, but {requirement}. {remedy}")

    def about(self, field: str) -> InputError:
        """The same of a field that the user knows by another name."""
        return InputError(field, self.value, self.requirement, self.remedy)

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str, str]]:
        return type(self), (self.field, self.value, self.requirement, self.remedy)


def require_one_of(field: str, value: object, known: Iterable[object]) -> None:
    """InputError that names all that are known, unless the value is one of them."""
    some = known if isinstance(known, range) else list(known)
    if value not in some:
        words = f"{some[0]} to {some[-1]}" if isinstance(some, range) else ", ".join(map(str, some))
        raise InputError(field, value, f"it must be one of {words}", "Give one of these.")
