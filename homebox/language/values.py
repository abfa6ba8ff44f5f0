"""The names, places, things, numbers, times and dates that people's facts are made of.

Most values are spelled at random, so that a model can only answer by copying. A tenth of all
spellings, chosen by hash, is held out together with `UNSEEN`: training never draws them, and
evaluation draws nothing else.
"""

from hashlib import sha256

from homebox.language.dice import Dice

FIRST_NAMES = (
    "Adam Agnes Alma Amir Anton Astrid Beatrice Benno Carla Cecil Chloe Dagmar Daniel Edith "
    "Elias Ellen Esther Felix Fiona Frank Freya Gerda Grace Harry Hedwig Henry Ines Irene Ivan "
    "Jack James Jill Joan Johan Julia Kate Kurt Leon Leo Linda Lucy Luis Mabel Marta Mateo Meg "
    "Miriam Moritz Nadia Nina Noah Olga Olive Omar Otto Pablo Pia Priya Rachel Rosa Samir Simon "
    "Sofia Stella Susan Tara Theo Tina Ulla Vera Victor Walter Yara Zoe"
).split()
PLACE_NAMES = (
    "Aarhus Athens Bath Berlin Boston Bremen Bruges Cairo Chester Cologne Cork Dover Dublin "
    "Edinburgh Florence Galway Geneva Ghent Graz Helsinki Kiel Krakow Leeds Lima Lisbon London "
    "Lyon Madrid Mumbai Naples Oslo Oxford Paris Porto Prague Quito Riga Rome Seattle Seville "
    "Split Tokyo Toronto Turin Utrecht Venice Vienna Warsaw York Zurich"
).split()
THINGS = {
    "food": (
        "apples bacon bananas beans bread butter cabbage cheese cherries chips chocolate curry "
        "dumplings eggs figs garlic grapes honey kale lemons lentils mushrooms noodles nuts olives "
        "onions oranges pancakes pasta peaches peanuts pears peas pizza plums porridge potatoes "
        "prunes rice risotto salad sausages shrimps soup spinach stew strawberries toast tofu"
    ).split(),
    "drink": (
        "beer buttermilk cider cocoa coffee cola lemonade milk mocha punch sherry tea tonic "
        "water whisky wine"
    ).split(),
    "colour": (
        "amber beige black blue bronze brown cream crimson gold green grey indigo ivory lilac "
        "maroon mint navy orange pink purple red scarlet silver teal turquoise violet white yellow"
    ).split(),
    "job": (
        "actor archivist barber beekeeper bookbinder brewer builder butcher carpenter chemist "
        "cleaner clerk cook dancer dentist driver electrician farmer firefighter florist gardener "
        "glazier journalist judge lawyer librarian mason mechanic midwife miller miner nurse "
        "painter pharmacist photographer pilot plumber porter potter programmer roofer sailor "
        "singer tailor teacher translator vet waiter weaver welder writer"
    ).split(),
    "hobby": (
        "archery baking bowling boxing camping chess climbing cooking cycling dancing darts "
        "drawing fencing fishing gardening golf hiking hockey judo juggling karate knitting "
        "painting photography poker pottery reading riding rowing rugby running sailing sewing "
        "singing skating skiing snooker squash surfing swimming tennis weaving wrestling yoga"
    ).split(),
    "animal": (
        "badgers bats bears bees beavers bison camels cats cows crabs crows deer dogs dolphins "
        "donkeys ducks eagles elephants foxes frogs geese giraffes goats hares hawks hedgehogs "
        "hens horses koalas lambs lions lizards mice moles monkeys moths otters owls pandas "
        "penguins pigs ponies rabbits ravens seals sheep snails snakes spiders squirrels swans "
        "tigers toads turtles whales wolves zebras"
    ).split(),
    "plant": (
        "asters basil begonias birches bluebells cacti clover daffodils daisies ferns foxgloves "
        "holly irises ivy jasmine lavender lilacs lilies marigolds mint moss nettles orchids "
        "pansies peonies poppies primroses roses sage thyme tulips violets willows"
    ).split(),
    "instrument": (
        "accordion banjo bassoon cello clarinet cornet drums fiddle flute guitar harp horn "
        "mandolin oboe organ piano recorder saxophone tambourine trombone trumpet tuba ukulele "
        "viola violin whistle"
    ).split(),
    "thing": (
        "badges ballads bells books bottles boxes buttons clocks coins comics cups dolls fans "
        "feathers fossils globes hats jars keys knives lamps maps marbles masks medals mugs "
        "novels pebbles pens pins plates postcards posters puzzles records rings shells spoons "
        "stamps stones teapots tickets toys umbrellas vases"
    ).split(),
}
LANGUAGES = (
    "Arabic Basque Catalan Danish Dutch English Estonian Finnish French Gaelic German Greek Hindi "
    "Irish Italian Korean Latin Maltese Norwegian Persian Polish Romanian Russian Spanish Swedish "
    "Turkish Urdu Welsh"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()

UNSEEN_NAMES = (
    "Quark Thistle Ottoline Bartholomew Xiomara Ludwika Fenwick Guinevere Tobermory Wojciech "
    "Siobhan Pomeroy Anneliese Mwangi Kazimir Hildegard Okonkwo Persephone Brunhild Zebedee "
    "Marmaduke Evangeline Yevgeny Nkechi Thaddeus Bramwell Calypso Dunstan Ermintrude Faustina"
).split()
UNSEEN_PLACES = (
    "Zwolle Ljubljana Reykjavik Antwerp Tbilisi Gothenburg Wellington Kyoto Tromso Valparaiso "
    "Inverness Maastricht Szeged Penzance Yokohama Bergamo Oaxaca Winterthur Hobart Jaipur"
).split()
UNSEEN_THINGS = (
    "okonomiyaki ratatouille gnocchi kombucha axolotls theremin luthier falconry cartographer "
    "tamarind aubergine rhubarb origami spelunking magenta vermilion dulcimer bouzouki capybaras "
    "edelweiss hydrangeas elderflower halloumi mangosteen taxidermist bonsai"
).split()
UNSEEN = frozenset(word.lower() for word in UNSEEN_NAMES + UNSEEN_PLACES + UNSEEN_THINGS)

_STARTS = (
    "b c d f g h j k l m n p r s t v w z b d f g k l m n p r s t bl br ch cl cr dr fl fr gl gr "
    "kl kn pl pr qu sc sh sk sl sm sn sp st str sw th tr tw wh x y"
).split()
_VOWELS = "a e i o u a e i o u a e i o u y aa ai au ea ee ei ie io oa oo ou ua".split()
_ENDS = (
    "n r s l t m k d x n r s l b ck ff ft g ld lf ll lm lt mp nd ng nk ns nt p rd rk rm rn rt "
    "sh ss st th tz z"
).split()
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

CLOSED_KINDS = frozenset({"day"})
CAPITALISED_KINDS = frozenset({"name", "place", "language", "title"})


def held_out(value: str) -> bool:
    """Say whether training must never draw this value: every tenth spelling and all of `UNSEEN`."""
    low = value.lower()
    return low in UNSEEN or sha256(low.encode()).digest()[0] < 26


class Values:
    """Draws values of every kind: seen ones for training, held-out ones for evaluation."""

    def __init__(self, dice: Dice, unseen: bool = False, excluded: frozenset[str] = frozenset()):
        self._dice = dice
        self._unseen = unseen
        self._excluded = frozenset(word.lower() for word in excluded)

    def draw(self, kind: str) -> str:
        """Draw a value of a relation's kind; kinds without a list of their own are things."""
        dice = self._dice
        if kind == "day":
            return dice.pick(DAYS)
        while True:
            value = self._candidate(kind)
            if self._allowed(value):
                return value

    def _allowed(self, value: str) -> bool:
        if value.lower() in self._excluded:
            return False
        if self._unseen:
            return held_out(value)
        return not any(held_out(part) for part in (value, *value.split()))

    def _candidate(self, kind: str) -> str:
        dice = self._dice
        if kind == "number":
            return str(dice.between(2, 99) if dice.chance(0.5) else dice.between(100, 9999))
        if kind == "time":
            return f"{dice.between(0, 23)}:{dice.pick('012345')}{dice.pick('05')}"
        if kind == "date":
            return f"{dice.between(1, 31)} {dice.pick(MONTHS)}"
        words = [self._word(kind)]
        if not self._unseen and kind != "person":
            while len(words) < 3 and dice.chance(0.08):
                words.append(self._word(kind))
        return " ".join(words)

    def _word(self, kind: str) -> str:
        dice = self._dice
        known: list[str]
        if kind in ("name", "person"):
            known = FIRST_NAMES
        elif kind == "place":
            known = PLACE_NAMES
        elif kind == "language":
            known = LANGUAGES
        else:
            known = THINGS.get(kind) or THINGS["thing"]
        if self._unseen:
            capital = kind in CAPITALISED_KINDS or kind == "person"
            real = UNSEEN_NAMES if capital else UNSEEN_THINGS
            if dice.chance(0.3):
                return dice.pick(UNSEEN_PLACES if kind == "place" else real)
        elif kind != "title" and dice.chance(0.25):
            return dice.pick(known)
        word = self.spell()
        return word.capitalize() if kind in CAPITALISED_KINDS or kind == "person" else word

    def spell(self) -> str:
        """Spell a word of 3 to 12 letters that means nothing, in one of several manners."""
        dice = self._dice
        while True:
            manner = dice.below(10)
            if manner == 0:
                word = "".join(dice.pick(_LETTERS) for _ in range(dice.between(3, 7)))
            elif manner < 4:
                word = "".join(
                    dice.pick(_STARTS[:18]) + dice.pick("aeiou") for _ in range(dice.between(2, 4))
                )
                word += dice.pick(("", "", dice.pick(_ENDS[:9])))
            else:
                word = "".join(self._syllable() for _ in range(dice.weighted(_LENGTHS)))
            if 3 <= len(word) <= 12 and held_out(word) == self._unseen:
                return word

    def _syllable(self) -> str:
        dice = self._dice
        start = "" if dice.chance(0.08) else dice.pick(_STARTS)
        return start + dice.pick(_VOWELS) + ("" if dice.chance(0.5) else dice.pick(_ENDS))


_LENGTHS = ((1, 1.0), (2, 5.0), (3, 2.0))
