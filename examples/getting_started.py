"""Which sentences of a context did the model use? Run it whole, or cell by cell as a notebook."""

# %% [markdown]
# # Getting started
# Load a model. The default one, SmolLM2-135M-Instruct, needs no download; a larger one answers
# better, such as `microsoft/Phi-4-mini-instruct` with the estimator
# `madrylab/at2-phi-4-mini-instruct`.

# %%
from pathlib import Path

from at2 import AT2Attributor, AT2ScoreEstimator
from at2.display import attribution_page
from at2.model.default import ESTIMATOR_PATH
from at2.tasks import SimpleContextAttributionTask
from at2.utils import get_model_and_tokenizer

model, tokenizer = get_model_and_tokenizer()

# %% [markdown]
# An attribution task is a prompt, the response to it, and sources: here the sentences of a context.

# %%
context = (
    "The town library reopens on Monday after eight months of building work. The reading room on "
    "the second floor now has sixty seats. Children will find their books in the old map room. "
    "The work cost 2.4 million euros, most of it paid by the county. Opening hours stay the same: "
    "from ten to seven on weekdays."
)
task = SimpleContextAttributionTask(
    context=context,
    query="How much did the work cost?",
    model=model,
    tokenizer=tokenizer,
    source_type="sentence",
)
print(task.generation)  # written when it is first asked for

# %%
print("Total sources:", task.num_sources)
for i in range(3):
    print(f"Source #{i}: {task.sources[i].strip()}")

# %% [markdown]
# The statements of the response with their characters, to choose a span by.

# %%
task.show_target_with_indices()

# %%
attributor = AT2Attributor.from_path(task, ESTIMATOR_PATH)
start, end = task.statements[0]
print(attributor.show_attribution(start=start, end=end, verbose=True))

# %% [markdown]
# The scores themselves; any other span costs a slice and a sum.

# %%
scores = attributor.get_attribution_scores(start=start, end=end)
print(scores.shape, scores.dtype)

attribution = attributor.attribute(*task.find_span("The work cost"))
for source in attribution.sources[:2]:
    place = f"{source.source.start}-{source.source.end}"
    print(source.rank, f"{source.score:.4f}", place, source.source.text)

# %% [markdown]
# Load the estimator once to attribute many responses.

# %%
score_estimator = AT2ScoreEstimator.load(ESTIMATOR_PATH)
attributor = AT2Attributor(task, score_estimator)
print(attributor.highlight_attribution(start=start, end=end))

# %% [markdown]
# A page to keep or to send: one file, nothing loaded from elsewhere.

# %%
Path("attribution.html").write_text(attribution_page(attributor), encoding="utf-8")
print("wrote attribution.html")
