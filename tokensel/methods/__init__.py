"""The methods, one file each; importing this package registers them."""

from tokensel.methods.base import (
    METHODS,
    Context,
    Method,
    Selection,
    make_method,
    register_method,
)
from tokensel.methods.fastv import FastV
from tokensel.methods.fps import FarthestPoint
from tokensel.methods.full import Full
from tokensel.methods.no_image import NoImage
from tokensel.methods.random import RandomSubset
from tokensel.methods.tome import MedoidToMe

__all__ = [
    "METHODS",
    "Context",
    "FarthestPoint",
    "FastV",
    "Full",
    "MedoidToMe",
    "Method",
    "NoImage",
    "RandomSubset",
    "Selection",
    "make_method",
    "register_method",
]
