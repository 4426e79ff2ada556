"""Procedurally generated contexts with questions, reference answers and their supporting sentences.

Knows nothing of tokens or models. One `Example` is one context with many questions about it, which
is also how training packs them; `flatten` gives one question at a time, as evaluation wants them.
"""

from dataclasses import dataclass, field
from random import Random

from trainer_jobs.bundled.names import NameSource
from trainer_jobs.bundled.relations import FILLERS, NOT_MENTIONED, RELATIONS, TELL_ME, Relation

_FILLER_SHARE = 0.08
_COMMON_SHARE = 0.85
_UNANSWERABLE_SHARE = 0.16
_ENTITY_KINDS = ("person", "person", "person", "company", "town")
"""Drawn uniformly: most subjects are people."""


@dataclass(frozen=True)
class Question:
    """One query about a context.

    Attributes:
        kind: "single" (one fact), "about" (one or two facts in source order) or "absent".
        statements: the sentences of the reference answer.
        support: the index of the context's sentence that says what each statement says; empty
            when the context does not say it.
    """

    kind: str
    query: str
    statements: tuple[str, ...]
    support: tuple[int, ...]

    @property
    def answer(self) -> str:
        """The reference answer."""
        return " ".join(self.statements)


@dataclass(frozen=True)
class Example:
    """A context and questions about it. `kept[i]` is False for a sentence hidden from the model."""

    sentences: tuple[str, ...]
    separators: tuple[str, ...]  # what follows each sentence; the last is ""
    questions: tuple[Question, ...]
    kept: tuple[bool, ...]

    @property
    def context(self) -> str:
        """The whole context as one string (hidden sentences included)."""
        return "".join(s + sep for s, sep in zip(self.sentences, self.separators, strict=True))


@dataclass(frozen=True)
class Fact:
    """A relation between a subject and a value, both as written."""

    relation: Relation
    subject: str
    value: str


@dataclass(frozen=True)
class World:
    """Settings of the generator.

    Attributes:
        names: where names come from.
        held_out_phrasings: use only the held-out source and question phrasings.
        removal: the chance that an example hides sentences, half of them on average.
        dense: the chance that a context tells the same few things about many subjects, so that
            neither the subject nor the relation alone finds the answer.
        about: the share of questions that ask for everything about one subject.
    """

    names: NameSource = field(default_factory=NameSource)
    held_out_phrasings: bool = False
    removal: float = 0.0
    dense: float = 0.0
    about: float = 0.16

    def example(self, rng: Random, num_sentences: int, num_questions: int) -> Example:
        """One context of `num_sentences` sentences with `num_questions` questions."""
        facts = self._facts(rng, num_sentences)
        sentences = tuple(
            rng.choice(FILLERS) if fact is None else self._state(rng, fact) for fact in facts
        )
        separator = "\n" if rng.random() < 0.1 else " "
        separators = [separator if rng.random() > 0.05 else "\n\n" for _ in sentences]
        separators[-1] = ""
        kept = [True] * num_sentences
        if rng.random() < self.removal:
            kept = [rng.random() < 0.5 for _ in sentences]
        questions = self._questions(rng, facts, kept, num_questions)
        return Example(sentences, tuple(separators), tuple(questions), tuple(kept))

    def _phrasing(self, rng: Random, phrasings: tuple[str, ...]) -> str:
        return phrasings[-1] if self.held_out_phrasings else rng.choice(phrasings[:-1])

    def _state(self, rng: Random, fact: Fact) -> str:
        return self._phrasing(rng, fact.relation.sources).format(s=fact.subject, v=fact.value)

    def _facts(self, rng: Random, num_sentences: int) -> list[Fact | None]:
        """Facts about subjects with one to four facts each, in any order; None is a filler."""
        taken: set[str] = set()
        facts: list[Fact | None] = []
        common = self._common_relations(rng)
        while len(facts) < num_sentences:
            kind = common[0].subject if common else rng.choice(_ENTITY_KINDS)
            subject = self._name(rng, kind, taken)
            if common:
                relations = [r for r in common if rng.random() < _COMMON_SHARE]
            else:
                relations = [r for r in RELATIONS if r.subject == kind]
                relations = rng.sample(relations, min(rng.randint(1, 4), len(relations)))
            for relation in relations:
                facts.append(Fact(relation, subject, self._value(rng, relation, facts, taken)))
        facts = facts[:num_sentences]
        for index in range(1, num_sentences):
            if rng.random() < _FILLER_SHARE:
                facts[index] = None
        if rng.random() < 0.6:
            rng.shuffle(facts)
        return facts

    def _common_relations(self, rng: Random) -> list[Relation]:
        """The few relations of a dense context; none for any other."""
        if not self.dense or rng.random() >= self.dense:
            return []
        kind = rng.choice(_ENTITY_KINDS)
        return rng.sample([r for r in RELATIONS if r.subject == kind], rng.randint(1, 3))

    def _name(self, rng: Random, kind: str, taken: set[str]) -> str:
        if kind == "person":
            return self.names.person(rng, taken)
        if kind == "company":
            return self.names.company(rng, taken)
        return self.names.town(rng, taken)

    def _value(
        self, rng: Random, relation: Relation, facts: list[Fact | None], taken: set[str]
    ) -> str:
        if relation.choices:
            return rng.choice(relation.choices)
        if rng.random() < 0.15:  # people share towns and employers now and then
            shared = [
                f.value for f in facts if f is not None and f.relation.value == relation.value
            ]
            if shared and relation.value in ("town", "company"):
                return rng.choice(shared)
        return self._name(rng, relation.value, taken)

    def _questions(
        self, rng: Random, facts: list[Fact | None], kept: list[bool], count: int
    ) -> list[Question]:
        subjects = list(dict.fromkeys(f.subject for f in facts if f is not None))
        if not subjects:
            return [self._absent(rng, self._stranger(rng, "person", set())) for _ in range(count)]
        questions = []
        indices = [i for i, fact in enumerate(facts) if fact is not None]
        for _ in range(count):
            draw = rng.random()
            if draw < self.about:
                questions.append(self._about(rng, rng.choice(subjects), facts, kept))
            elif draw < self.about + _UNANSWERABLE_SHARE:
                questions.append(self._unanswerable(rng, facts))
            else:
                index = rng.choice(indices)
                questions.append(self._single(rng, facts[index], index, kept[index]))
        return questions

    def _single(self, rng: Random, fact: Fact | None, index: int, kept: bool) -> Question:
        assert fact is not None
        query = self._phrasing(rng, fact.relation.questions).format(s=fact.subject)
        if not kept:
            return Question("absent", query, (NOT_MENTIONED,), ())
        answer = fact.relation.answer.format(s=fact.subject, v=fact.value)
        return Question("single", query, (answer,), (index,))

    def _about(
        self, rng: Random, subject: str, facts: list[Fact | None], kept: list[bool]
    ) -> Question:
        query = self._phrasing(rng, TELL_ME).format(s=subject)
        known = [
            (i, f)
            for i, f in enumerate(facts)
            if f is not None and f.subject == subject and kept[i]
        ][:2]
        if not known:
            return Question("absent", query, (NOT_MENTIONED,), ())
        statements = tuple(f.relation.answer.format(s=f.subject, v=f.value) for _, f in known)
        return Question("about", query, statements, tuple(i for i, _ in known))

    def _unanswerable(self, rng: Random, facts: list[Fact | None]) -> Question:
        """A relation that the context never states for its subject, or a subject it never names."""
        present = [f for f in facts if f is not None]
        fact = rng.choice(present)
        if rng.random() < 0.3:
            taken = {word for f in present for word in f"{f.subject} {f.value}".split()}
            return self._absent(rng, self._stranger(rng, fact.relation.subject, taken))
        stated = {f.relation.name for f in present if f.subject == fact.subject}
        others = [
            r for r in RELATIONS if r.subject == fact.relation.subject and r.name not in stated
        ]
        if not others:
            return self._absent(rng, self._stranger(rng, fact.relation.subject, set()))
        if self.dense:  # prefer what the context does say of somebody else
            told = {f.relation.name for f in present}
            others = [r for r in others if r.name in told] or others
        return self._absent(rng, (rng.choice(others), fact.subject))

    def _stranger(self, rng: Random, kind: str, taken: set[str]) -> tuple[Relation, str]:
        relation = rng.choice([r for r in RELATIONS if r.subject == kind])
        return relation, self._name(rng, kind, set(taken))

    def _absent(self, rng: Random, asked: tuple[Relation, str]) -> Question:
        relation, subject = asked
        query = self._phrasing(rng, relation.questions).format(s=subject)
        return Question("absent", query, (NOT_MENTIONED,), ())
