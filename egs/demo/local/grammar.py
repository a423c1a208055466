"""The command grammar that the demo corpus speaks: a few hundred words, a few million sentences."""

import random
import re
from collections import Counter
from collections.abc import Iterator

_SLOT = re.compile(r"<(\w+)>")

RULES: dict[str, str] = {
    "sentence": """
        <switch> the <device> in the <room> | <switch> the <adjective> <device> <when> | <switch> every <device> <place>
        set the <device> <place> to <number> percent | set the heating in the <room> to <number> degrees <when>
        play some <genre> in the <room> | play the <adjective> song by <artist> <when> | skip this <genre> track
        wake me <when> with <adjective> <genre> | set a timer for <number> <unit> | cancel the <number> <unit> timer
        call my <person> <when> | send the <adjective> message to my <person> | write to my <person> about the <topic>
        tell <artist> that the <topic> is <adjective> | remind my <person> to <chore> <when>
        remind me to <chore> <when>
        put <number> <goods> on the shopping list | buy <number> <measure> of <food> and <number> <goods>
        take <number> <measure> of <food> from the <room> | cook the <goods> for <number> minutes
        what is the weather in <city> <when> | will it <weather> in <city> or <city> | is it going to <weather> <when>
        show the <adjective> road from <city> to <city> | how far is it from <city> to the <building>
        drive to the <building> near the <building> | turn <direction> after the <building> and stop at the <building>
        book a table for <number> people <when> | move the <topic> with <artist> to <weekday>
        read the <adjective> letter from my <person> | open the <adjective> <opening> in the <room>
        close the <opening> <place> and lock it | walk <number> steps <direction> and pick up the <colour> <object>
        bring the <colour> <object> to the <room> | put the <colour> <object> on the <adjective> <furniture>
        feed the <animal> <when> | is the <animal> <place> | do not let the <animal> in the <room>
        water the <plant> <place> | are the <plant> <colour> | plant <number> <plant> near the <building>
        is there any <food> in the <room> | heat the <food> for <number> <unit> | i need <measure> of <food>
        find my <colour> <object> under the <furniture> | paint the <furniture> <colour> and the <opening> <colour>
        what did my <person> say about the <topic> | tickets from <city> to <city> <when> please
    """,
    "switch": "turn on | turn off | switch on | switch off | dim | check | start | repair",
    "device": "lamp | fan | radio | television | oven | heater | camera | speaker | printer | kettle | washing machine",
    "room": "kitchen | bedroom | bathroom | garage | hall | garden | office | cellar | nursery | attic | library",
    "place": "upstairs | downstairs | outside | in the <room> | near the <furniture> | behind the <opening>",
    "adjective": """
        small | large | old | new | quiet | loud | short | long | second | third | last | next | simple | broken
        famous | private | urgent | cheerful | gentle | ordinary
    """,
    "genre": "jazz | music | opera | folk | piano | guitar | drums | violin | dance | choir",
    "artist": "martin | susan | george | helen | victor | julia | oscar | linda | peter | alice | thomas | barbara",
    "person": "mother | father | brother | sister | uncle | cousin | doctor | teacher | neighbour | boss | daughter",
    "topic": """
        meeting | party | invoice | holiday | dinner | project
        contract | concert | journey | examination | lesson
    """,
    "chore": """
        wash the <object> | clean the <room> | call <artist> | pay the invoice | visit my <person> | fetch the <goods>
        walk the <animal> | finish the <topic> | cut the <plant>
    """,
    "animal": "dog | cat | horse | rabbit | goldfish | parrot | hamster",
    "plant": "roses | tomatoes | trees | flowers | tulips | bushes",
    "number": """
        two | three | four | five | six | seven | eight | nine | ten | eleven | twelve | thirteen | fourteen
        fifteen | sixteen | seventeen | eighteen | nineteen | twenty | thirty | forty | fifty | sixty | eighty | ninety
        twenty <digit> | thirty <digit> | forty <digit> | fifty <digit>
    """,
    "digit": "one | two | three | four | five | six | seven | eight | nine",
    "unit": "seconds | minutes | hours",
    "goods": """
        apples | lemons | onions | potatoes | carrots | eggs | bottles
        candles | batteries | pears | cakes | mushrooms
    """,
    "measure": "cups | bags | boxes | pounds | spoons | slices",
    "food": "sugar | flour | rice | butter | cheese | coffee | bread | honey | pepper | chocolate | chicken | soup",
    "city": """
        london | paris | boston | chicago | madrid | vienna | dublin | denver | houston | berlin | tokyo | sydney
        oxford | bristol | cardiff | geneva
    """,
    "building": """
        station | airport | church | market | hospital | museum | bridge
        school | castle | harbour | theatre | bank
    """,
    "weather": "rain | snow | freeze | clear up | get warm | get windy",
    "when": """
        <day> | <day> <daytime> | at <hour> o'clock | at half past <hour> | at <hour> in the <part> | before <hour>
        after lunch | this <part> | in <number> <unit>
    """,
    "day": "today | tomorrow | on <weekday>",
    "weekday": "monday | tuesday | wednesday | thursday | friday | saturday | sunday",
    "daytime": "morning | afternoon | evening | night",
    "part": "morning | afternoon | evening",
    "hour": "one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve",
    "direction": "left | right | forward | backward | north | south | east | west",
    "opening": "door | window | curtain | gate | blinds | roof",
    "colour": "red | blue | green | yellow | black | white | brown | purple | orange | silver",
    "object": "box | cup | book | ball | coat | shirt | hammer | basket | blanket | umbrella | plate | bicycle | towel",
    "furniture": "table | chair | shelf | sofa | desk | cupboard | bed | carpet | mirror | wardrobe",
}


def alternatives(rule: str) -> list[str]:
    """The right-hand sides of one rule; a line break parts them as a bar does."""
    return [side.strip() for side in re.split(r"[|\n]", RULES[rule]) if side.strip()]


def words() -> set[str]:
    """Every word that the grammar can say."""
    return {word for rule in RULES for side in alternatives(rule) for word in _SLOT.sub(" ", side).split()}


class Speaker:
    """Makes up sentences, and prefers the words that it has said least."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._said: Counter[tuple[str, str]] = Counter()

    def sentence(self) -> str:
        """One sentence: lower case, words and apostrophes only."""
        text = "<sentence>"
        while slot := _SLOT.search(text):
            text = text[: slot.start()] + self._choose(slot[1]) + text[slot.end() :]
        return text

    def _choose(self, rule: str) -> str:
        sides = alternatives(rule)
        weights = [(1 + self._said[rule, side]) ** -2 for side in sides]
        [side] = self._random.choices(sides, weights)
        self._said[rule, side] += 1
        return side


def unique_sentences(seed: int) -> Iterator[str]:
    """Sentences without end, none of them twice."""
    speaker = Speaker(seed)
    seen = set()
    while True:
        text = speaker.sentence()
        if text not in seen:
            seen.add(text)
            yield text
