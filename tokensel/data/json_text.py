"""JSON from files that others wrote."""

import json
from typing import Any


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises ValueError, in one line, for text that is not JSON, lists nested too deeply to be read, integers of thousands
    of digits, and escapes that are half of a character: none of these can be read, hashed and stored again.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise JSONTextError(f"not valid JSON ({error.msg})", error.lineno) from error
    except RecursionError as error:
        raise JSONTextError("lists or objects are nested too deeply") from error
    except UnicodeEncodeError as error:
        raise JSONTextError("an escape such as \\ud800 is half of a character") from error
    except ValueError as error:
        raise JSONTextError("an integer has too many digits") from error
    return value


class JSONTextError(ValueError):
    """What `parse_json` raises. line: where in the text, from 1, if that is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line
