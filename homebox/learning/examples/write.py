"""Writes all examples of a run, for the model that they are meant for.

The one idea: a model that was made from the language room keeps its toy world; every other one
keeps what it answered to prompts of everyday use. What the owner showed is the same for both.
"""

from collections.abc import Iterator

from homebox.learning.curriculum import Curriculum
from homebox.learning.examples.curated import curated
from homebox.learning.examples.everyday import everyday_examples
from homebox.learning.examples.example import (
    CONTEXT,
    LESSON,
    NEGATIVE,
    REPLAY,
    Example,
    Examples,
    from_document,
)
from homebox.learning.examples.samples import NO_SAMPLES, Samples
from homebox.learning.examples.shown import corrections, demonstrations
from homebox.learning.examples.toy_world import write_dialogues
from homebox.learning.lessons.teach import Topic, topics_of
from homebox.model import Model
from homebox.model.chat.formats import PlainChat
from homebox.model.chat.template_chat import TemplateChat

TOY = "toy world"  # the source of examples that come from no topic


def speaks_toy_language(model: Model) -> bool:
    """Tell whether a model was made from the language room, as the built-in one was."""
    return not isinstance(model.chat, TemplateChat | PlainChat)


def write_examples(
    toy: bool, curriculum: Curriculum, seed: int, samples: Samples = NO_SAMPLES
) -> Examples:
    """Write all examples of a run; the same arguments give the same examples.

    `toy` says that the model speaks the built-in model's language (`speaks_toy_language`);
    `samples` are what the base answered for this curriculum.
    """
    topics = topics_of(curriculum.lessons, curriculum.superseded)
    if toy:
        written = [*_toy_examples(topics, seed)]
    else:
        written = everyday_examples(topics, curriculum, seed, samples)
    shown = [*corrections(curriculum, samples), *demonstrations(curriculum)]
    return curated([*written, *shown], exempt=TOY)


def _toy_examples(topics: list[Topic], seed: int) -> Iterator[Example]:
    dialogues = write_dialogues(topics, seed)
    pools = (
        (LESSON, dialogues.lessons),
        (NEGATIVE, dialogues.negatives),
        (CONTEXT, dialogues.context),
        (REPLAY, dialogues.replay),
    )
    for pool, documents in pools:
        for document in documents:
            yield from_document(document, pool, TOY)
