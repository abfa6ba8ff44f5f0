"""What the box does, in numbers that Prometheus reads.

The one idea: what is counted as it happens is in counters and histograms; what is a state (queue,
pages, learning) is looked up when somebody asks. Invariant: no label has values that come from a
request, so there are as many series as routes and statuses, and no words of anybody.
"""

from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from homebox.api.service import Service
from homebox.memory.lessons import STATES

# When each series began: twice as many lines, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: from a token of a small model on a card to a long prompt on a laptop.
FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
NEXT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The numbers of one daemon; counting is safe in any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "homebox_requests_total",
            "Requests by route and status",
            ["route", "status"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "homebox_tokens_total",
            "Tokens of prompts, those of them that were cached, and of answers",
            ["kind"],
            registry=self.registry,
        )
        self._first = Histogram(
            "homebox_time_to_first_token_seconds",
            "From the arrival of a request to its first token",
            buckets=FIRST,
            registry=self.registry,
        )
        self._next = Histogram(
            "homebox_inter_token_seconds",
            "Between two tokens of an answer",
            buckets=NEXT,
            registry=self.registry,
        )

    def watch(self, service: Callable[[], Service | None]) -> None:
        """Tell also of what is served; `service` gives it, or None during a switch."""
        self.registry.register(_States(service))

    def request(self, route: str, status: int) -> None:
        """Count a request that was answered; `route` is the pattern, not the path."""
        self._requests.labels(route, str(status)).inc()

    def first_token(self, seconds: float) -> None:
        """Note how long somebody waited for the first token."""
        self._first.observe(seconds)

    def token(self, seconds: float) -> None:
        """Note the time between two tokens."""
        self._next.observe(seconds)

    def ended(self, prompt: int, cached: int, completion: int) -> None:
        """Count the tokens of an answer that is over."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("cached").inc(cached)
        self._tokens.labels("completion").inc(completion)

    def page(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _States(Collector):
    """What is looked up when somebody asks."""

    def __init__(self, service: Callable[[], Service | None]) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service = self._service()
        up = GaugeMetricFamily("homebox_up", "1 while a model answers", value=service is not None)
        yield up
        if service is None:
            return
        active, waiting = service.engine.load
        yield GaugeMetricFamily("homebox_answers_running", "Answers in the making", value=active)
        yield GaugeMetricFamily("homebox_answers_waiting", "Answers in the queue", value=waiting)
        learning = service.engine.learning is not None
        yield GaugeMetricFamily("homebox_learning", "1 while the box learns", value=learning)
        yield from _learning(service)
        yield GaugeMetricFamily("homebox_context_tokens", "Context", value=service.context)
        prefixes = getattr(getattr(service.model, "prefixes", None), "statistics", None)
        if prefixes is not None:
            text = "Pages of keys and values that are kept, and those that no answer uses"
            pages = GaugeMetricFamily("homebox_prefix_pages", text, labels=["state"])
            pages.add_metric(["kept"], prefixes.kept_pages)
            pages.add_metric(["idle"], prefixes.idle_pages)
            yield pages
        for name, text, value in _counted(service):
            yield CounterMetricFamily(f"homebox_{name}", text, value=value)


def _learning(service: Service) -> Iterator[Metric]:
    """Give how far a learning run is, the lessons, and what they take of prompts."""
    progress = service.engine.learning.progress if service.engine.learning is not None else None
    total = getattr(progress, "total", 0)
    done = getattr(progress, "done", 0) / total if total else 0.0
    text = "How far the step is that a learning run is at, from 0 to 1"
    yield GaugeMetricFamily("homebox_learning_progress", text, value=done)
    lessons = GaugeMetricFamily("homebox_lessons", "Lessons by state", labels=["state"])
    for state in STATES:
        lessons.add_metric([state], len(service.ledger.lesson_names((state,))))
    yield lessons
    if service.memory is not None:
        saved = service.memory.saved(service.served.current)
        text = "Tokens that lessons take of each prompt, and those that the weights save"
        notes = GaugeMetricFamily("homebox_notes_tokens", text, labels=["kind"])
        notes.add_metric(["taken"], saved.tokens)
        notes.add_metric(["saved"], saved.saved)
        yield notes


def _counted(service: Service) -> Iterator[tuple[str, str, float]]:
    """Give what the model's prefix tree and its speculation have counted."""
    for part, source in (("prefix", "prefixes"), ("speculation", "speculation")):
        statistics = getattr(getattr(service.model, source, None), "statistics", None)
        if statistics is None:
            continue
        for name, value in statistics.as_dict().items():
            if isinstance(value, int | float):
                yield f"{part}_{name}", f"{part}: {name.replace('_', ' ')}", value
