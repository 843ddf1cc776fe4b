"""Methods that choose visual tokens, one file each; importing this package registers them.

Imports models (what the vision tower computed), functional and errors. The engine and every package above it may import
this one.
"""

from tokensel.methods.apet import ApET
from tokensel.methods.base import Method, OrderingMethod, ScoringMethod
from tokensel.methods.cdpruner import CDPruner
from tokensel.methods.context import Context, ContextSource, Selection
from tokensel.methods.dart import Dart
from tokensel.methods.density import DensityPeaks
from tokensel.methods.divprune import DivPrune
from tokensel.methods.downsample import Downsample
from tokensel.methods.fastervlm import FasterVLM
from tokensel.methods.fastv import FastV
from tokensel.methods.fastvid import FastVID
from tokensel.methods.feather import Feather
from tokensel.methods.flowcut import FlowCut
from tokensel.methods.fps import FarthestPoint
from tokensel.methods.full import Full
from tokensel.methods.grid import Grid
from tokensel.methods.himap import HiMAP
from tokensel.methods.holov import HoloV
from tokensel.methods.lookup import find_method, make_method
from tokensel.methods.mmtok import MMTok
from tokensel.methods.no_image import NoImage
from tokensel.methods.pact import Pact
from tokensel.methods.pool import Pool
from tokensel.methods.prumerge import PruMerge
from tokensel.methods.prumerge_plus import PruMergePlus
from tokensel.methods.prunesid import PruneSID
from tokensel.methods.pyramiddrop import PyramidDrop
from tokensel.methods.random import RandomSubset
from tokensel.methods.registry import METHODS, register_method
from tokensel.methods.scope import Scope
from tokensel.methods.semantic import Semantic
from tokensel.methods.sizes import Sizes
from tokensel.methods.sparsevlm import SparseVLM
from tokensel.methods.temporal_merge import TemporalMerge
from tokensel.methods.tome import MedoidToMe
from tokensel.methods.tome_merge import ToMeMerge
from tokensel.methods.visionzip import VisionZip
from tokensel.methods.vispruner import VisPruner
from tokensel.methods.vscan import VScan

__all__ = [
    "METHODS",
    "ApET",
    "CDPruner",
    "Context",
    "ContextSource",
    "Dart",
    "DensityPeaks",
    "DivPrune",
    "Downsample",
    "FarthestPoint",
    "FastV",
    "FastVID",
    "FasterVLM",
    "Feather",
    "FlowCut",
    "Full",
    "Grid",
    "HiMAP",
    "HoloV",
    "MMTok",
    "MedoidToMe",
    "Method",
    "NoImage",
    "OrderingMethod",
    "Pact",
    "Pool",
    "PruMerge",
    "PruMergePlus",
    "PruneSID",
    "PyramidDrop",
    "RandomSubset",
    "Scope",
    "ScoringMethod",
    "Selection",
    "Semantic",
    "Sizes",
    "SparseVLM",
    "TemporalMerge",
    "ToMeMerge",
    "VScan",
    "VisPruner",
    "VisionZip",
    "find_method",
    "make_method",
    "register_method",
]
