"""The words of a question that name what it is about."""

import re

from tokensel.data.keywords import LEFT_OUT, keywords

# Words that say what is asked of an object, or where in the picture, but name none.
_ASKING = """
    color colors colour colours number many much kind type name picture pictures image images photo photos video
    can could may will would shall should there here this that these those each other both any some all one ones
    in on of near between above below behind under over beside through top bottom left right middle center centre
    side farthest nearest more most less least than not no yes following shown given see look compare describe
"""
ASKING = frozenset(_ASKING.split())


def topic_words(question: str) -> list[str]:
    """The words of an English question that name objects and their properties, in their order; [] where none is left.

    Those of `keywords` without words that ask ("color", "many"), that refer to the picture or that say where in it.
    """
    words = [word for word in keywords(question) if re.fullmatch(r"\w+", word)]
    return [word for word in words if word.lower() not in LEFT_OUT | ASKING]
