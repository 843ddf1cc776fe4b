"""The values that settings choose from, for checks, messages and `--help`.

Imports nothing, so that a command can list them, or refuse another value, without loading torch. Imported by every
package.
"""

# Of a stage, see `tokensel.reduce_tokens`.
AGGREGATIONS = ("cross_attention", "learned", "mean", "none")
LAYOUTS = ("compact", "zero_fill", "mask")
POSITIONS = ("source", "front", "renumber")
# In which methods compute. float32: as methods are written. model: in the dtype of the model's hidden states.
PRECISIONS = ("float32", "model")
# Of a video: its frames are reduced together, or each by itself.
SCOPES = ("video", "frame")

# The group of entry points by which installed packages offer methods.
METHOD_ENTRY_POINTS = "tokensel.methods"

# Temperatures by which float32 can divide similarities.
LEAST_TEMPERATURE, LARGEST_TEMPERATURE = 1e-37, 1e37

# Of an evaluation.
SCORINGS = ("letter", "generate")
BAD_SAMPLE_POLICIES = ("error", "skip")

# Of a checkpoint that is loaded.
DTYPES = ("float32", "float16", "bfloat16", "auto")
QUANTIZATIONS = ("8bit", "4bit")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
