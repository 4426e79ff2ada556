"""Attribute an answer to the thoughts before it. Run it whole, or cell by cell as a notebook."""

# %% [markdown]
# # Thoughts
# A reasoning model writes thoughts, `</think>`, and then its response. The sources are the
# sentences of the thoughts, the target is what follows. With a model that thinks, such as
# `deepseek-ai/DeepSeek-R1-Distill-Qwen-7B` (estimator
# `madrylab/at2-deepseek-r1-distill-qwen-7b`), `task.response` is generated. The default model does
# not think, so here its output is written by hand.

# %%
from at2 import AT2Attributor, AT2FeatureExtractor
from at2.model.default import ESTIMATOR_PATH
from at2.tasks import SimpleThoughtAttributionTask
from at2.utils import get_model_and_tokenizer

model, tokenizer = get_model_and_tokenizer()

# %%
query = "A train leaves at 9:40 and takes 2 hours and 35 minutes. When does it arrive?"
task = SimpleThoughtAttributionTask(query, model, tokenizer, source_type="sentence")
task.set_generation(
    "The train leaves at 9:40. Two hours later it is 11:40. Another 35 minutes make it 12:15."
    "\n</think>\n\nThe train arrives at 12:15. It is on the way for 155 minutes."
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
start, end = (0, 27)
print(attributor.show_attribution(start=start, end=end, verbose=True))

# %%
print(attributor.highlight_attribution(start=start, end=end))
