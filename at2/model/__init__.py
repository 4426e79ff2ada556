"""Everything that runs the language model: loading it, capturing its attention, ablating parts of
its input, and gradients. Works on token ids and ranges; knows no task.

Order of reading: `loading` → `capture` (a window into every attention layer) → `attention` (scores
and features from what is captured) → `ablation` → `gradients`.
"""
