"""Train a score estimator and attribute with it. Run it whole, or cell by cell as a notebook."""

# %% [markdown]
# # Train AT2
# A few short texts take the place of a data set from the hub, and the default model that of a
# large one. With `datasets` installed, `load_dataset(…)` works just as well: anything with a length
# and examples by index does.

# %%
from pathlib import Path

from at2 import AT2Attributor, AT2Trainer
from at2.tasks import SimpleContextAttributionTask
from at2.utils import get_model_and_tokenizer

texts = [
    "The bakery on Mill Street opens at six. Its rye bread is sold out by nine on most days. "
    "On Wednesdays the owner teaches a class for eight people.",
    "Rain is expected in the north until Thursday. The coast stays dry, with winds of up to 60 "
    "kilometres an hour. Temperatures fall to four degrees at night.",
    "The committee met on 3 May. It approved the budget of 18,000 euros for new playground "
    "equipment. Ms Tanaka will ask three companies for offers.",
]
questions = ["What is the text about?", "Summarize the text in one sentence."]
examples = [{"context": text, "instruction": question} for text in texts for question in questions]
dataset, held_out = examples[:4], examples[4]

# %%
print(dataset[0])

# %%
model_name = "SmolLM2-135M-Instruct"
model, tokenizer = get_model_and_tokenizer(model_name)

# %% [markdown]
# A task for each example. Sources of training are single tokens; attribution may use others.


# %%
def task_from_example(example, model, tokenizer, source_type="token"):
    return SimpleContextAttributionTask(
        context=example["context"],
        query=example["instruction"],
        model=model,
        tokenizer=tokenizer,
        source_type=source_type,
        generate_kwargs={"max_new_tokens": 64, "do_sample": False},
    )


# %%
example = dataset[0]
task = task_from_example(example, model, tokenizer, source_type="sentence")
print("### Context ###")
print(example["context"][:500] + "..." if len(example["context"]) > 500 else example["context"])
print()
print("### Instruction ###")
print(example["instruction"])
print()
# Generates a response and caches relevant information for attribution
print("### Generated response ###")
print(task.generation)

# %%
print("Total sources:", task.num_sources)
# This is the first few sources (sentences from the context)
for i in range(3):
    print(f"Source #{i}:")
    print(task.sources[i].strip())
    print()

# %% [markdown]
# Three steps, each of which goes on where it was interrupted: responses, then features and the
# effects of ablations, then the estimator.

# %%
save_path = Path("outputs") / "test_context_smollm2"

trainer = AT2Trainer(
    save_path=save_path,
    dataset=dataset,
    model=model,
    tokenizer=tokenizer,
    task_from_example=task_from_example,
)

# %%
# To parallelize across multiple jobs, set `num_jobs` and `job_index`
trainer.generate()

# %%
# To parallelize across multiple jobs, set `num_jobs` and `job_index`
trainer.compute_features_and_outputs()

# %%
# A few examples without at least one valid sentence in the response are excluded
trainer.train(save_name="default")

# %% [markdown]
# Attribute a response that the estimator has not seen.

# %%
task = task_from_example(held_out, model, tokenizer, source_type="sentence")
task.show_target_with_indices()

# %%
attributor = AT2Attributor.from_path(
    task, trainer.save_path / "estimators" / "default" / "score_estimator.pt"
)
start, end = task.statements[0]
print(attributor.show_attribution(start=start, end=end, verbose=True))
