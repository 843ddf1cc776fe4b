"""The methods, one file each; importing this package registers them."""

from tokensel.methods.base import (
    METHODS,
    Context,
    Method,
    Selection,
    Sizes,
    find_method,
    make_method,
    register_method,
)
from tokensel.methods.cdpruner import CDPruner
from tokensel.methods.dart import Dart
from tokensel.methods.density import DensityPeaks
from tokensel.methods.divprune import DivPrune
from tokensel.methods.fastv import FastV
from tokensel.methods.fps import FarthestPoint
from tokensel.methods.full import Full
from tokensel.methods.grid import Grid
from tokensel.methods.himap import HiMAP
from tokensel.methods.no_image import NoImage
from tokensel.methods.pool import Pool
from tokensel.methods.prumerge import PruMerge
from tokensel.methods.prumerge_plus import PruMergePlus
from tokensel.methods.pyramiddrop import PyramidDrop
from tokensel.methods.random import RandomSubset
from tokensel.methods.sparsevlm import SparseVLM
from tokensel.methods.tome import MedoidToMe
from tokensel.methods.tome_merge import ToMeMerge
from tokensel.methods.visionzip import VisionZip

__all__ = [
    "METHODS",
    "CDPruner",
    "Context",
    "Dart",
    "DensityPeaks",
    "DivPrune",
    "FarthestPoint",
    "FastV",
    "Full",
    "Grid",
    "HiMAP",
    "MedoidToMe",
    "Method",
    "NoImage",
    "Pool",
    "PruMerge",
    "PruMergePlus",
    "PyramidDrop",
    "RandomSubset",
    "Selection",
    "Sizes",
    "SparseVLM",
    "ToMeMerge",
    "VisionZip",
    "find_method",
    "make_method",
    "register_method",
]
