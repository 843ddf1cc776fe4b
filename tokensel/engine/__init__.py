"""The reduced forward: a stock decoder whose visual tokens become fewer on the way.

May import methods, models, data, functional and errors. Imported by evaluation, compat, analysis and runners.
"""
