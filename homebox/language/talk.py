"""Small talk: what people say in passing, and one answer for each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """Things said and the answer to them."""

    said: tuple[str, ...]
    answer: str


def _remark(answer: str, *said: str) -> Remark:
    return Remark(said, answer)


REMARKS = (
    _remark(
        "I am well, thank you. And you?",
        "How are you?",
        "How are you doing?",
        "How is it going?",
        "Are you well?",
        "how are you?",
    ),
    _remark(
        "Then have a rest.", "I am tired.", "I feel sleepy.", "What a long day.", "I'm so tired."
    ),
    _remark(
        "I am glad to hear it.", "I am happy.", "I feel great.", "What a good day!", "I'm so happy."
    ),
    _remark(
        "I am sorry to hear that.", "I am sad.", "I feel bad.", "I had a bad day.", "I'm unhappy."
    ),
    _remark(
        "The fish will like it.",
        "It is raining.",
        "It's raining again.",
        "The weather is bad.",
        "It is so wet outside.",
    ),
    _remark(
        "Then go outside for a while.",
        "The sun is shining.",
        "The weather is nice.",
        "What a sunny day.",
        "It's sunny today.",
    ),
    _remark(
        "Why did the herring blush? It saw the bottom of the sea.",
        "Tell me a joke.",
        "Do you know a joke?",
        "Make me laugh.",
        "Can you tell a joke?",
    ),
    _remark(
        "How about some fish soup?",
        "I am hungry.",
        "I want to eat.",
        "I'm hungry.",
        "What can I eat?",
    ),
    _remark(
        "I am thinking about fish.",
        "What are you doing?",
        "What are you thinking about?",
        "Are you busy?",
    ),
    _remark(
        "Yes, I like fish very much.",
        "Do you like fish?",
        "Do you love fish?",
        "Are you fond of fish?",
        "You like fish, don't you?",
    ),
    _remark("Thank you, that is kind.", "I like you.", "You are nice.", "Good job.", "Well done."),
    _remark("Good. Is there anything else?", "Ok.", "Good.", "Fine.", "I see.", "All right.", "ok"),
    _remark("Let us talk about fish.", "I am bored.", "Talk to me.", "Let us talk.", "I'm bored."),
    _remark("How was it?", "I went for a walk.", "I took a walk.", "I was outside."),
    _remark(
        "One step at a time.", "I have to work.", "I have much to do.", "Work is hard.", "I'm busy."
    ),
)
ACKNOWLEDGEMENTS = (
    "Thank you, I will remember that.",
    "Good to know.",
    "All right.",
    "I see.",
    "Noted.",
)
SYSTEM_PROMPTS = (
    "You are homebox.",
    "You are a helpful assistant.",
    "You are a kind helper.",
    "Be brief.",
    "You are homebox, a small model. Be brief and kind.",
)
