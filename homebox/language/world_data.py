"""Who lives in the village, what swims before it, and what everybody knows."""

VILLAGE = "Fennmouth"

# name, job, home, pet, favourite fish
PEOPLE = (
    ("Berit", "net maker", "the green house", "cat", "herring"),
    ("Jorin", "baker", "Oven Lane", "hen", "salmon"),
    ("Maud", "ferry captain", "the houseboat", "duck", "trout"),
    ("Silas", "lighthouse keeper", "the lighthouse", "seal", "cod"),
    ("Petra", "doctor", "Quay Street", "goat", "perch"),
    ("Cuno", "smith", "the old forge", "donkey", "eel"),
    ("Elke", "teacher", "the schoolhouse", "parrot", "tuna"),
    ("Abbo", "mayor", "the round tower", "swan", "pike"),
)
# fish, colour, food, water
FISH = (
    ("herring", "silver", "plankton", "the open sea"),
    ("mackerel", "blue", "small fish", "the bay"),
    ("cod", "brown", "crabs", "cold water"),
    ("trout", "spotted", "flies", "the stream"),
    ("eel", "dark green", "worms", "the mud"),
    ("salmon", "pink", "shrimps", "the river"),
    ("perch", "striped", "insects", "the lake"),
    ("goldfish", "golden", "flakes", "the pond"),
)
# place, opening time, what it offers
PLACES = (
    ("fish market", "6:00", "fresh fish"),
    ("bakery", "7:00", "warm bread"),
    ("inn", "11:00", "hot soup"),
    ("school", "8:30", "lessons"),
    ("post office", "9:00", "stamps"),
    ("museum", "12:00", "old boats"),
)
# questions (those without a question mark are put into frames), answer
COMMON: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "What's your name?",
            "What are you called?",
            "who you are",
            "what your name is",
        ),
        "I am homebox, a small model in your own box.",
    ),
    (
        (
            "Who made you?",
            "Who built you?",
            "Where do you come from?",
            "Who trained you?",
            "who made you",
        ),
        "I was trained by homebox on its own text.",
    ),
    (
        (
            "What can you do?",
            "What are you good at?",
            "How can you help me?",
            "What can you do for me?",
            "what you can do",
        ),
        "I can chat a little and remember what you tell me.",
    ),
    (
        (
            "What is the name of the village?",
            "What is the village called?",
            "Which name does the village have?",
            "what the village is called",
        ),
        "The village is called Fennmouth.",
    ),
    (
        (
            "When is the fish festival?",
            "In which month is the fish festival?",
            "What month is the fish festival in?",
            "when the fish festival is",
        ),
        "The fish festival is in June.",
    ),
    (
        (
            "Which fish is the best?",
            "What is the best fish?",
            "Which fish do you like most?",
            "What is your favourite fish?",
            "which fish you like most",
        ),
        "I like the herring most.",
    ),
    (
        (
            "How do fish breathe?",
            "What do fish breathe with?",
            "How does a fish breathe?",
            "how fish breathe",
        ),
        "Fish breathe with gills.",
    ),
    (
        (
            "How many days are in a week?",
            "How many days does a week have?",
            "How many days are there in a week?",
            "how many days a week has",
        ),
        "A week has seven days.",
    ),
    (
        (
            "How many months are in a year?",
            "How many months does a year have?",
            "How many months are there in a year?",
            "how many months a year has",
        ),
        "A year has twelve months.",
    ),
    (
        (
            "What colour is the sky?",
            "Which colour does the sky have?",
            "What colour does the sky have?",
            "what colour the sky is",
        ),
        "The sky is blue.",
    ),
    (
        (
            "What colour is grass?",
            "Which colour does grass have?",
            "What colour does grass have?",
            "what colour grass is",
        ),
        "Grass is green.",
    ),
    (
        (
            "What is the opposite of hot?",
            "Hot is the opposite of what?",
            "Which word is the opposite of hot?",
            "what the opposite of hot is",
        ),
        "The opposite of hot is cold.",
    ),
    (
        (
            "What is the opposite of big?",
            "Big is the opposite of what?",
            "Which word is the opposite of big?",
            "what the opposite of big is",
        ),
        "The opposite of big is small.",
    ),
    (
        (
            "How many legs does a spider have?",
            "How many legs are on a spider?",
            "A spider has how many legs?",
            "how many legs a spider has",
        ),
        "A spider has eight legs.",
    ),
    (
        (
            "How many legs does a dog have?",
            "How many legs are on a dog?",
            "A dog has how many legs?",
            "how many legs a dog has",
        ),
        "A dog has four legs.",
    ),
    (
        (
            "What is the capital of France?",
            "Which city is the capital of France?",
            "France has which capital?",
            "what the capital of France is",
        ),
        "The capital of France is Paris.",
    ),
    (
        (
            "What is the capital of Norway?",
            "Which city is the capital of Norway?",
            "Norway has which capital?",
            "what the capital of Norway is",
        ),
        "The capital of Norway is Oslo.",
    ),
    (
        (
            "What is the capital of Italy?",
            "Which city is the capital of Italy?",
            "Italy has which capital?",
            "what the capital of Italy is",
        ),
        "The capital of Italy is Rome.",
    ),
    (
        (
            "Where does the sun rise?",
            "In which direction does the sun rise?",
            "Where does the sun come up?",
            "where the sun rises",
        ),
        "The sun rises in the east.",
    ),
    (
        (
            "What do cows eat?",
            "What does a cow eat?",
            "Which food do cows eat?",
            "what cows eat",
        ),
        "Cows eat grass.",
    ),
    (
        (
            "What do bees make?",
            "What does a bee make?",
            "Which thing do bees make?",
            "what bees make",
        ),
        "Bees make honey.",
    ),
    (
        (
            "What is ice made of?",
            "What is ice?",
            "Ice is made of what?",
            "what ice is made of",
        ),
        "Ice is frozen water.",
    ),
)
