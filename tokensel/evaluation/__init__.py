"""Measuring: accuracy of many grid points in one pass, times, FLOPs, statistics, the store and its keys.

May import every package of tokensel but compat. Imported by compat, analysis and runners.
"""
