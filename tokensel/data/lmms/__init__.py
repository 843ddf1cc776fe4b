"""The tasks of lmms-eval, a public collection of benchmarks, as questions; their documents, words and scores are
lmms-eval's own.

lmms-eval is imported only when such a task is loaded.
"""
