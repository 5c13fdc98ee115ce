"""In what way an answer of a language model is malformed."""

from __future__ import annotations

from enum import StrEnum


class Flaw(StrEnum):
    """How an answer is malformed.

    `EMPTY`: there is nothing, or only thinking. `REFUSED`: the model declined, or a filter withheld the answer. `CUT`:
    the limit of tokens ended it. `TRUNCATED`: it ended without saying why. `BROKEN`: it can't be read as JSON, or not
    in one way only. `WRONG`: it is JSON, but not of the type. `AMBIGUOUS`: it says more than one thing.
    """

    EMPTY = "empty"
    REFUSED = "refused"
    CUT = "cut"
    TRUNCATED = "truncated"
    BROKEN = "broken"
    WRONG = "wrong"
    AMBIGUOUS = "ambiguous"


class Flawed(Exception):
    """Reading ends here. Not a `ValueError`: those are caught inside json5 and pydantic.

    Args:
        flaw: How the answer is malformed.
        problem: What is wrong with it, in words that can be sent back to the model.
    """

    def __init__(self, flaw: Flaw, problem: str) -> None:
        super().__init__(problem)
        self.flaw, self.problem = flaw, problem
