"""Attribute to several documents with a task of one's own. Run it whole, or cell by cell."""

# %% [markdown]
# # Several documents
# A subclass says what the prompt is and where the documents are in it. The examples have the shape
# of Hotpot QA: a question, and documents as lists of sentences.

# %%
from at2 import AT2Attributor, AT2ScoreEstimator
from at2.model.default import ESTIMATOR_PATH
from at2.tasks import ContextAttributionTask, Document, DocumentsContextAttributionTask
from at2.utils import get_model_and_tokenizer

model, tokenizer = get_model_and_tokenizer()
score_estimator = AT2ScoreEstimator.load(ESTIMATOR_PATH)

dataset = [
    {
        "question": "When does the harbour ferry leave on Sundays?",
        "context": {
            "title": ["Swimming pool", "Harbour ferry", "Museum"],
            "sentences": [
                ["The pool opens at seven.", "Lockers take a coin of one euro."],
                [
                    "The harbour ferry runs every day.",
                    "On weekdays it leaves at half past eight.",
                    "On Sundays it leaves at ten o'clock.",
                ],
                ["The museum is closed on Mondays.", "Guided tours start at noon."],
            ],
        },
    },
]


# %%
class HotpotQAAttributionTask(ContextAttributionTask):
    def __init__(self, example, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.example = example
        self._prompt, self._document_ranges = self.get_prompt_and_document_ranges()

    @property
    def query(self):
        return self.example["question"]

    def get_prompt_and_document_ranges(self):
        prompt = "Context: "
        document_ranges = []
        for sentences in self.example["context"]["sentences"]:
            passage = " ".join(sentences)
            document_ranges.append((len(prompt), len(prompt) + len(passage)))
            prompt += passage + "\n\n"
        return f"{prompt}Query: {self.query}", document_ranges

    @property
    def prompt(self):
        return self._prompt

    def _get_document_ranges(self):
        return self._document_ranges


# %%
task = HotpotQAAttributionTask(dataset[0], model, tokenizer, source_type="sentence")
print(task.input_text)

# %%
print(task.generation)

# %%
attributor = AT2Attributor(task, score_estimator)
print(attributor.show_attribution(verbose=True))

# %% [markdown]
# Documents with ids and titles need no subclass. Offsets of sources are those of each document.

# %%
example = dataset[0]
titles, sentences = example["context"]["title"], example["context"]["sentences"]
documents = [
    Document(" ".join(parts), id=f"doc-{number}", title=title)
    for number, (title, parts) in enumerate(zip(titles, sentences, strict=True))
]
task = DocumentsContextAttributionTask(
    documents, example["question"], model, tokenizer, source_type="sentence"
)
for source in AT2Attributor(task, score_estimator).attribute(top_k=3).sources:
    span = source.source
    print(source.rank, documents[span.document].id, (span.start, span.end), span.text)

# %% [markdown]
# The same at the level of whole documents: their scores are the sums of their tokens.

# %%
task = DocumentsContextAttributionTask(
    documents, example["question"], model, tokenizer, source_type="document"
)
for source in AT2Attributor(task, score_estimator).attribute().sources:
    print(source.rank, f"{source.score:.4f}", documents[source.source.document].title)
