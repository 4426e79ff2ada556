"""Names of made-up and real people, companies and towns, each for training or for testing only.

Knows nothing of sentences or questions. A *word* (one part of a name) belongs to the training set
or to the test set by a hash of its spelling, so the two never share a name part, whatever the seed.
"""

import hashlib
from dataclasses import dataclass
from itertools import count
from random import Random

HELD_OUT_SHARE = 8
"""One name part in this many is never used in training."""

ALWAYS_HELD_OUT = frozenset({"Charlotte", "Bennett", "Lisbon"})
"""Names that the documentation asks about, so kept out of training whatever their hash."""

_PATIENCE = 500
"""Draws after which a name may be one that is taken."""

_ONSETS = (
    "b br c ch cr d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z"
).split()
_VOWELS = ["a", "e", "i", "o", "u", "ae", "ai", "ea", "ee", "ia", "io", "oa", "ou"]
_CODAS = "b ck d l ld ll m n nd ng nn r rd rn rt s sk ss st t th x".split()

_FIRST_ENDINGS = ["a", "ia", "o", "en", "ar", "is", "el", "on", "ina", "us", "e", "y", "an", "or"]
_LAST_ENDINGS = [
    "er",
    "son",
    "ley",
    "ton",
    "man",
    "ford",
    "well",
    "berg",
    "stein",
    "ov",
    "ova",
    "ez",
    "ski",
    "ard",
    "ett",
    "in",
    "wood",
    "sen",
    "low",
    "ham",
]
_TOWN_ENDINGS = [
    "ton",
    "ville",
    "burg",
    "ford",
    "mouth",
    "field",
    "stad",
    "haven",
    "port",
    "by",
    "wick",
    "dale",
    "bridge",
    "ia",
    "ona",
    "ora",
    "in",
    "ar",
]
_COMPANY_KINDS = (
    "Foods Freight Bank Motors Press Labs Systems Energy Textiles Airlines Studios Steel Pharma "
    "Media Software Logistics Brewery Timber Insurance Robotics"
).split()

REAL_FIRST = (
    "James Mary Robert Patricia John Jennifer Michael Linda David Elizabeth William Barbara "
    "Richard Susan Joseph Jessica Thomas Sarah Charles Karen Daniel Lisa Matthew Nancy Anthony "
    "Betty Mark Margaret Donald Sandra Steven Ashley Paul Kimberly Andrew Emily Joshua Donna "
    "Kenneth Michelle Kevin Carol Brian Amanda George Melissa Edward Deborah Ronald Stephanie "
    "Timothy Rebecca Jason Laura Jeffrey Helen Ryan Sharon Jacob Cynthia Gary Kathleen Nicholas "
    "Amy Eric Angela Jonathan Anna Stephen Ruth Larry Brenda Justin Pamela Scott Nicole Brandon "
    "Katherine Benjamin Samantha Samuel Christine Gregory Emma Frank Catherine Alexander "
    "Virginia Raymond Rachel Patrick Janet Jack Maria Dennis Heather Jerry Diane Olivia Sophie "
    "Lucas Noah Liam Mia Ava Ethan Isabella Oliver Amelia Henry Grace Leo Chloe Oscar Ella "
    "Arthur Lily Hugo Freya Felix Clara Ivan Olga Boris Natasha Dmitri Elena Pavel Irina Sergei "
    "Yuri Carlos Lucia Miguel Carmen Diego Pablo Rosa Javier Ines Pedro Luis Sofia Antonio "
    "Giulia Marco Francesca Paolo Chiara Luca Hans Greta Klaus Ingrid Lars Astrid Sven Bjorn "
    "Anders Kirsten Pierre Claire Jean Camille Louis Amelie Henri Juliette Kenji Yuki Hiroshi "
    "Akira Sakura Wei Ming Arjun Priya Ravi Anita Sanjay Deepa Omar Fatima Hassan Layla Ali "
    "Amina Kwame Ama Kofi Zola Charlotte"
).split()
REAL_LAST = (
    "Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez "
    "Gonzalez Wilson Anderson Taylor Moore Jackson Martin Lee Perez Thompson White Harris "
    "Sanchez Clark Ramirez Lewis Robinson Walker Young Allen King Wright Torres Nguyen Hill "
    "Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter Roberts Gomez "
    "Phillips Evans Turner Diaz Parker Cruz Edwards Collins Reyes Stewart Morris Morales Murphy "
    "Cook Rogers Gutierrez Ortiz Morgan Cooper Peterson Bailey Reed Kelly Howard Ramos Kim Cox "
    "Ward Richardson Watson Brooks Chavez Wood James Gray Mendoza Ruiz Hughes Price Alvarez "
    "Castillo Sanders Patel Myers Long Ross Foster Jimenez Powell Jenkins Perry Russell "
    "Sullivan Bell Coleman Butler Henderson Barnes Fisher Vasquez Simmons Graham Murray Ford "
    "Hamilton Wallace Schmidt Fischer Weber Meyer Wagner Becker Hoffmann Schulz Koch Bauer "
    "Richter Klein Wolf Neumann Schwarz Zimmermann Braun Hofmann Hartmann Lange Werner Rossi "
    "Ferrari Russo Bianchi Romano Colombo Ricci Marino Greco Dubois Moreau Laurent Lefebvre "
    "Roux Fournier Girard Bonnet Dupont Lambert Ivanov Petrov Sokolov Popov Volkov Novak "
    "Kowalski Nowak Svensson Hansen Olsen Larsen Nielsen Jensen Tanaka Suzuki Watanabe Yamamoto "
    "Nakamura Kobayashi Singh Kumar Sharma Gupta Chen Wang Zhang Liu Huang Okafor Mensah Diallo "
    "Bennett Whitfield Ashworth Holloway Prescott Winslow"
).split()
REAL_TOWNS = (
    "London Paris Berlin Madrid Rome Vienna Prague Warsaw Dublin Oslo Stockholm Helsinki "
    "Copenhagen Athens Brussels Amsterdam Budapest Bucharest Sofia Zurich Geneva Munich Hamburg "
    "Cologne Frankfurt Milan Naples Turin Venice Florence Barcelona Valencia Seville Porto "
    "Lisbon Lyon Marseille Nice Toulouse Bordeaux Manchester Liverpool Leeds Bristol Glasgow "
    "Edinburgh Cardiff Belfast Oxford Cambridge York Boston Chicago Houston Phoenix Dallas "
    "Austin Seattle Denver Detroit Atlanta Miami Toronto Montreal Vancouver Ottawa Calgary "
    "Sydney Melbourne Brisbane Perth Auckland Wellington Tokyo Osaka Kyoto Nagoya Seoul Busan "
    "Beijing Shanghai Mumbai Delhi Chennai Cairo Nairobi Lagos Accra Tunis Casablanca Istanbul "
    "Ankara Moscow Kiev Minsk Riga Tallinn Vilnius Krakow Gdansk Salzburg Graz Basel Bern "
    "Antwerp Ghent Rotterdam Utrecht Bergen Uppsala Malmo Aarhus Turku Tampere Lima Quito "
    "Bogota Santiago Havana"
).split()


def is_held_out(word: str) -> bool:
    """Whether this name part is reserved for the test set (by its spelling alone)."""
    if word in ALWAYS_HELD_OUT:
        return True
    return hashlib.sha256(word.encode()).digest()[0] % HELD_OUT_SHARE == 0


def _blend(rng: Random, words: list[str]) -> str:
    """The beginning of one real name and the end of another: real spelling, new word."""
    head, tail = rng.choice(words), rng.choice(words)
    return head[: rng.randint(2, max(2, len(head) - 2))] + tail[-rng.randint(2, 4) :].lower()


def _syllables(rng: Random, count: int) -> str:
    word = ""
    for _ in range(count):
        word += rng.choice(_ONSETS) + rng.choice(_VOWELS)
        if rng.random() < 0.5:
            word += rng.choice(_CODAS)
    return word


def _invent(rng: Random, endings: list[str]) -> str:
    word = _syllables(rng, 1 if rng.random() < 0.9 else 2)
    return (word + rng.choice(endings)).capitalize()


_REAL_BY_KIND = {"first": REAL_FIRST, "last": REAL_LAST, "town": REAL_TOWNS}
_ENDINGS_BY_KIND = {"first": _FIRST_ENDINGS, "last": _LAST_ENDINGS, "town": _TOWN_ENDINGS}


@dataclass(frozen=True)
class NameSource:
    """Draws names of one split and one style.

    Attributes:
        held_out: draw only name parts that training never sees (or only those that it may see).
        style: "made_up" (syllables and blends), "real" (the lists above) or "mixed".
    """

    held_out: bool = False
    style: str = "mixed"

    def word(self, rng: Random, kind: str, taken: set[str]) -> str:
        """A name part of kind "first", "last" or "town" that is not in `taken`; adds it there.

        When the style has no more names to give, names are shared.
        """
        for attempt in count():
            draw = rng.random()
            if self.style == "real" or (self.style == "mixed" and draw < 0.3):
                word = rng.choice(_REAL_BY_KIND[kind])
            elif draw < 0.55:
                word = _blend(rng, _REAL_BY_KIND[kind])
            else:
                word = _invent(rng, _ENDINGS_BY_KIND[kind])
            fresh = word not in taken or attempt > _PATIENCE
            if 3 <= len(word) <= 11 and fresh and is_held_out(word) == self.held_out:
                break
        taken.add(word)
        return word

    def person(self, rng: Random, taken: set[str]) -> str:
        """A first and a last name, e.g. "Mira Halvorsen"."""
        return f"{self.word(rng, 'first', taken)} {self.word(rng, 'last', taken)}"

    def town(self, rng: Random, taken: set[str]) -> str:
        """A town or river, one word, e.g. "Tavrin"."""
        return self.word(rng, "town", taken)

    def company(self, rng: Random, taken: set[str]) -> str:
        """A company, e.g. "Halden Freight"."""
        return f"{self.word(rng, 'last', taken)} {rng.choice(_COMPANY_KINDS)}"
