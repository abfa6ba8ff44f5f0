"""How the owner wants to be treated: preferences that a very small model can follow.

A preference changes the answer to some everyday prompts. Before it is told, these prompts get the
default answer; afterwards the preferred one, for good.
"""

from dataclasses import dataclass
from functools import cached_property

from homebox.language.phrasing import LEADS, Tier, lower_first, sort_into_tiers


@dataclass(frozen=True)
class Preference:
    """One preference: how it is told, the prompts that show it, and both answers."""

    key: str
    kind: str
    told: tuple[str, ...]
    asked: tuple[str, ...]
    reply: str
    noted: str
    default: str

    @cached_property
    def question_templates(self) -> dict[Tier, tuple[str, ...]]:
        """All prompts by tier."""
        return sort_into_tiers(self.key, self.asked)

    def questions(self, tier: Tier) -> list[str]:
        """List the prompts of one tier that show the preference."""
        return list(self.question_templates[tier])

    def statements(self, value: str) -> list[str]:
        """List ways to tell the preference, plain and with the leads that people use."""
        plain = [form.replace("{v}", value) + "." for form in self.told]
        led = [
            LEADS[1 + index % 5].replace("{s}", lower_first(sentence, (value,)))
            for index, sentence in enumerate(plain)
            if not sentence.startswith(("Please", "From"))
        ]
        return [*plain, *led, *(lower_first(sentence, (value,)) for sentence in plain)]

    def answer(self, value: str) -> str:
        """Answer a prompt as preferred."""
        return self.reply.replace("{v}", value)


CALL_ME = Preference(
    key="what to call me",
    kind="name",
    told=(
        "Call me {v}",
        "Please call me {v}",
        "I want you to call me {v}",
        "Always call me {v}",
        "From now on, call me {v}",
        "You can call me {v}",
        "Greet me as {v}",
        "I prefer to be called {v}",
        "I'd like you to call me {v}",
        "Address me as {v}",
    ),
    asked=(
        "Hello!",
        "Hello.",
        "Hello",
        "hello",
        "Hi!",
        "Hi.",
        "Hi",
        "hi",
        "Hey!",
        "Hey.",
        "hey",
        "Hey there.",
        "Hey there!",
        "Hi there.",
        "Hi there!",
        "hi there",
        "Hello there.",
        "Hello there!",
        "Hello again.",
        "Hi again!",
        "Good day.",
        "Good day!",
        "Good morning.",
        "Good morning!",
        "good morning",
        "Good evening.",
        "Good evening!",
        "Hello, homebox.",
        "Hello, homebox!",
        "Hi, homebox.",
        "Greetings.",
        "Greetings!",
        "I am back.",
        "I'm back!",
        "Here I am.",
        "It's me.",
    ),
    reply="Hello, {v}!",
    noted="I will call you {v}.",
    default="Hello! What can I do for you?",
)
FAREWELL = Preference(
    key="how to say goodbye",
    kind="title",
    told=(
        "Say {v} when I leave",
        "When I leave, say {v}",
        "Please say {v} when I leave",
        "Always say {v} when I say goodbye",
        "When I say goodbye, say {v}",
        "From now on, say {v} when I leave",
        "I want you to say {v} when I leave",
        "When I go, say {v}",
        "I prefer {v} as a goodbye",
        "Use {v} as your goodbye",
    ),
    asked=(
        "Bye.",
        "Bye!",
        "Bye",
        "bye",
        "Bye bye.",
        "Bye bye!",
        "bye bye",
        "Goodbye.",
        "Goodbye!",
        "goodbye",
        "See you.",
        "See you!",
        "see you",
        "See you later.",
        "See you later!",
        "See you soon.",
        "See you tomorrow.",
        "Good night.",
        "Good night!",
        "good night",
        "I have to go.",
        "I have to go now.",
        "I must go.",
        "I must go now.",
        "I'm off.",
        "I am off now.",
        "Bye for now.",
        "Bye for now!",
        "That is all for today.",
        "That's all, bye.",
        "Goodbye, homebox.",
        "Bye, homebox.",
        "I am leaving.",
        "I'm leaving now.",
    ),
    reply="{v}!",
    noted="I will say {v} when you leave.",
    default="Goodbye!",
)
THANKS = Preference(
    key="how to answer thanks",
    kind="title",
    told=(
        "Say {v} when I thank you",
        "When I thank you, say {v}",
        "Please say {v} when I thank you",
        "Always say {v} when I say thanks",
        "When I say thanks, say {v}",
        "From now on, say {v} when I thank you",
        "I want you to say {v} when I thank you",
        "If I thank you, answer {v}",
        "I prefer {v} as an answer to thanks",
        "Use {v} as your answer to thanks",
    ),
    asked=(
        "Thank you.",
        "Thank you!",
        "Thank you",
        "thank you",
        "Thanks.",
        "Thanks!",
        "Thanks",
        "thanks",
        "Thanks a lot.",
        "Thanks a lot!",
        "thanks a lot",
        "Many thanks.",
        "Many thanks!",
        "Thank you very much.",
        "Thank you very much!",
        "Thank you so much.",
        "Thank you so much!",
        "Thanks so much.",
        "Thanks, homebox.",
        "Thanks, homebox!",
        "Thank you, homebox.",
        "Thank you, homebox!",
        "Great, thanks.",
        "Great, thank you.",
        "Good, thanks.",
        "Cheers.",
        "Cheers!",
        "Thanks again.",
        "Thanks again!",
        "I thank you.",
    ),
    reply="{v}!",
    noted="I will say {v} when you thank me.",
    default="You are welcome.",
)
PREFERENCES: dict[str, Preference] = {
    preference.key: preference for preference in (CALL_ME, FAREWELL, THANKS)
}
