"""Attribute an answer to the thoughts before it. Run it whole, or cell by cell as a notebook."""

# %% [markdown]
# # Thoughts
# A reasoning model writes thoughts, `</think>`, and then its response. The sources are the
# sentences of the thoughts, the target is what follows. With a model that thinks, such as
# `deepseek-ai/DeepSeek-R1-Distill-Qwen-7B` (estimator
# `madrylab/at2-deepseek-r1-distill-qwen-7b`), `task.response` is generated. The bundled model does
# not think, so here its output is written by hand.

# %%
from at2 import AT2Attributor, AT2FeatureExtractor
from at2.bundled import ESTIMATOR_PATH
from at2.tasks import SimpleThoughtAttributionTask
from at2.utils import get_model_and_tokenizer

model, tokenizer = get_model_and_tokenizer("bundled")

# %%
query = "Where does Charlotte Bennett live?"
task = SimpleThoughtAttributionTask(query, model, tokenizer, source_type="sentence")
task.set_generation(
    "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon. "
    "Omar Whitfield plays the cello.\n</think>\n\n"
    "Charlotte Bennett lives in Lisbon. Halden Freight employs Charlotte Bennett."
)
print(task.thoughts)
print(task.response)

# %%
feature_extractor = AT2FeatureExtractor.from_model(model)
print(feature_extractor.num_layers, "layers ×", feature_extractor.num_heads, "heads")
attributor = AT2Attributor.from_path(task, ESTIMATOR_PATH)

# %%
task.show_target_with_indices()

# %%
start, end = (0, 34)
print(attributor.show_attribution(start=start, end=end, verbose=True))

# %%
print(attributor.highlight_attribution(start=start, end=end))
