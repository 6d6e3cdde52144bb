"""Refusals: why a question gets no answer. The HTTP side turns each into a problem.

Imports nothing. A refusal's text is always words of our own: never an exception's text, never what was sent.
"""


class Refusal(Exception):
    """A question that gets no answer; `detail` says why, `parameter` names the parameter at fault."""

    def __init__(self, detail: str, parameter: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.parameter = parameter


class Malformed(Refusal):
    """A value is not written as it must be, or is of the wrong type."""


class OutOfBounds(Refusal):
    """A well-formed value is beyond what may be asked."""


class NotFound(Refusal):
    """The question is fine, and nothing answers it."""


class NotNow(Refusal):
    """The question cannot be answered for now; ask again in `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
