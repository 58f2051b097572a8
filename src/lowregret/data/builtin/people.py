"""Made-up people, each with five facts drawn uniformly, so that the bits of a person are known exactly."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

FIRST_NAMES = (
    "Ada Alma Amos Anna Bela Boris Cara Cleo Dara Dion Edda Elio Emma Enzo Esme Ezra Faye Finn Gala Gino Hana Hugo Ida "
    "Igor Iris Ivan Jana Jonas Juno Kai Kira Knut Lara Leon Lena Lev Lola Luca Maja Marc Mila Milo Nada Nils Nora Odin "
    "Olga Otto Petra Pablo Quin Rhea Remo Rosa Ruben Sana Sven Tara Theo Uma Ugo Vera Viktor Zoe"
).split()
LAST_NAMES = (
    "Abel Adler Almeida Arden Baker Barlow Becker Berg Blum Brandt Carver Castro Chen Cole Cruz Dahl Dale Dunn Engel "
    "Falk Faber Ford Frost Garza Grant Haas Hale Hart Holm Ito Jansen Keller Kerr Klein Kovac Lang Lund Marsh Meyer "
    "Moss Nash Novak Ortiz Park Peri Quist Reed Rossi Sato Shaw Silva Stone Tanaka Torres Udall Vance Vega Vogel Wall "
    "Weber Wolf Yates York Zeller"
).split()

CITIES = (
    "Accra Athens Bergen Bogota Cairo Cusco Dakar Delhi Dublin Genoa Ghent Hanoi Havana Izmir Kyoto Lagos Lima Lisbon "
    "London Lyon Madrid Malmo Milan Nairobi Oslo Paris Prague Quito Riga Rome Seoul Turin"
).split()
YEARS = tuple(str(year) for year in range(1940, 2004))
JOBS = (
    "actor baker banker barber brewer builder butcher chemist clerk cook dancer dentist diver doctor driver editor "
    "farmer florist judge lawyer miner nurse painter pilot plumber poet potter sailor singer tailor teacher writer"
).split()
EMPLOYERS = (
    "Acorn Alpine Amber Apex Aurora Beacon Birch Cedar Cobalt Comet Condor Copper Coral Delta Echo Ember Falcon "
    "Harbor Indigo Ivory Jade Lotus Maple Meridian Nova Onyx Orchid Quartz Raven Saffron Summit Zephyr"
).split()
HOBBIES = (
    "archery bowling cards chess cycling fishing golf hiking judo knitting magic rowing sewing skating surfing tennis"
).split()


@dataclass(frozen=True)
class Attribute:
    """One fact about a person, and the wordings in which it is told and asked."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    """With {name} and {value}."""
    questions: tuple[str, ...]
    """With {name}; the last two are kept for the test of `builtin:biographies`."""


def _attribute(name: str, values: list[str] | tuple[str, ...], statements: str, questions: str) -> Attribute:
    def lines(block: str) -> tuple[str, ...]:
        return tuple(line.strip() for line in block.strip().splitlines())

    return Attribute(name, tuple(values), lines(statements), lines(questions))


ATTRIBUTES = (
    _attribute(
        "city",
        CITIES,
        """{name} was born in {value}.
        {name} comes from {value}.
        The birthplace of {name} is {value}.
        {value} is where {name} was born.""",
        """Where was {name} born?
        In which city was {name} born?
        What is the birthplace of {name}?
        Where does {name} come from?
        Which city is {name} from?
        Name the city where {name} was born.
        {name} was born in what city?
        What city does {name} come from?""",
    ),
    _attribute(
        "year",
        YEARS,
        """{name} was born in the year {value}.
        The birth year of {name} is {value}.
        {value} is the year in which {name} was born.
        In {value}, {name} was born.""",
        """When was {name} born?
        In which year was {name} born?
        What is the birth year of {name}?
        What year was {name} born in?
        Which year is the birth year of {name}?
        Name the year when {name} was born.
        {name} was born in what year?
        Tell me the year in which {name} was born.""",
    ),
    _attribute(
        "job",
        JOBS,
        """{name} works as a {value}.
        {name} is a {value} by trade.
        The job of {name} is {value}.
        {name} earns a living as a {value}.""",
        """What is the job of {name}?
        What does {name} do for a living?
        Which job does {name} have?
        What does {name} work as?
        What trade does {name} follow?
        Name the job of {name}.
        {name} works as what?
        How does {name} earn a living?""",
    ),
    _attribute(
        "employer",
        EMPLOYERS,
        """{name} is employed by {value}.
        {name} works at {value}.
        The employer of {name} is {value}.
        {value} is the company that employs {name}.""",
        """Who employs {name}?
        Which company employs {name}?
        What is the employer of {name}?
        At which company does {name} work?
        Where is {name} employed?
        Name the employer of {name}.
        {name} is employed by which company?
        For which company does {name} work?""",
    ),
    _attribute(
        "hobby",
        HOBBIES,
        """{name} enjoys {value}.
        The hobby of {name} is {value}.
        {name} spends free time on {value}.
        {value} is what {name} likes most.""",
        """What is the hobby of {name}?
        What does {name} enjoy?
        Which hobby does {name} have?
        What does {name} like most?
        How does {name} spend free time?
        Name the hobby of {name}.
        {name} enjoys which hobby?
        What does {name} do for fun?""",
    ),
)

TEST_QUESTIONS = 2
BITS_PER_PERSON = sum(math.log2(len(attribute.values)) for attribute in ATTRIBUTES)


@dataclass(frozen=True)
class Person:
    """A name and one value for each of ATTRIBUTES."""

    name: str
    facts: tuple[str, ...]


def draw_people(count: int, seed: int, *, known: bool) -> list[Person]:
    """`count` people with distinct names and uniform facts.

    `known` people are the ones that the bundled bases were pretrained on; the names of the others never meet theirs.
    """
    generator = random.Random(f"people {seed} {known}")
    names = [
        f"{first} {last}"
        for i, first in enumerate(FIRST_NAMES)
        for j, last in enumerate(LAST_NAMES)
        if ((i + j) % 2 == 0) == known
    ]
    if count > len(names):
        raise ValueError(f"at most {len(names)} people have names here, not {count}")
    return [
        Person(name, tuple(generator.choice(attribute.values) for attribute in ATTRIBUTES))
        for name in generator.sample(names, count)
    ]
