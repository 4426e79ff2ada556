"""What the made-up world can say: one entry per relation, with its phrasings.

Pure data. `{s}` stands for the subject, `{v}` for the value. Of each relation's sources and
questions the last one is held out: it is used only to measure how far the model generalises.
The value always follows the subject and the relation, so that a decoder, which reads from left to
right, knows what a value belongs to when it reads it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One attribute of a person, company or town.

    Attributes:
        subject: "person", "company" or "town".
        value: the kind of a named value ("person", "company", "town"), or "" when the value is one
            of `choices`.
        sources: ways in which a context states the fact; the last is held out.
        questions: ways to ask for it; the last is held out.
        answer: the one way in which the model answers.
    """

    name: str
    subject: str
    value: str
    sources: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    choices: tuple[str, ...] = ()


_JOBS = tuple(
    (
        "baker barber butcher carpenter chemist clerk cook dancer dentist designer doctor driver "
        "farmer florist gardener judge lawyer librarian mechanic miner nurse painter pharmacist "
        "photographer pilot plumber poet potter printer sailor sculptor singer surgeon tailor "
        "teacher translator waiter weaver"
    ).split()
)
_INSTRUMENTS = tuple(
    (
        "accordion banjo bassoon cello clarinet drums flute guitar harp horn mandolin oboe organ "
        "piano saxophone trombone trumpet tuba viola violin"
    ).split()
)
_PETS = tuple(
    (
        "canary cat dog donkey ferret goat goldfish hamster hedgehog horse lizard parrot pony "
        "rabbit sheep snake tortoise turtle"
    ).split()
)
_LANGUAGES = tuple(
    (
        "Arabic Basque Catalan Czech Danish Dutch Finnish Greek Hebrew Hindi Hungarian Italian "
        "Japanese Korean Latin Polish Portuguese Swahili Turkish Welsh"
    ).split()
)
_PRODUCTS = tuple(
    (
        "bicycles blankets boats bricks cameras candles carpets chairs clocks combs elevators "
        "engines furniture glass gloves helmets jewellery knives lamps lenses mirrors ovens paint "
        "paper pencils pianos pumps radios shoes soap sweets tents tiles toys tractors umbrellas "
        "watches windows"
    ).split()
)
_FAMOUS = tuple(
    (
        "apples beer bread bridges castle cathedral cheese cherries chocolate dances fountains "
        "gardens honey lace market museum oranges porcelain silver theatre tulips vineyards "
        "windmills"
    ).split()
)

RELATIONS: tuple[Relation, ...] = (
    Relation(
        "employer",
        "person",
        "company",
        (
            "{s} is employed by {v}.",
            "{s} works for {v}.",
            "{s} has a job at {v}.",
            "{s} joined {v} some years ago.",
            "{s} is on the staff of {v}.",
        ),
        (
            "Who does {s} work for?",
            "Which company employs {s}?",
            "Where does {s} work?",
            "What company does {s} work for?",
            "Who is the employer of {s}?",
        ),
        "{s} works for {v}.",
    ),
    Relation(
        "job",
        "person",
        "",
        (
            "{s} is a trained {v}.",
            "{s} earns a living as a {v}.",
            "By profession, {s} is a {v}.",
            "{s} has been a {v} for many years.",
            "{s} works as a {v}.",
            "{s} makes a living as a {v}.",
        ),
        (
            "What is the profession of {s}?",
            "What does {s} do for a living?",
            "What is {s}'s job?",
            "What is the occupation of {s}?",
            "What kind of work does {s} do?",
        ),
        "{s} is a {v}.",
        _JOBS,
    ),
    Relation(
        "home",
        "person",
        "town",
        (
            "{s} lives in {v}.",
            "{s} has a house in {v}.",
            "{s} moved to {v} last spring.",
            "The home of {s} is in {v}.",
            "{s} has settled in {v}.",
            "{s} rents a flat in {v}.",
        ),
        (
            "Where does {s} live?",
            "In which town does {s} live?",
            "Where is the home of {s}?",
            "What town does {s} live in?",
            "Where is {s} living?",
        ),
        "{s} lives in {v}.",
    ),
    Relation(
        "birthplace",
        "person",
        "town",
        (
            "{s} was born in {v}.",
            "{s} comes from {v}.",
            "{s} is a native of {v}.",
            "The birthplace of {s} is {v}.",
            "{s} grew up in {v}.",
            "{s} is originally from {v}.",
        ),
        (
            "Where was {s} born?",
            "Where does {s} come from?",
            "What is the birthplace of {s}?",
            "In which town was {s} born?",
            "Which town is {s} from?",
        ),
        "{s} was born in {v}.",
    ),
    Relation(
        "spouse",
        "person",
        "person",
        (
            "{s} is married to {v}.",
            "{s} married {v} in the summer.",
            "The spouse of {s} is {v}.",
            "{s} shares a home and a wedding ring with {v}.",
        ),
        (
            "Who is {s} married to?",
            "Who is the spouse of {s}?",
            "Who did {s} marry?",
            "Whom did {s} marry?",
        ),
        "{s} is married to {v}.",
    ),
    Relation(
        "instrument",
        "person",
        "",
        (
            "{s} plays the {v}.",
            "{s} practises the {v} every evening.",
            "{s} has played the {v} since childhood.",
            "On Sundays, {s} plays the {v}.",
            "{s} is learning the {v}.",
        ),
        (
            "What instrument does {s} play?",
            "Which instrument does {s} play?",
            "What does {s} play?",
            "Which musical instrument does {s} play?",
        ),
        "{s} plays the {v}.",
        _INSTRUMENTS,
    ),
    Relation(
        "pet",
        "person",
        "",
        (
            "{s} keeps a {v}.",
            "{s} owns a {v}.",
            "{s} has a {v} at home.",
            "{s} takes good care of a {v}.",
        ),
        (
            "What animal does {s} have?",
            "What pet does {s} have?",
            "Which animal does {s} own?",
            "What kind of pet does {s} own?",
        ),
        "{s} has a {v}.",
        _PETS,
    ),
    Relation(
        "language",
        "person",
        "",
        (
            "{s} speaks {v}.",
            "{s} is fluent in {v}.",
            "{s} learned {v} as a child.",
            "The mother tongue of {s} is {v}.",
            "{s} writes letters in {v}.",
        ),
        (
            "What language does {s} speak?",
            "Which language does {s} speak?",
            "What is the language of {s}?",
            "In which language is {s} fluent?",
        ),
        "{s} speaks {v}.",
        _LANGUAGES,
    ),
    Relation(
        "headquarters",
        "company",
        "town",
        (
            "{s} has its headquarters in {v}.",
            "{s} is based in {v}.",
            "The head office of {s} is in {v}.",
            "{s} runs its business from {v}.",
            "{s} has its main office in {v}.",
        ),
        (
            "Where is {s} based?",
            "Where is the head office of {s}?",
            "In which town is {s} based?",
            "Where are the headquarters of {s}?",
        ),
        "{s} is based in {v}.",
    ),
    Relation(
        "founder",
        "company",
        "person",
        (
            "{s} was founded by {v}.",
            "The founder of {s} is {v}.",
            "{s} was set up by {v}.",
            "{s} was started by {v}.",
        ),
        (
            "Who founded {s}?",
            "Who is the founder of {s}?",
            "Who set up {s}?",
            "Who started {s}?",
        ),
        "{s} was founded by {v}.",
    ),
    Relation(
        "product",
        "company",
        "",
        (
            "{s} makes {v}.",
            "{s} is known for its {v}.",
            "{s} sells {v} all over the world.",
            "The main product of {s} is {v}.",
            "{s} produces {v}.",
        ),
        (
            "What does {s} make?",
            "What is the main product of {s}?",
            "What does {s} sell?",
            "What does {s} produce?",
        ),
        "{s} makes {v}.",
        _PRODUCTS,
    ),
    Relation(
        "river",
        "town",
        "town",
        (
            "{s} lies on the river {v}.",
            "The river that runs through {s} is the {v}.",
            "The river of {s} is the {v}.",
            "{s} stands on the banks of the {v}.",
        ),
        (
            "Which river flows through {s}?",
            "On which river does {s} lie?",
            "What river is {s} on?",
            "What is the river of {s}?",
        ),
        "{s} lies on the river {v}.",
    ),
    Relation(
        "mayor",
        "town",
        "person",
        (
            "The mayor of {s} is {v}.",
            "{s} has elected {v} as its mayor.",
            "{s} has a mayor called {v}.",
            "The new mayor of {s} is {v}.",
        ),
        (
            "Who is the mayor of {s}?",
            "Who was elected mayor of {s}?",
            "What is the name of the mayor of {s}?",
            "Which mayor does {s} have?",
        ),
        "The mayor of {s} is {v}.",
    ),
    Relation(
        "famous_for",
        "town",
        "",
        (
            "{s} is famous for its {v}.",
            "Visitors come to {s} for its {v}.",
            "{s} is proud of its {v}.",
            "Everybody knows {s} for its {v}.",
        ),
        (
            "What is {s} famous for?",
            "What is {s} known for?",
            "What do visitors come to {s} for?",
            "What makes {s} famous?",
        ),
        "{s} is famous for its {v}.",
        _FAMOUS,
    ),
)

TELL_ME: tuple[str, ...] = (
    "Tell me about {s}.",
    "What do we know about {s}?",
    "What does the text say about {s}?",
    "Describe {s}.",
)
"""Questions for everything about one subject; the last is held out."""

FILLERS: tuple[str, ...] = (
    "The weather was mild that year.",
    "It rained for most of the week.",
    "The trains run every half hour.",
    "Nobody remembers how it began.",
    "The old bridge was closed for repairs.",
    "Many people came to the fair.",
    "The winter was long and cold.",
    "The shops close early on Mondays.",
    "A new road will be opened soon.",
    "The newspaper wrote about it at length.",
    "Prices have gone up again.",
    "The harvest was good this time.",
)
"""Sentences that answer nothing."""

NOT_MENTIONED = "The text does not say."
"""The answer when the context does not hold it."""
