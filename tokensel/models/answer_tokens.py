"""Which tokens answers begin with, behind a prompt."""

from collections.abc import Sequence
from typing import Any

from tokensel.data import LETTERS, Question
from tokensel.errors import TokenselError


class AnswerTokens:
    """The part of a `LoadedModel` that turns answers into token ids."""

    processor: Any
    path: str

    def prompt(self, question: Question, said: Sequence[str] = ()) -> str:
        """See `LoadedModel.prompt`."""
        raise NotImplementedError

    def letter_ids(self, n: int) -> list[int]:
        """The ids of the tokens that answer A, B, ... as the first word after the prompt, for n choices.

        Raises TokenselError if two letters have the same id.
        """
        if not 1 <= n <= len(LETTERS):
            raise TokenselError(f"{n} choices: must be from 1 to {len(LETTERS)}, one per letter")
        return self.word_ids(LETTERS[:n])

    def answer_ids(self, question: Question) -> list[int]:
        """The ids of the first token of each possible answer: the letters of the choices, or Yes and No."""
        return self.word_ids(question.choices) if question.form == "yes_no" else self.letter_ids(len(question.choices))

    def continuation(self, prompt: str, text: str) -> list[int]:
        """The ids of the tokens that continue a prompt with a text, behind a space if neither has white space there."""
        space = "" if prompt[-1:].isspace() or text[:1].isspace() else " "
        return self.ids_behind(prompt, prompt + space + text)

    def ids_behind(self, prompt: str, whole: str) -> list[int]:
        """The ids of the tokens that a longer text has behind those of the prompt, with which it begins."""
        plain, ids = self._token_ids(prompt), self._token_ids(whole)
        # The prompt's own tokens have run already, so a token that spans both cannot be used.
        return ids[len(plain) :] if ids[: len(plain)] == plain else self._token_ids(whole[len(prompt) :])

    def word_ids(self, words: Sequence[str]) -> list[int]:
        """The ids of the first tokens of these words where they follow the prompt.

        They are found by comparing the tokens of the prompt with and without the word, which works for any tokenizer.
        Raises TokenselError if two words have the same id.
        """
        prompt = self.prompt(Question(id="letters", text="?", choices=("yes", "no"), answer=0, image=None))
        # After "ASSISTANT:" the answer is " A"; after a template that ends in a line break or a space, "A".
        space = "" if prompt[-1:].isspace() else " "
        plain = self._token_ids(prompt)
        ids = []
        for word in words:
            answered = self._token_ids(prompt + space + word)
            ids.append(next(new for old, new in zip([*plain, None], answered, strict=False) if new != old))
        if len(set(ids)) < len(words):
            raise TokenselError(
                f"model.path={self.path}: the tokenizer does not write the answers {', '.join(words)} "
                "as one token each; scoring=letter needs that"
            )
        return ids

    def _token_ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
