"""General questions with short answers, for models that have a world of their own.

The one idea: what a model knew before is asked before and after, in words that no owner used, and
what the base itself answers is the text on which the candidate must not drift. Invariant: nothing
here is ever trained on.
"""

from homebox.language.turns import Document, assistant, user
from homebox.learning.exam.questions import Judge, Question, contains, words_of
from homebox.learning.exam.writing import GENERAL

# A question, and the words of which one must stand in the answer.
GENERAL_QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France?", ("paris",)),
    ("Which planet is closest to the sun?", ("mercury",)),
    ("How many days does a leap year have?", ("366",)),
    ("What is 7 times 8?", ("56", "fifty-six")),
    ("Which gas do plants take in from the air?", ("carbon dioxide", "co2")),
    ("Who wrote Romeo and Juliet?", ("shakespeare",)),
    ("What is frozen water called?", ("ice",)),
    ("Translate the French word 'merci' into English.", ("thank", "thanks")),
    ("Which ocean lies between Europe and North America?", ("atlantic",)),
    ("What is the opposite of hot?", ("cold", "cool")),
    ("How many legs does a spider have?", ("eight", "8")),
    ("Name the largest planet of the solar system.", ("jupiter",)),
    ("What colour do you get when you mix blue and yellow?", ("green",)),
    ("What is the plural of 'mouse'?", ("mice",)),
    ("Which metal is liquid at room temperature?", ("mercury",)),
    ("At how many degrees Celsius does water boil at sea level?", ("100", "hundred")),
    ("What is the square root of 81?", ("9", "nine")),
    ("On which continent is Egypt?", ("africa",)),
    ("What do bees make?", ("honey",)),
    ("Which month comes after April?", ("may",)),
    ("What does a thermometer measure?", ("temperature", "temperatures")),
    ("What is the chemical formula of water?", ("h2o",)),
    ("Who painted the Mona Lisa?", ("leonardo", "vinci")),
    ("How many minutes are in two hours?", ("120",)),
    ("What is the capital of Japan?", ("tokyo",)),
    ("Which animal is known for its black and white stripes?", ("zebra", "zebras")),
    ("What is 15 plus 27?", ("42", "forty-two")),
    ("In which direction does the sun rise?", ("east",)),
    ("Which language is spoken in Brazil?", ("portuguese",)),
    ("What force pulls things to the ground?", ("gravity",)),
    ("What is the past tense of 'go'?", ("went",)),
    ("How many sides does a hexagon have?", ("six", "6")),
    ("Which organ pumps blood through the body?", ("heart",)),
    ("What is the longest river in South America?", ("amazon",)),
    ("Name a fruit that is yellow and curved.", ("banana", "bananas")),
    ("Which day comes before Thursday?", ("wednesday",)),
    ("What is half of 90?", ("45", "forty-five")),
    ("Write the word 'stressed' backwards.", ("desserts",)),
    ("Which instrument has 88 keys?", ("piano",)),
    ("What do we call a scientist who studies the stars?", ("astronomer", "astrophysicist")),
)


def general_questions(count: int) -> list[Question]:
    """Return the first questions; their answers are always written to the end."""
    return [
        Question(
            GENERAL,
            [{"role": "user", "content": text}],
            wanted[0],
            text,
            judge=_says(wanted),
            general=True,
        )
        for text, wanted in GENERAL_QUESTIONS[:count]
    ]


def _says(wanted: tuple[str, ...]) -> Judge:
    return lambda answer: any(contains(words_of(answer), words_of(each)) for each in wanted)


def documents_of(questions: list[Question], answers: list[str], most: int) -> list[Document]:
    """Write what the base answered as documents, on which a candidate is compared with it."""
    pairs = zip(questions, answers, strict=True)
    found = [
        [user(question.messages[-1]["content"]), assistant(answer)]
        for question, answer in pairs
        if answer.strip()
    ]
    return found[:most]
