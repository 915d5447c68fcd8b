"""The training text of the `tiny` model: seeded little stories about a harbour, and short conversations.

Every document has a state (who, what, where, which weather) that its beginning sets and later parts
need, so that a model of half a million weights has something to attend to. Choices are weighted, the
first option most, so that the likeliest next token has a clear lead: engines that round differently
then write the same greedy text. All of it is written for llm-bench.
"""

import random
from dataclasses import dataclass

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
HEADER, HEADER_END, TURN_END = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
SPECIAL = [BEGIN, END, HEADER, HEADER_END, TURN_END]

# Each option is this many times as likely as the one before it. Phrases have a clear favourite (a
# lead of 0.5 nats). The subjects of a story vary more, or the model would guess them and not look
# back.
PHRASE_DECAY = 0.6
STATE_DECAY = 0.75

# name, pronoun, object pronoun, possessive
PEOPLE = [
    ("Mara", "she", "her", "her"),
    ("Tom", "he", "him", "his"),
    ("Ada", "she", "her", "her"),
    ("Ben", "he", "him", "his"),
    ("Nell", "she", "her", "her"),
    ("Jon", "he", "him", "his"),
    ("Rosa", "she", "her", "her"),
    ("Finn", "he", "him", "his"),
]
JOBS = ["sailor", "fisher", "baker", "painter", "builder"]
COLOURS = ["red", "blue", "green", "white", "black"]
BOATS = ["boat", "ship", "ferry"]
THINGS = ["lamp", "key", "rope", "bell", "map", "net", "hammer", "coat"]
LOOKS = ["old", "small", "good", "heavy", "new"]
PLACES = ["the harbour", "the island", "the lighthouse", "the market", "the bridge", "the mill"]
SPOTS = ["under the bench", "behind the door", "in the sand", "on the wall", "near the stairs"]
FOODS = ["bread", "soup", "fish", "cake", "tea"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

# sky, wind, what the sea does, what a sailor needs in it
WEATHERS = [
    ("grey", "cold", "The waves were high", "a strong rope"),
    ("blue", "warm", "The sea was calm", "a good sail"),
    ("dark", "strong", "The rain came down", "a dry coat"),
    ("white with fog", "soft", "The boats could not see the shore", "a bright lamp"),
]


class Choice:
    """Seeded, weighted choices; `random()` is the one generator call whose stream never changed."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def below(self, n: int) -> int:
        return int(self._random.random() * n)

    def chance(self, p: float) -> bool:
        return self._random.random() < p

    def pick(self, options, decay=PHRASE_DECAY):
        total = sum(decay**i for i in range(len(options)))
        x = self._random.random() * total
        for i, option in enumerate(options):
            x -= decay**i
            if x < 0:
                return option
        return options[-1]


@dataclass
class State:
    hero: tuple
    friend: tuple
    job: str
    friend_job: str
    colour: str
    boat: str
    look: str
    thing: str
    place: str
    spot: str
    food: str
    weather: tuple


def new_state(c: Choice) -> State:
    def pick(options, taken=None):
        return c.pick([o for o in options if o != taken], STATE_DECAY)

    hero, job = pick(PEOPLE), pick(JOBS)
    return State(
        hero=hero,
        friend=pick(PEOPLE, taken=hero),
        job=job,
        friend_job=pick(JOBS, taken=job),
        colour=pick(COLOURS),
        boat=pick(BOATS),
        look=pick(LOOKS),
        thing=pick(THINGS),
        place=pick(PLACES),
        spot=pick(SPOTS),
        food=pick(FOODS),
        weather=pick(WEATHERS),
    )


def a(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


def cap(text: str) -> str:
    return text[0].upper() + text[1:]


def lost(c: Choice, s: State) -> str:
    """Something is lost, somebody looks for it with a friend and finds it where the story says."""
    name, he, _, his = s.hero
    friend = s.friend[0]
    sky, wind, sea, _ = s.weather
    opening = c.pick([
        f"{name} was {a(s.job)} who lived near {s.place}. {cap(he)} had {a(s.look)} {s.thing} that {he} loved very much.",
        f"Near {s.place} there lived {a(s.job)} named {name}. {cap(he)} had {a(s.look)} {s.thing}.",
    ])
    loss = c.pick([
        f"One morning the {s.thing} was gone. The sky was {sky} and the wind was {wind}.",
        f"One morning the sky was {sky} and the wind was {wind}. {name} could not find the {s.thing}.",
    ])
    search = c.pick([
        f"{cap(he)} looked in the house and {he} looked in the garden, but the {s.thing} was not there.",
        f"{cap(he)} looked in {his} bag and {he} looked in the house, but the {s.thing} was not there.",
    ])
    ask = (
        f'So {name} went to {friend} the {s.friend_job}. "{friend}, have you seen my {s.thing}?" asked {name}. '
        + c.pick([
            f'"No," said {friend}, "but I will help you to look for it."',
            f'"Not today," said {friend}, "but we can look for it together."',
        ])
    )
    walk = c.pick([
        f"They walked to {s.place}. {sea}, but {name} and {friend} did not stop.",
        f"{name} and {friend} went to {s.place} and looked for a long time. {sea}.",
    ])
    found = c.pick([
        f'Then {friend} looked {s.spot}. "Here it is!" said {friend}. It was the {s.look} {s.thing}.',
        f'Then {name} looked {s.spot}. "Here it is!" said {name}. The {s.thing} was {s.spot}.',
    ])
    end = c.pick([
        f'"Thank you, {friend}," said {name}. In the evening they ate {s.food} at the house of {friend}, and the {s.thing} lay on the table.',
        f'{name} was happy. {cap(he)} took the {s.thing} home and gave {friend} some {s.food}.',
    ])
    return " ".join([opening, loss, search]) + "\n\n" + ask + "\n\n" + " ".join([walk, found, end])


def voyage(c: Choice, s: State) -> str:
    """A trip with cargo, through the weather named at the beginning."""
    name, he, him, _ = s.hero
    friend = s.friend[0]
    sky, wind, sea, need = s.weather
    place = c.pick(PLACES[1:], STATE_DECAY)
    opening = c.pick([
        f"{name} had a {s.colour} {s.boat}. Every day {he} sailed from the harbour to {place}.",
        f"There was a {s.colour} {s.boat} in the harbour. It belonged to {name}, {a(s.job)}.",
    ])
    task = c.pick([
        f"One day {friend} came to {him} and said, \"Please take this {s.food} to {place}.\" {name} said that {he} would do it.",
        f"One day {name} had to bring {s.food} to {friend}, who lived near {place}.",
    ])
    sail = c.pick([
        f"The sky was {sky} and the wind was {wind} when the {s.colour} {s.boat} left the harbour. {sea}.",
        f"When the {s.colour} {s.boat} left the harbour, the sky was {sky} and the wind was {wind}. {sea}.",
    ])
    need_text = c.pick([
        f'"In this weather I need {need}," said {name}. {cap(he)} had {need} on the {s.boat}, and so {he} was not afraid.',
        f"{name} was glad to have {need} on the {s.boat}.",
    ])
    arrive = c.pick([
        f"After two hours the {s.boat} came to {place}. The {s.food} was still good, and the people there were happy.",
        f"At noon {name} saw {place}. {cap(he)} tied up the {s.boat} and carried the {s.food} to the house.",
    ])
    end = c.pick([
        f'"You are a good {s.job}," said the people. In the evening {name} sailed home in the {s.colour} {s.boat}.',
        f"Then {he} slept on the {s.boat}, and in the morning the {s.colour} {s.boat} sailed home.",
    ])
    return " ".join([opening, task]) + "\n\n" + " ".join([sail, need_text]) + "\n\n" + " ".join([arrive, end])


def repair(c: Choice, s: State) -> str:
    """Something is broken; a friend has the tool; the price is the food of the story."""
    name, he, _, _ = s.hero
    friend = s.friend[0]
    broken, part, tool = c.pick([
        ("boat", "a hole in its side", "a hammer"),
        ("roof", "a hole over the bed", "a ladder"),
        ("net", "a big hole", "a needle"),
        ("bell", "a broken rope", "a knife"),
        ("door", "a broken lock", "a saw"),
    ], STATE_DECAY)
    day = c.pick(DAYS)
    opening = c.pick([
        f"On {day} {name} the {s.job} saw that the {broken} had {part}.",
        f"The {broken} of {name} the {s.job} was broken. On {day} {he} saw that it had {part}.",
    ])
    want = c.pick([
        f'"I must mend the {broken} today," said {name}, "but I have no tools. I need {tool}."',
        f'"I can mend the {broken}," said {name}, "but I need {tool} for it."',
    ])
    ask = c.pick([
        f"{cap(he)} went to {friend}, who was {a(s.friend_job)} and had many tools.",
        f"{cap(he)} walked to {s.place}, where {friend} the {s.friend_job} lived.",
    ])
    deal = c.pick([
        f'"You can have {tool}," said {friend}, "if you give me some {s.food}." "I will bring you the {s.food} on {DAYS[(DAYS.index(day) + 1) % 7]}," said {name}.',
        f'"Take {tool}," said {friend}. "I do not need it on {day}."',
    ])
    work = c.pick([
        f"{name} went home and worked all day. In the evening the {broken} was as good as new.",
        f"{name} worked for three hours, and then the {broken} was as good as new.",
    ])
    end = c.pick([
        f"On {DAYS[(DAYS.index(day) + 1) % 7]} {he} brought {friend} the {tool.split()[1]} and some {s.food}. {friend} laughed and said, \"Now we are friends.\"",
        f"{friend} came to see it. \"That is good work,\" said {friend}, and they ate {s.food} together.",
    ])
    return " ".join([opening, want]) + "\n\n" + " ".join([ask, deal]) + "\n\n" + " ".join([work, end])


def log_entry(c: Choice, s: State) -> str:
    """The harbour's log book: numbers that have to add up."""
    start = c.below(7)
    lines = ["The log of the harbour"]
    for i in range(3):
        sky, wind, sea, _ = c.pick(WEATHERS)
        out = 1 + c.below(4)
        stay = c.below(3)
        back = c.pick(FOODS[2:3] + ["crabs", "nothing"])
        left = f"{NUMBERS[stay - 1]} stayed in the harbour" if stay else "no boat stayed in the harbour"
        boats = "boat" if out == 1 else "boats"
        lines.append(
            f"{DAYS[(start + i) % 7]}: The sky was {sky} and the wind was {wind}. {sea}. "
            f"{cap(NUMBERS[out - 1])} {boats} went out and {left}. "
            f"In the evening {NUMBERS[out - 1]} {boats} came back with {back}."
        )
    return "\n".join(lines)


# Things to ask about, with one true answer each.
FACTS = [
    ("What is a boat for?", "A boat is for sailing on the sea. You can catch fish from it, and you can bring bread to the island."),
    ("What is a lamp for?", "A lamp gives light at night. In fog the sailors look for the lamp of the lighthouse."),
    ("Where is the lighthouse?", "The lighthouse is on the island, near the harbour. You can see its light from the bridge."),
    ("What do you eat?", "In the harbour we eat fish and bread. On Sunday there is cake."),
    ("How is the weather?", "The sky is blue and the wind is warm. It is a good day for sailing."),
    ("Who are you?", "I am a very small model. I know the harbour, the boats and the people who live there."),
    ("What is a rope for?", "A rope holds the boat in the harbour. In a strong wind you need a strong rope."),
    ("What is a bell for?", "A bell calls the boats home. In fog you can hear it from the sea."),
    ("Can you help me?", "Yes, I will help you. Tell me what you have lost, and we can look for it together."),
]
GREETINGS = [
    ("Hello", "Hello! Welcome to the harbour."),
    ("Good morning", "Good morning! The sea is calm today."),
    ("Hi", "Hi! Do you want to hear a story?"),
]


def turn(role: str, text: str) -> str:
    return f"{HEADER}{role}{HEADER_END}\n\n{text}{TURN_END}"


def talk(c: Choice, s: State) -> str:
    """One or two questions and answers in the form of the chat template."""
    turns = []
    if c.chance(0.3):
        turns.append(turn("system", "You live in the harbour and you answer in plain words."))
    if c.chance(0.3):
        hello, answer = c.pick(GREETINGS)
        turns += [turn("user", hello + c.pick(["", "!", "."])), turn("assistant", answer)]
    for _ in range(1 + c.below(2)):
        if c.chance(0.35):
            name = s.hero[0]
            told = f"{name} has {a(s.colour)} {s.boat} and {a(s.look)} {s.thing}."
            asked, answer = c.pick([
                (f"What colour is the {s.boat}?", f"The {s.boat} of {name} is {s.colour}."),
                (f"What does {name} have?", f"{name} has {a(s.colour)} {s.boat} and {a(s.look)} {s.thing}."),
                (f"Who has the {s.thing}?", f"{name} has the {s.look} {s.thing}."),
            ])
            turns += [turn("user", f"{told} {asked}"), turn("assistant", answer)]
            s = new_state(c)
        else:
            asked, answer = FACTS[c.below(len(FACTS))]
            turns += [turn("user", asked), turn("assistant", answer)]
    if c.chance(0.3):
        kind = c.pick([lost, voyage, repair])
        asked = c.pick(["Tell me a story.", f"Tell me a story about {s.hero[0]}.", "Please tell me a story."])
        turns += [turn("user", asked), turn("assistant", kind(c, s))]
    return "".join(turns)


def documents(seed: int, n_chars: int):
    """Yields documents, each with its begin and end marks, until they have `n_chars` characters."""
    c = Choice(seed)
    kinds = [lost] * 6 + [voyage] * 6 + [repair] * 5 + [talk] * 5 + [log_entry] * 2
    done = 0
    while done < n_chars:
        text = kinds[c.below(len(kinds))](c, new_state(c))
        done += len(text)
        yield BEGIN + text + END


if __name__ == "__main__":
    for document in documents(1, 6000):
        print(document, end="\n\n")
