"""The mistakes a user can make, each told in one line: the key, the value, and what is allowed."""


class TokenselError(ValueError):
    """A user's mistake. The message is one line that names the key, the value and what is allowed."""


class BadSampleError(TokenselError):
    """A question whose picture is missing or broken.

    question_id: the id of the question, so that a sweep can skip it and say so.
    """

    def __init__(self, message: str, question_id: str = "") -> None:
        super().__init__(message)
        self.question_id = question_id
