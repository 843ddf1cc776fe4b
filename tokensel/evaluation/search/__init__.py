"""Searching for layers and counts: what one trial means, what it costs, and how it does on the validation questions.

Who proposes trials is not known here.
"""
