"""Functions and classes of lmms-eval, read from its files: importing the package takes ten seconds."""

import __future__

import ast
import importlib.util
import math
import random
import re
import statistics
import string
from pathlib import Path

import numpy as np
import pytest


def definitions(file: str, **known: object) -> dict[str, object]:
    """What `file` of the installed package defines: its functions, classes and constants, with `known` instead of what
    it imports. Skips the test where lmms-eval is not installed.
    """
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("lmms-eval is not installed")
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / file).read_text("utf-8"))
    kinds = ast.FunctionDef | ast.ClassDef
    tree.body = [each for each in tree.body if isinstance(each, kinds)]
    for each in tree.body:
        each.decorator_list = []
    found = {"re": re, "np": np, "math": math, "string": string, "random": random, "rd": random}
    found |= {"statistics": statistics} | known
    exec(compile(tree, file, "exec", flags=__future__.annotations.compiler_flag), found)
    return found
